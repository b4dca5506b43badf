"""Netlink framing: bytes of a dump → offsets of every message and of every attribute.

All functions work on whole chunks of a dump at once. A *chunk* is a buffer of 32-bit words that
holds datagrams one after the other, followed by at least PAD zero bytes: an absent attribute is
given the offset of those zeros, so that later gathers need no special case.

Layouts: include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]

PAD = 1024
"""Zero bytes after the data of a chunk."""

HEADER = 16
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4
NLMSG_MIN_TYPE = 16
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")


def request(kind: int, body: bytes, seq: int) -> bytes:
    """Return a dump request of message type ``kind``."""
    flags = NLM_F_REQUEST | NLM_F_DUMP
    return _HEADER.pack(HEADER + len(body), kind, flags, seq, 0) + body


@dataclass
class Framing:
    """The messages of one chunk.

    ``offsets`` and ``ends`` are byte positions of the bodies (after the nlmsghdr) of the data
    messages, in the order received. ``done`` is the error number of NLMSG_DONE (0 is success),
    ``error`` that of NLMSG_ERROR, each None if there was none. ``corrupt`` counts places at which
    the chain of messages broke; the rest of that datagram is not decoded. ``foreign`` counts
    messages that answer another request.
    """

    offsets: Offsets
    ends: Offsets
    done: int | None = None
    error: int | None = None
    corrupt: int = 0
    foreign: int = 0


def frame(
    words: Words, datagrams: Sequence[tuple[int, int]], seq: int, portid: int | Words
) -> Framing:
    """Find the messages in a chunk.

    ``datagrams`` are (start, end) byte positions, starts being multiples of 4 and each start the
    aligned end of the one before; each may have a ``portid`` of its own. Message heads are the
    words that look like one; that they form one unbroken chain proves it. Where they do not, the
    datagrams are walked one by one.
    """
    if not datagrams:
        return Framing(np.zeros(0, np.int64), np.zeros(0, np.int64))
    start, end = datagrams[0][0] >> 2, (datagrams[-1][1] + 3) >> 2
    starts = np.array([datagram[0] for datagram in datagrams]) >> 2
    at = np.flatnonzero(words[start + 2 : end] == seq) + start
    at = at[at + 3 < end]
    ours = (
        portid if isinstance(portid, int) else portid[np.searchsorted(starts, at, side="right") - 1]
    )
    at = at[words[at + 3] == ours]
    length = words[at].astype(np.int64)
    after = at + ((length + 3) >> 2)
    if not (
        at.size
        and at[0] == start
        and after[-1] == end
        and np.array_equal(after[:-1], at[1:])
        and int(length.min()) >= HEADER
        and int((at[-1] << 2) + length[-1]) <= datagrams[-1][1]
        and _all_in(starts, at)
    ):
        return _walk(words, datagrams, seq, portid)
    return _classify(words, at, length, Framing(at, at))


def _all_in(values: Offsets, ordered: Offsets) -> bool:
    place = np.searchsorted(ordered, values)
    return int(place[-1]) < ordered.size and np.array_equal(ordered[place], values)


def _walk(
    words: Words, datagrams: Sequence[tuple[int, int]], seq: int, portid: int | Words
) -> Framing:
    result = Framing(np.zeros(0, np.int64), np.zeros(0, np.int64))
    heads: list[int] = []
    for place, (start, end) in enumerate(datagrams):
        ours = portid if isinstance(portid, int) else portid[place]
        at = start
        while at < end:
            length = int(words[at >> 2]) if end - at >= HEADER else 0
            if length < HEADER or at + length > end:
                result.corrupt += 1
                break
            if words[(at >> 2) + 2] == seq and words[(at >> 2) + 3] == ours:
                heads.append(at >> 2)
            else:
                result.foreign += 1
            at += (length + 3) & ~3
    found = np.array(heads, np.int64)
    return _classify(words, found, words[found].astype(np.int64), result)


def _classify(words: Words, at: Offsets, length: Offsets, result: Framing) -> Framing:
    kind = words[at + 1] & 0xFFFF
    control = np.flatnonzero(kind < NLMSG_MIN_TYPE)
    for index in control.tolist():
        what, body = int(kind[index]), int(at[index]) + HEADER // 4
        code = int(words[body : body + 1].view(np.int32)[0]) if length[index] >= 20 else None
        if what in (NLMSG_DONE, NLMSG_ERROR) and code is None:
            if what == NLMSG_DONE:
                result.done = 0
            else:
                result.corrupt += 1
        elif what == NLMSG_DONE:
            result.done = abs(code or 0)
        elif what == NLMSG_ERROR:
            result.error = abs(code or 0)
        elif what == NLMSG_OVERRUN:
            result.corrupt += 1
    if control.size:
        data = kind >= NLMSG_MIN_TYPE
        at, length = at[data], length[data]
    result.offsets = (at << 2) + HEADER
    result.ends = (at << 2) + length
    return result


@dataclass
class Attributes:
    """Where the attributes of N messages are.

    ``at[type]`` are the N byte positions of the payloads (``absent`` where there is none) and
    ``length[type]`` the N payload lengths in bytes (0 where there is none). ``present`` is a bit
    mask of the types each message has. ``bad`` marks messages whose attributes overrun them.
    ``unknown`` counts attributes of types past the last one asked for.
    """

    at: Offsets
    length: npt.NDArray[np.int32]
    present: Words
    bad: npt.NDArray[np.bool_]
    unknown: dict[int, int] = field(default_factory=dict)

    def others(self, known: Collection[int]) -> dict[int, int]:
        """Count the attributes of every type that is not among those known."""
        counts = dict(self.unknown)
        some = int(np.bitwise_or.reduce(self.present)) if self.present.size else 0
        for kind in range(len(self.at)):
            if some >> kind & 1 and kind not in known:
                counts[kind] = int(np.count_nonzero(self.present >> np.uint32(kind) & 1))
        return counts

    def keep(self, rows: npt.NDArray[np.bool_]) -> Attributes:
        """Return the attributes of some of the messages."""
        return Attributes(
            np.ascontiguousarray(self.at[:, rows]),
            np.ascontiguousarray(self.length[:, rows]),
            self.present[rows],
            self.bad[rows],
            self.unknown,
        )


def attributes(
    words: Words, starts: Offsets, ends: Offsets, last: int, absent: int, bad: npt.NDArray[np.bool_]
) -> Attributes:
    """Walk the attributes between ``starts`` and ``ends`` (byte positions) of all messages at once.

    Types 0 to ``last`` (≤ 31) are located. Messages marked in ``bad`` are left alone, and more may
    be marked.
    """
    count = starts.size
    found = Attributes(
        np.full((last + 1, count), absent, np.int64),
        np.zeros((last + 1, count), np.int32),
        np.zeros(count, np.uint32),
        bad,
    )
    size = ends - starts
    sizes = np.flatnonzero(np.bincount(size)) if count and int(size.min()) >= 0 else size
    if 1 < sizes.size <= MAX_GROUPS and not bad.any():
        # messages of one size mostly have one layout, which makes the steps below cheap
        for value in sizes.tolist():
            _walk_in_step(found, words, starts, ends, np.flatnonzero(size == value))
    else:
        _walk_in_step(found, words, starts, ends, np.flatnonzero(~bad) if bad.any() else None)
    for kind in range(last + 1):
        found.present |= (found.at[kind] != absent).astype(np.uint32) << np.uint32(kind)
    return found


MAX_GROUPS = 32
"""Of more sizes than this, as names of unix sockets make them, all messages are walked together."""


def _walk_in_step(
    found: Attributes, words: Words, starts: Offsets, ends: Offsets, rows: Offsets | None
) -> None:
    """Locate the attributes of some messages (by place; None is all).

    Step k looks at the k-th attribute of every message that has one, so the number of steps is
    that of the longest message, whatever the mixture of layouts.
    """
    chosen: Offsets | slice = slice(None) if rows is None else rows
    last, count = len(found.at) - 1, found.present.size
    at, stop = starts[chosen] >> 2, ends[chosen] >> 2
    while True:
        live = at < stop
        if not live.all():
            rows = np.flatnonzero(live) if rows is None else rows[live]
            chosen, at, stop = rows, at[live], stop[live]
        if not at.size:
            return
        head = words[at]
        first = int(head[0])
        length, kind = first & 0xFFFF, first >> 16 & NLA_TYPE_MASK
        step = (length + 3) >> 2
        if length >= 4 and (head == first).all() and (at + step <= stop).all():
            if kind <= last:
                found.at[kind, chosen] = (at + 1) << 2
                found.length[kind, chosen] = length - 4
            else:
                found.unknown[kind] = found.unknown.get(kind, 0) + at.size
            at = at + step
            continue
        if rows is None:
            chosen = rows = np.arange(count)
        lengths = head & np.uint32(0xFFFF)
        kinds = head >> np.uint32(16) & np.uint32(NLA_TYPE_MASK)
        steps = (lengths + np.uint32(3)) >> np.uint32(2)
        after = at + steps
        valid = (lengths >= 4) & (after <= stop)
        if not valid.all():
            found.bad[rows[~valid]] = True
            chosen = rows = rows[valid]
            at, stop, after = at[valid], stop[valid], after[valid]
            lengths, kinds = lengths[valid], kinds[valid]
        strange = kinds > last
        if strange.any():
            which, times = np.unique(kinds[strange], return_counts=True)
            for kind, number in zip(which.tolist(), times.tolist(), strict=True):
                found.unknown[kind] = found.unknown.get(kind, 0) + number
            known = ~strange
            slot = kinds[known].astype(np.int64) * count + rows[known]
            at, lengths = at[known], lengths[known]
        else:
            slot = kinds.astype(np.int64) * count + rows
        found.at.reshape(-1)[slot] = (at + 1) << 2
        found.length.reshape(-1)[slot] = lengths - np.uint32(4)
        at = after


def gather(words: Words, offsets: Offsets, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Copy the struct at each byte offset (a multiple of 4) into one contiguous array."""
    size = dtype.itemsize
    view = np.ndarray(((words.nbytes - size) // 4 + 1,), np.dtype((np.void, size)), words, 0, (4,))
    return np.asarray(view[offsets >> 2]).view(dtype)


def gather_number(words: Words, offsets: Offsets, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Copy the unsigned number of 1, 2, 4 or 8 bytes at each byte offset (a multiple of 4)."""
    at = offsets >> 2
    low: npt.NDArray[Any] = words[at]
    if dtype.itemsize == 8:
        low = low | words[at + 1].astype(np.uint64) << np.uint64(32)
    return low.astype(dtype, copy=False)  # of a longer word the lower bytes, little endian


def gather_text(
    words: Words, offsets: Offsets, lengths: npt.NDArray[np.int32], width: int
) -> npt.NDArray[np.void]:
    """Copy ``width`` bytes at each offset, those past the length being zero. ``width`` % 8 == 0."""
    raw = gather(words, offsets, np.dtype([("w", "<u8", (width // 8,))]))["w"]
    kept = _KEEP[np.clip(lengths[:, None] - 8 * np.arange(width // 8), 0, 8)]
    return np.ascontiguousarray(raw & kept).view(np.dtype((np.void, width))).reshape(-1)


_KEEP = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)


@dataclass
class Outcome:
    """How a dump ended. ``name`` is one of the outcomes the samples table lists."""

    name: str = "ok"
    errno: int | None = None
    detail: str | None = None

    @classmethod
    def of_errno(cls, number: int, where: str) -> Outcome:
        """Return the outcome of an error number that the kernel gave in ``where``."""
        if number == 0:
            return cls()
        missing = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
        name = "unavailable" if number in missing else "busy" if number == errno.EBUSY else "error"
        return cls(name, number, f"{where}: {os.strerror(number)}")


@dataclass
class Dump:
    """What one dump gave besides its rows."""

    outcome: Outcome = field(default_factory=Outcome)
    bytes: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    bad: int = 0
    repeated: int = 0

    def count_unknown(self, unknown: Mapping[int, int] | Mapping[str, int], nest: str = "") -> None:
        """Add counts by type; inside a nest a type is written after those of its nests: 19/2/8."""
        for kind, number in unknown.items():
            self.unknown[f"{nest}{kind}"] = self.unknown.get(f"{nest}{kind}", 0) + number


Decode = Callable[[Words, Framing, Dump], None]
"""Takes the messages of a chunk, appends their rows and counts what was unknown or bad."""
