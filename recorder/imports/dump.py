"""Raw netlink dumps, as ``ss -D FILE`` writes them: the kernel's messages, one after the other."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recorder.diag.inet_diag import TCPDIAG_GETSOCK
from recorder.diag.sock_diag import SOCK_DIAG_BY_FAMILY
from recorder.imports.log import LogError
from recorder.imports.recording import NETNS, Imported, Recording, Step
from recorder.kernel.tables import EVERYTHING, DiagWay, Steps
from recorder.wire.columns import Arrays
from recorder.wire.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, PAD, Dump, Framing, Words

_CHUNK = 4 << 20
"""Bytes decoded at once."""

_LARGEST = 1 << 20
"""Bytes; no message of sock_diag is as large."""

_FAMILIES = {
    int(socket.AF_UNIX): "unix",
    int(socket.AF_NETLINK): "netlink",
    int(socket.AF_PACKET): "packet",
    int(socket.AF_VSOCK): "vsock",
    30: "tipc",
    43: "smc",
    44: "xdp",
}
"""The tables of families that have one each."""

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")


@dataclass
class _File:
    """The messages of one file: (start, end) of their bodies, by table."""

    path: Path
    data: bytes
    ends: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    bytes: int = 0
    """How many of its bytes are messages."""
    whole: bool = False
    """Whether the last of them is the kernel's end mark."""
    error: int = 0
    foreign: int = 0
    """Messages of families that are not known."""


def import_dumps(
    paths: Sequence[Path],
    output: Path,
    *,
    start_us: int,
    interval_us: int | None,
    kind: str = "tcp",
    release: tuple[int, int] = (0, 0),
    host: str | None = None,
) -> Imported:
    """Make a recording of dumps; each file is a sample.

    The messages of TCP, UDP and their like do not say which of them they are: ``kind`` does.
    ``release`` is that of the kernel, which the last field of tcp_info depends on. Raises LogError
    or OSError.
    """
    if len(paths) > 1 and interval_us is None:
        raise LogError(
            f"{paths[1]}: no dump says when it was: give --interval, the time between two of them"
        )
    _read(paths[0], kind)  # before anything is made
    recording = Recording(output, "dump", [path.name for path in paths], start_us, host)
    reason = "failed"
    try:
        decoders = Steps(EVERYTHING, release)
        found: set[str] = set()
        for number, path in enumerate(paths):
            file = _read(path, kind)
            found |= file.ends.keys()
            _write(recording, decoders, file, start_us + number * (interval_us or 0))
            recording.result.told += _trouble(file)
        recording.add_unseen("owners of sockets (pid, comm, fd)", "a dump does not have them")
        recording.add_unseen("whether all sockets were asked for", "a dump does not tell")
        recording.add_unseen("when it was taken", "a dump does not tell; it was given (--start)")
        for step in ("tcp", "udp", "unix"):
            if step not in found and step != kind:
                recording.add_unseen(f"{step} sockets", "not in the dump")
        reason = "imported"
    finally:
        recording.end(reason)
    return recording.result


def _read(path: Path, kind: str) -> _File:
    """Find the messages of a file. Raises LogError if it begins with none."""
    data = path.read_bytes()
    file = _File(path, data)
    at = 0
    while len(data) - at >= HEADER:
        length, what, _, _, _ = _HEADER.unpack_from(data, at)
        if not HEADER <= length <= min(len(data) - at, _LARGEST):
            break
        body = at + HEADER
        file.whole = what in (NLMSG_DONE, NLMSG_ERROR)
        if file.whole:
            code = _ERROR.unpack_from(data, body)[0] if length >= HEADER + _ERROR.size else 0
            file.error = file.error or abs(code)
        elif what in (TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY) and length > HEADER:
            step = _step(data[body], kind)
            if step is None:
                file.foreign += 1
            else:
                file.ends.setdefault(step, []).append((body, at + length))
        else:
            break
        at += (length + 3) & ~3
    file.bytes = min(at, len(data))
    if not at:
        raise LogError(
            f"{path}: no dump of sock_diag, as ss -D writes it; text of ss is read by: "
            "sockrec import ss"
        )
    return file


def _trouble(file: _File) -> list[str]:
    """Return what must be told of a file."""
    told = []
    rest = len(file.data) - file.bytes
    if rest:
        told.append(f"{file.path}: {rest:,} bytes from byte {file.bytes:,} on could not be read")
    elif not file.whole:
        told.append(f"{file.path}: ends without the kernel's end mark")
    if file.foreign:
        told.append(f"{file.path}: messages of unknown families left out: {file.foreign:,}")
    return told


def _step(family: int, kind: str) -> str | None:
    if family in (socket.AF_INET, socket.AF_INET6):
        return kind
    return _FAMILIES.get(family)


def _write(recording: Recording, decoders: Steps, file: _File, time_us: int) -> None:
    decoders.begin()
    batches: list[tuple[int, Arrays]] = []
    steps = []
    ways = {way.gathered.decoder: way for step in decoders for way in step.ways}
    for step, ends in file.ends.items() or {"tcp": []}.items():
        gathered = decoders.gathered[step]
        way = ways[gathered.decoder]
        assert isinstance(way, DiagWay)
        dump = Dump()
        for words, framing in _chunks(file.data, ends):
            way.decoder.decode(words, framing, dump)
        _, (repeated,) = gathered.end_dumps([NETNS], [gathered.rows], None)
        outcome: str = "ok"
        detail: str | None = None
        if dump.bad:
            outcome, detail = "corrupt", f"{dump.bad} broken messages left out"
        elif file.error:
            outcome, detail = "error", f"the kernel said {os.strerror(file.error)}"
        elif not file.whole:
            outcome, detail = "truncated", "it ends without the kernel's end mark"
        size = sum(end - start + HEADER for start, end in ends)
        batches.append((gathered.rows, dict(gathered.decoder.rows())))
        steps.append(Step(step, gathered.rows, outcome, detail, repeated, bytes=size))
    recording.write(time_us, batches, steps)


def _chunks(data: bytes, ends: Sequence[tuple[int, int]]) -> Iterator[tuple[Words, Framing]]:
    """Yield messages in pieces that begin and end with one, followed by zeros."""
    at = 0
    while at < len(ends):
        first, last = ends[at][0], at
        while last < len(ends) and ends[last][1] - first <= _CHUNK:
            last += 1
        last = max(last, at + 1)
        part = data[first : ends[last - 1][1]]
        raw = part + bytes(-len(part) % 4 + PAD)
        words: npt.NDArray[np.uint32] = np.frombuffer(raw, np.uint32)
        places = np.array(ends[at:last], np.int64) - first
        yield words, Framing(np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1]))
        at = last
