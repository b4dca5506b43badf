"""Words of ss that several kinds of socket share, and names that it looks up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

from analyzer.screen.cells import printable

Row: TypeAlias = Mapping[str, object]
"""Columns of ``sockets`` by name; NULL is None."""

Word: TypeAlias = tuple[Callable[[Row], str], tuple[str, ...]]
"""A word that ss prints of a socket, and the columns that it is made of."""

_ARROWS = ("<->", "-->", "<--", "---")
_SKMEM = (
    *(("r", "rmem_alloc"), ("rb", "rcvbuf"), ("t", "wmem_alloc"), ("tb", "sndbuf")),
    *(("f", "fwd_alloc"), ("w", "wmem_queued"), ("o", "optmem")),
)
_SKMEM_LATER = (("bl", "backlog"), ("d", "drops"))
_MEM = (("r", "rmem"), ("w", "wmem"), ("f", "fmem"), ("t", "tmem"))
MEMORY = tuple(column for _, column in (*_SKMEM, *_SKMEM_LATER, *_MEM))
OWNER = ("pid", "comm", "fd", "owner_by", "inode")
_NO_RANGE = (1024, 4999)


@dataclass(frozen=True, slots=True)
class Options:
    """What ss is asked to show of each socket."""

    numeric: bool = False
    resolve: bool = False
    processes: bool = False
    timers: bool = False
    extended: bool = False
    memory: bool = False
    info: bool = False
    tos: bool = False
    cgroup: bool = False
    sockopt: bool = False
    bpf: bool = False
    tipcinfo: bool = False
    oneline: bool = False

    @property
    def options(self) -> bool:
        """Whether timers and the options of TCP are shown."""
        return self.timers or self.extended or self.bpf


@dataclass
class Names:
    """What ss looks up: services, protocols and hosts of this machine, processes by number."""

    options: Options
    ranges: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By namespace, the ports that are never named."""
    processes: Mapping[int, str] = field(default_factory=dict)
    protocol: str | None = None
    """The protocol whose services are named: that of the table shown last, as in ss."""

    def port(self, number: int, netns: int) -> str:
        """Return a port as ss prints it."""
        if number == 0:
            return "*"
        if self.options.numeric:
            return str(number)
        if self.protocol == "raw":
            return _protocol(number)
        low, high = self.ranges.get(netns, _NO_RANGE)
        return str(number) if low <= number <= high else _service(number, self.protocol)

    def host(self, address: str) -> str:
        """Return an address, or the name of the host that has it if that is asked for."""
        return _host(address) if self.options.resolve else address


@lru_cache(1 << 16)
def _service(number: int, protocol: str | None) -> str:
    try:
        name = socket.getservbyport(number, protocol) if protocol else socket.getservbyport(number)
    except (OSError, OverflowError):
        return str(number)
    return printable(name)


@lru_cache(256)
def _protocol(number: int) -> str:
    try:
        with open("/etc/protocols", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.partition("#")[0].split()
                if len(words) > 1 and words[1] == str(number):
                    return printable(words[0])
    except OSError:
        pass
    return f"ipproto-{number}"


@lru_cache(1 << 12)
def _host(address: str) -> str:
    try:
        return printable(socket.gethostbyaddr(address)[0])
    except OSError:
        return address


class Declared(dict[str, object]):
    """A row of the columns that a word is said to be made of: to ask for another is an error."""

    def get(self, column: str, default: object = None) -> object:
        return self[column]


def whole(row: Row, column: str) -> int:
    """Return a number, 0 where there is none."""
    value = row.get(column)
    return int(value) if isinstance(value, int) else 0  # flags are bool


def signed(value: int) -> int:
    """Return what the kernel gives unsigned and ss keeps in an int."""
    return (value + 0x80000000) % 0x100000000 - 0x80000000


def text(row: Row, column: str) -> str:
    """Return a text of the recording, which may be a stranger's."""
    return printable(str(row[column]))


def interface(row: Row) -> str:
    """Return the name of the interface a socket is bound to."""
    return text(row, "dev") if row.get("dev") is not None else f"if{whole(row, 'interface')}"


def users(row: Row) -> str:
    """Return the process that is known to hold a socket by a descriptor."""
    if row.get("pid") is None or not row.get("inode") or row.get("owner_by") not in (None, "fd"):
        return ""
    comm = "" if row.get("comm") is None else text(row, "comm")
    return f' users:(("{comm}",pid={row["pid"]},fd={whole(row, "fd")}))'


def timer(milliseconds: int) -> str:
    """Return a time as ss 6.1 prints it, 1.5 s as 1.500ms."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    told = ""
    if minutes:
        rest = 0
        told = f"{minutes}min"
        seconds = 0 if minutes > 9 else seconds
    if seconds:
        rest = 0 if seconds > 9 else rest
        told += f"{seconds}." if rest else f"{seconds}sec"
    return told + (f"{rest:03}ms" if rest else "")


def memory(row: Row) -> str:
    """Return the memory of a socket."""
    if row.get("rmem_alloc") is not None:
        told = [f"{word}{whole(row, name) % 2**32}" for word, name in _SKMEM]
        told += [
            f"{word}{whole(row, name) % 2**32}"
            for word, name in _SKMEM_LATER
            if row.get(name) is not None
        ]
        return f" skmem:({','.join(told)})"
    if row.get("rmem") is not None:
        return f" mem:({','.join(f'{word}{whole(row, name) % 2**32}' for word, name in _MEM)})"
    return ""


def arrows(row: Row) -> str:
    """Return which directions are shut."""
    return "" if row.get("shutdown") is None else f" {_ARROWS[whole(row, 'shutdown') & 3]}"


def cgroup(row: Row) -> str:
    """Return the cgroup, or its number where it is gone."""
    if row.get("cgroup") is not None:
        return f" cgroup:{text(row, 'cgroup')}"
    return f" cgroup:unreachable:{whole(row, 'cgroup_id') % 2**64:x}"


def user(row: Row) -> str:
    return f" uid:{row['uid']}" if row.get("uid") else ""


def inode(row: Row) -> str:
    return f" ino:{whole(row, 'inode')}"


def mark(row: Row) -> str:
    return f" fwmark:0x{whole(row, 'mark'):x}" if row.get("mark") else ""


def member(row: Row) -> str:
    """Return the cgroup of what is in one."""
    return cgroup(row) if row.get("cgroup_id") else ""


def identity(row: Row, cookie: int) -> str:
    """Return user, inode, cookie, mark and cgroup."""
    return f"{user(row)}{inode(row)} sk:{cookie % 2**64:x}{mark(row)}{member(row)}"
