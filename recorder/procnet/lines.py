"""What the formats of the socket tables in /proc/net share: numbers, and keys of sockets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.wire.columns import AnyArray, Columns, Values

Keys: TypeAlias = npt.NDArray[np.uint64]
Fields: TypeAlias = list[list[bytes]]

NO_COOKIE = 1 << 63
"""Set in every cookie that was made up, as the kernel tells none."""

_IS_V6 = 1 << 62
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
POINTER = rb"([0-9A-Fa-f]+|\(_*ptrval_*\))"
KEY = {"cookie": "u8", "inode": "u4", "uid": "u4"}


def hexadecimal(texts: Sequence[bytes], width: int) -> npt.NDArray[np.uint64]:
    """Return numbers of at least ``width`` digits, which is 2, 4 or 8."""
    joined = b"".join(texts)
    if len(joined) == width * len(texts):
        return np.frombuffer(bytes.fromhex(joined.decode()), f">u{width // 2}").astype(np.uint64)
    return np.array([int(text, 16) for text in texts], np.uint64)


def decimal(texts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    return np.fromstring(b" ".join(texts).decode(), np.int64, sep=" ")


def cut(told: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which lines lack what others of the file tell: no kernel is older for some of them."""
    return ~told & told.any()


def hashed_words(words: Sequence[AnyArray]) -> Keys:
    """Return one number for each row of several columns."""
    result = np.full(len(words[0]), 0x9E3779B97F4A7C15, np.uint64)
    for word in words:
        result = (result ^ word.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        result ^= result >> np.uint64(31)
    return result


def numbered(keys: Keys) -> Keys:
    """Return other keys for all but the first of equal ones: they belong to different sockets."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if not counts.size or counts.max() == 1:
        return keys
    order = np.argsort(inverse, kind="stable")
    number = np.empty(keys.size, np.int64)
    number[order] = np.arange(keys.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.where(number > 0, hashed_words([keys, number]), keys)


def pointers(texts: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """Return hashed addresses; 0 where the kernel hides them or has no key to hash them yet."""
    return np.array([0 if item[:1] == b"(" else int(item[-16:], 16) for item in texts], np.uint64)


def pointer_keys(texts: Sequence[bytes]) -> Keys:
    """Return keys of sockets that only their addresses in memory tell apart."""
    return numbered(hashed_words([pointers(texts)]))


def cookies(
    inodes: npt.NDArray[np.uint32], keys: Keys, hashed: npt.NDArray[np.bool_], *, v6: bool = False
) -> npt.NDArray[np.uint64]:
    """Return numbers that identify sockets: bit 63 is set, the lower half is the inode.

    An inode does that alone. Rows that are ``hashed``, as they have none or share it, have 30 bits
    of their key above it, and bit 62 tells IPv6. Rows of equal keys stay equal; different keys of
    one call never become so.
    """
    distinct = np.unique(keys[hashed])
    short = (distinct >> np.uint64(34)).astype(np.int64)
    place = np.arange(short.size)
    short = (np.maximum.accumulate(short - place) + place) & 0x3FFFFFFF  # strictly ascending
    result: npt.NDArray[np.uint64] = inodes.astype(np.uint64) | np.uint64(NO_COOKIE)
    above = short[np.searchsorted(distinct, keys[hashed])].astype(np.uint64) << np.uint64(32)
    result[hashed] |= above | np.uint64(_IS_V6 if v6 else 0)
    return result


@dataclass
class Lines:
    """What the lines of one file say: columns by name, all of one length.

    ``keys`` tell apart sockets that have no inode of their own, which are those without one and
    those that ``hashed`` marks. ``others`` marks lines that belong to another step. A line of which
    some value does not fit its column is broken.
    """

    values: dict[str, AnyArray]
    keys: Keys
    hashed: npt.NDArray[np.bool_] | None = None
    v6: bool = False
    others: npt.NDArray[np.bool_] | None = None


class Format(Protocol):
    """One kind of table: how its lines look, and what its columns are."""

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names below /proc/net."""
        ...

    @property
    def types(self) -> Mapping[str, npt.DTypeLike]:
        """Return the columns that are gathered."""
        ...

    def pattern(self, file: str) -> re.Pattern[bytes]:
        """Return what a whole line matches, each field a group."""
        ...

    def read(self, file: str, fields: Fields, rests: list[bytes]) -> Lines:
        """Return what the groups say; ``rests`` stand between one match and the next."""
        ...

    def rows(self, columns: Columns) -> dict[str, Values | pa.Array]: ...
