"""The kernel's counters: reads the files, and tells which values changed since the last reading."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.wire.columns import Values, code_words

Int64s: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.int32]
Names: TypeAlias = tuple[str, ...]

HOST = 0
"""Stands for the whole host where a network namespace is asked for."""

_NET_FILES = ("snmp", "snmp6", "netstat", "sockstat", "sockstat6", "protocols")
_CONNTRACK = ("sys/net/netfilter/nf_conntrack_count", "sys/net/netfilter/nf_conntrack_max")
_STATISTICS = "stat/nf_conntrack"
_READ_SIZE = 1 << 16

# net/core/net-procfs.c, softnet_seq_show(); the rest is always 0
_SOFTNET = {
    0: b"processed",
    1: b"dropped",
    2: b"squeezed",
    9: b"received_rps",
    10: b"flow_limit",
    11: b"backlog",
    13: b"input_queue",
    14: b"process_queue",
}
_SOFTNET_CPU = 12
_HEADINGS = 256
"""Headings that are remembered; namespaces differ in IcmpMsg only."""
_PLAIN_NUMBERS = re.compile(rb"(?:-?\d{1,18}(?: |\Z))*")
_FILE_NR = (b"allocated", b"free", b"max")


def _read(path: str, directory: int | None = None) -> bytes | None:
    descriptor = _open(path, directory)
    if descriptor is None:
        return None
    try:
        return _content(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _open(path: str, directory: int | None = None) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except (FileNotFoundError, PermissionError):
        return None


def _content(descriptor: int) -> bytes:
    """Return what a file has now; the kernel makes it anew when it is read from its beginning."""
    content = os.pread(descriptor, _READ_SIZE, 0)
    at = len(content)
    while part := os.pread(descriptor, _READ_SIZE, at):
        content += part
        at += len(part)
    return content


class Files:
    """The files of the network namespace that the thread is in that makes this.

    They can be read from anywhere, and keep the namespace until they are closed. To hold them costs
    descriptors, and to open them as much time as to read them.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Open them; missing ones are left out.

        Raises OSError if it fails for another reason, as without a descriptor left.
        """
        self._open: dict[str, int] = {}
        try:
            with _net(proc) as net:
                for name, path in _paths(proc):
                    if (descriptor := _open(path, net)) is not None:
                        self._open[name] = descriptor
        except OSError:
            self.close()
            raise

    @property
    def highest(self) -> int:
        """The highest of the descriptors."""
        return max(self._open.values(), default=-1)

    def close(self) -> None:
        """Close them."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self) -> dict[str, bytes]:
        """Read them all; what cannot be read any more is left out.

        ``protocols`` is there too, for procnet.in_use. What nf_conntrack has in three files is one:
        lines ``count N`` and ``max N``, then its statistics.
        """
        files: dict[str, bytes] = {}
        for name, descriptor in self._open.items():
            with contextlib.suppress(OSError):
                files[name] = _content(descriptor)
        return _with_conntrack(files)


def read_namespace(proc: Path = Path("/proc")) -> dict[str, bytes]:
    """Read the same files once, of the network namespace that the thread is in.

    One after another, for which a descriptor or two are enough. Raises OSError.
    """
    with _net(proc) as net:
        found = {name: _read(path, net) for name, path in _paths(proc)}
    return _with_conntrack({name: text for name, text in found.items() if text is not None})


@contextlib.contextmanager
def _net(proc: Path) -> Iterator[int]:
    descriptor = os.open(proc / "thread-self/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _paths(proc: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of the files, and their paths as seen from thread-self/net."""
    for name in (*_NET_FILES, _STATISTICS):
        yield name, name
    for name in _CONNTRACK:
        yield name, f"{proc}/{name}"


def _with_conntrack(files: dict[str, bytes]) -> dict[str, bytes]:
    heads = zip((*_CONNTRACK, _STATISTICS), (b"count ", b"max ", b""), strict=True)
    parts = [(head, text) for name, head in heads if (text := files.pop(name, None)) is not None]
    if parts:
        files["nf_conntrack"] = b"".join(head + text for head, text in parts)
    return files


def read_host(proc: Path = Path("/proc")) -> dict[str, bytes]:
    """Read the files that count for the whole host; missing ones are left out."""
    files = {
        "softnet_stat": _read(f"{proc}/thread-self/net/softnet_stat"),
        "file-nr": _read(f"{proc}/sys/fs/file-nr"),
    }
    return {name: text for name, text in files.items() if text is not None}


class Reading(NamedTuple):
    """The counters of one file, each name once. ``broken`` counts lines and values left out."""

    names: Names
    values: Int64s
    broken: int = 0


def parse(source: str, text: bytes) -> Reading:
    """Return the counters of one file by the names of schema.COUNTERS.

    The names are the same object as long as the headings stay the same. Values past 2^63 are
    negative. Nothing in the text makes it raise.
    """
    return _PARSERS[source](text)


class _Heading(NamedTuple):
    names: Names
    distinct: bool


def _heading(names: Iterable[bytes]) -> _Heading:
    texts = tuple(name.decode("utf-8", "backslashreplace") for name in names)
    return _Heading(texts, len(set(texts)) == len(texts))


@lru_cache(maxsize=_HEADINGS)
def _group_heading(lines: tuple[bytes, ...]) -> _Heading:
    return _heading(
        words[0].removesuffix(b":") + b"." + word
        for words in (line.split() for line in lines)
        for word in words[1:]
    )


@lru_cache(maxsize=_HEADINGS)
def _group_and_size(line: bytes) -> tuple[bytes, int]:
    words = line.split() or [b""]
    return words[0], len(words)


@lru_cache(maxsize=_HEADINGS)
def _plain_heading(names: tuple[bytes, ...]) -> _Heading:
    return _heading(names)


def _number(text: bytes, base: int) -> int | None:
    try:
        value = int(text, base)
    except ValueError:
        return None
    return value if -(1 << 63) <= value < 1 << 64 else None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _reading(heading: _Heading, texts: Sequence[bytes], broken: int = 0, base: int = 10) -> Reading:
    joined = b" ".join(texts)
    if heading.distinct and base == 10 and _PLAIN_NUMBERS.fullmatch(joined):
        return Reading(heading.names, np.fromstring(joined.decode(), np.int64, sep=" "), broken)
    found: dict[str, int] = {}
    for name, text in zip(heading.names, texts, strict=True):
        value = _number(text, base)
        if value is None or name in found:
            broken += 1
        else:
            found[name] = _signed(value)
    names = heading.names if len(found) == len(heading.names) else tuple(found)
    return Reading(names, np.array(list(found.values()), np.int64), broken)


def _pairs(text: bytes) -> Reading:
    """Parse lines in pairs: ``Tcp: ActiveOpens …``, then ``Tcp: 12 …``."""
    lines = text.splitlines()
    heads: list[bytes] = []
    texts: list[bytes] = []
    broken = len(lines) % 2
    for head, line in zip(lines[::2], lines[1::2], strict=False):
        values = line.split()
        if values and _group_and_size(head) == (values[0], len(values)):
            heads.append(head)
            texts += values[1:]
        else:
            broken += 1
    return _reading(_group_heading(tuple(heads)), texts, broken)


def _list(text: bytes) -> Reading:
    """Parse lines of a name and a value."""
    words = text.split()
    broken = 0
    if len(words) != 2 * text.count(b"\n"):
        lines = [line.split() for line in text.splitlines()]
        broken = sum(len(line) not in (0, 2) for line in lines)
        words = [word for line in lines if len(line) == 2 for word in line]
    return _reading(_plain_heading(tuple(words[::2])), words[1::2], broken)


def _sockstat(text: bytes) -> Reading:
    """Parse lines such as ``TCP: inuse 1 orphan 0``."""
    names: list[bytes] = []
    texts: list[bytes] = []
    broken = 0
    for line in text.splitlines():
        words = line.split()
        if len(words) % 2:
            names += [words[0].removesuffix(b":") + b"." + word for word in words[1::2]]
            texts += words[2::2]
        else:
            broken += bool(words)
    return _reading(_plain_heading(tuple(names)), texts, broken)


def _softnet(text: bytes) -> Reading:
    """Parse a line of hexadecimal words for each CPU that is online.

    Before Linux 5.10 a line does not say of which CPU it is; then the lines are counted.
    """
    names: list[bytes] = []
    texts: list[bytes] = []
    broken = 0
    for line_number, line in enumerate(text.splitlines()):
        words = line.split()
        cpu = _number(words[_SOFTNET_CPU], 16) if len(words) > _SOFTNET_CPU else line_number
        if cpu is None:
            broken += 1
            continue
        places = [place for place in _SOFTNET if place < len(words)]
        names += [b"cpu%d.%s" % (cpu, _SOFTNET[place]) for place in places]
        texts += [words[place] for place in places]
    return _reading(_plain_heading(tuple(names)), texts, broken, 16)


def _conntrack(text: bytes) -> Reading:
    """Parse ``count N`` and ``max N``, then a heading and hexadecimal words for each CPU.

    The words are summed, but for ``entries``, which is the same on each line. Each of them has 32
    bits and begins again at 0, so a sum may jump back by 2^32.
    """
    totals: dict[bytes, int] = {}
    names: list[bytes] = []
    broken = 0
    for line in text.splitlines():
        words = line.split()
        if not names and words[:1] in ([b"count"], [b"max"]):
            value = _number(words[1], 10) if len(words) == 2 else None
            if value is None:
                broken += 1
            else:
                totals[words[0]] = value
        elif not names:
            names = words
        else:
            numbers = [_number(word, 16) for word in words]
            if len(numbers) != len(names) or None in numbers:
                broken += 1
                continue
            for name, number in zip(names, numbers, strict=True):
                if number is not None:
                    totals[name] = number + (0 if name == b"entries" else totals.get(name, 0))
    return _reading(
        _plain_heading(tuple(totals)), [b"%d" % value for value in totals.values()], broken
    )


def _file_nr(text: bytes) -> Reading:
    words = text.split()
    if len(words) != len(_FILE_NR):
        return _reading(_plain_heading(()), (), 1)
    return _reading(_plain_heading(_FILE_NR), words)


_PARSERS: Mapping[str, Callable[[bytes], Reading]] = {
    "snmp": _pairs,
    "netstat": _pairs,
    "snmp6": _list,
    "sockstat": _sockstat,
    "sockstat6": _sockstat,
    "softnet_stat": _softnet,
    "nf_conntrack": _conntrack,
    "file-nr": _file_nr,
}
_SOURCES = list(_PARSERS)


@dataclass
class _Last:
    """What was given last of one file, and in which of the journals."""

    text: bytes
    names: Names
    codes: Codes
    values: Int64s
    journal: int


@dataclass
class Changes:
    """The values of one namespace that differ from its reading before."""

    netns: int
    rows: int = 0
    broken: int = 0
    """Lines and values that could not be read."""
    parts: list[tuple[int, Codes, Int64s | None]] = field(default_factory=list)
    """Of each source: its place, the names, and their values; None if they are gone."""

    def add(self, source: str, codes: Codes, values: Int64s | None) -> None:
        if codes.size:
            self.parts.append((_SOURCES.index(source), codes, values))
            self.rows += codes.size


class Counters:
    """Knows the last reading of every namespace."""

    def __init__(self) -> None:
        self._last: dict[int, dict[str, _Last]] = {}
        self._journal = 0
        self._words: list[str] = []
        self._code_of: dict[str, int] = {}
        self._codes_of: dict[Names, Codes] = {}

    def changed(self, netns: int, files: Mapping[str, bytes]) -> Changes:
        """Compare a reading with the one before, and remember it.

        ``files`` are what Files reads, or read_host for the namespace HOST. Names of a
        file that is missing are gone.
        """
        known = self._last.setdefault(netns, {})
        changes = Changes(netns)
        for source, text in files.items():
            if source in _PARSERS:
                self._compare(source, text, known, changes)
        for source in [source for source in known if source not in files]:
            changes.add(source, known.pop(source).codes, None)
        return changes

    def _compare(self, source: str, text: bytes, known: dict[str, _Last], changes: Changes) -> None:
        last = known.get(source)
        whole = last is None or last.journal != self._journal
        if last is not None and not whole and last.text == text:
            return
        names, values, broken = parse(source, text)
        changes.broken += broken
        if last is None or (names is not last.names and names != last.names):
            codes = self._codes(names)
            different = np.ones(codes.size, np.bool_)
            if last is not None:
                gone = ~np.isin(last.codes, codes)
                changes.add(source, last.codes[gone], None)
                before = dict(zip(last.codes.tolist(), last.values.tolist(), strict=True))
                pairs = zip(codes.tolist(), values.tolist(), strict=True)
                different[:] = [before.get(code) != value for code, value in pairs]
        else:
            codes = last.codes
            different = values != last.values
        if whole:
            different = np.ones(codes.size, np.bool_)
        changes.add(source, codes[different], values[different])
        known[source] = _Last(text, names, codes, values, self._journal)

    def _codes(self, names: Names) -> Codes:
        codes = self._codes_of.get(names)
        if codes is None:
            for name in names:
                if name not in self._code_of:
                    self._code_of[name] = len(self._words)
                    self._words.append(name)
            if len(self._codes_of) >= _HEADINGS:
                self._codes_of.clear()
            codes = np.array([self._code_of[name] for name in names], np.int32)
            self._codes_of[names] = codes
        return codes

    def columns(self, changes: Iterable[Changes], phase: str) -> dict[str, Values | pa.Array]:
        """Return the columns of schema.COUNTERS, but for sample and sample_time, of a phase."""
        parts = [(each.netns, *part) for each in changes for part in each.parts]
        counts = [codes.size for _, _, codes, _ in parts]
        codes = np.concatenate([codes for _, _, codes, _ in parts] or [np.zeros(0, np.int32)])
        values = [
            np.zeros(codes.size, np.int64) if values is None else values
            for _, _, codes, values in parts
        ]
        given = [values is not None for _, _, _, values in parts]
        used = np.flatnonzero(np.bincount(codes))
        place = np.zeros(len(self._words), np.int32)
        place[used] = np.arange(used.size)
        words = pa.array([self._words[code] for code in used.tolist()], pa.string())
        sources = np.repeat(np.array([source for _, source, _, _ in parts], np.int8), counts)
        return {
            "netns": Values(np.repeat(np.array([part[0] for part in parts], np.uint64), counts)),
            "phase": code_words(np.zeros(codes.size, np.int8), [phase]),
            "source": code_words(sources, _SOURCES),
            "name": pa.DictionaryArray.from_arrays(pa.array(place[codes]), words),
            "value": Values(
                np.concatenate(values or [np.zeros(0, np.int64)]),
                np.repeat(np.array(given, np.bool_), counts),
            ),
        }

    def forget(self, netns: int) -> Changes:
        """Let go of a namespace that vanished, whose counters are gone.

        The kernel may give its number to another one later.
        """
        changes = Changes(netns)
        for source, last in self._last.pop(netns, {}).items():
            changes.add(source, last.codes, None)
        return changes

    def restart(self) -> None:
        """Give every value again at the next readings, as a new journal is begun."""
        self._journal += 1
