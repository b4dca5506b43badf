"""Small dumps of many namespaces, which wait until they are decoded together.

To decode a few messages costs hundreds of calls of numpy, as to decode thousands does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recorder.wire.columns import Columns
from recorder.wire.netlink import PAD, Dump, Framing, Outcome, Words, frame

MOST_BYTES = 64 << 10
"""A dump of more than this does not wait: it is decoded where it was received."""


class Decoder(Protocol):
    """What makes rows of messages."""

    columns: Columns

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None: ...

    def keep(self, rows: npt.NDArray[np.int64]) -> None: ...


class Waiting:
    """Whole dumps of one table that wait; ``seq`` is the number that their requests have."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what waits."""
        self.seq = new_seq()
        self.size = 0
        """Bytes that wait."""
        self._dumps: list[Dump] = []
        self._raw: list[bytes] = []
        self._datagrams: list[Sequence[tuple[int, int]]] = []
        self._portids: list[int] = []

    def add(
        self, raw: bytes, datagrams: Sequence[tuple[int, int]], portid: int, dump: Dump
    ) -> None:
        """Have a dump wait that ended with NLMSG_DONE and no error.

        ``datagrams`` are their places in ``raw``, as ``frame`` takes them.
        """
        self._raw.append(raw)
        self._datagrams.append([(self.size + start, self.size + end) for start, end in datagrams])
        self.size += len(raw)
        self._portids.append(portid)
        self._dumps.append(dump)

    def has(self, dump: Dump) -> bool:
        """Whether a dump is the latest that waits."""
        return bool(self._dumps) and self._dumps[-1] is dump

    def decode(self, decoder: Decoder) -> list[int]:
        """Append the rows of all that waits; return how many each dump gave, in their order.

        What is broken in a dump is told in it, and costs no other one anything.
        """
        words: Words = np.frombuffer(b"".join((*self._raw, bytes(PAD))), np.uint32)
        every = [datagram for datagrams in self._datagrams for datagram in datagrams]
        portids = np.repeat(np.array(self._portids, np.uint32), list(map(len, self._datagrams)))
        framing = frame(words, every, self.seq, portids)
        before = decoder.columns.rows
        whole = Dump()
        if not framing.corrupt and framing.offsets.size:
            decoder.decode(words, framing, whole)
        if framing.corrupt or whole.bad:
            decoder.keep(np.arange(before))
            rows = [self._decode_alone(words, place, decoder) for place in range(len(self._dumps))]
        else:
            self._dumps[0].count_unknown(whole.unknown)
            starts = [datagrams[0][0] for datagrams in self._datagrams]
            places = np.searchsorted(framing.offsets, [*starts, self.size])
            rows = np.diff(places).tolist()
        self.clear()
        return rows

    def _decode_alone(self, words: Words, place: int, decoder: Decoder) -> int:
        before, dump = decoder.columns.rows, self._dumps[place]
        framing = frame(words, self._datagrams[place], self.seq, self._portids[place])
        if framing.offsets.size:
            decoder.decode(words, framing, dump)
        tell_broken(dump, framing.corrupt)
        return decoder.columns.rows - before


def tell_broken(dump: Dump, corrupt: int) -> None:
    """Make it the outcome of a dump, unless it has a worse one, that something was left out."""
    if dump.outcome.name == "ok" and (corrupt or dump.bad):
        dump.outcome = Outcome(
            "corrupt",
            None,
            f"{corrupt} broken chains of messages and {dump.bad} broken messages left out",
        )


def new_seq() -> int:
    """Return a number for requests that no message holds by accident."""
    return secrets.randbits(32) | 1
