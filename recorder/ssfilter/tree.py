"""What a filter of ss means: states, families, and a tree of conditions on one socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from recorder.schema import SockrecError

Side: TypeAlias = Literal["local", "peer"]

STATES = (
    "ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK LISTEN "
    "CLOSING"
).split()
"""As ss prints them, from the kernel's 1 on."""

INET, INET6 = "inet", "inet6"
NO_RANGE = (1024, 4999)
"""What ss takes for the ports that the kernel chooses from where it cannot read them."""

FAMILIES = ("unix", "link", "netlink", "vsock", INET, INET6)
"""Families that a condition on a host may name, as ss spells them."""


class FilterError(SockrecError):
    """A filter that means nothing: what is wrong, and in a second line where."""

    def __init__(self, what: str, text: str, start: int, end: int) -> None:
        lines = text[:start].count("\n")
        line = text.split("\n")[lines].replace("\t", " ")
        column = start - (text.rfind("\n", 0, start) + 1)
        self.what, self.start, self.end = what, start, end
        marks = "^" * max(1, min(end - start, len(line) - column))
        super().__init__(f"{what}\n  {line}\n  {' ' * column}{marks}")


@dataclass(frozen=True, slots=True)
class And:
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Or:
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Not:
    node: Node


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses of a family with these leading bits; those of IPv4 are IPv4-mapped ones, too."""

    family: str
    address: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Host:
    """An internet address in one of the networks, if there are any, and the port, if not None.

    Sockets of other families have a number in place of the port: see ``Port``.
    """

    side: Side
    networks: tuple[Network, ...]
    port: int | None


@dataclass(frozen=True, slots=True)
class Name:
    """A unix socket whose name matches a shell pattern, upper and lower case alike.

    ss knows no name of a peer, so that of one is empty.
    """

    side: Side
    pattern: str


@dataclass(frozen=True, slots=True)
class Address:
    """An address and number of a packet, netlink or vsock socket; None is any.

    The number is an interface, or its name; a port id; or a port.
    """

    side: Side
    family: str
    address: str | None
    number: int | str | None


@dataclass(frozen=True, slots=True)
class Port:
    """A port from ``low`` to ``high``, None is unbounded.

    In its place ss takes the inode of a unix socket and of its peer, the interface of a packet
    socket, the port id of a netlink socket, whose peer has -1.
    """

    side: Side
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """The interface a socket is bound to, by name or index; 0 is none."""

    name: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Mark:
    """The firewall mark under a mask."""

    mark: int
    mask: int


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup v2 in which a socket was made, by its path below the mount; none below it."""

    path: str


@dataclass(frozen=True, slots=True)
class Autobound:
    """A local port of the range from which the kernel takes one where none is asked for."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What ss has no word for: ``what`` is process, pid, unit, container or netns."""

    what: str
    value: str


Leaf: TypeAlias = Host | Name | Address | Port | Device | Mark | Cgroup | Autobound | Owner
Node: TypeAlias = And | Or | Not | Leaf


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter, read. None is what it does not say.

    ``family``, as ss spells it, is that of the last host that names one, or of the option before:
    it replaces what options say. ``warnings`` are sentences.
    """

    text: str
    states: frozenset[str] | None = None
    family: str | None = None
    tree: Node | None = None
    warnings: tuple[str, ...] = ()


def leaves(node: Node | None) -> Iterator[Leaf]:
    """Yield the conditions of a tree."""
    waiting = [node] if node is not None else []
    while waiting:
        one = waiting.pop()
        if isinstance(one, And | Or):
            waiting += [one.right, one.left]
        elif isinstance(one, Not):
            waiting.append(one.node)
        else:
            yield one
