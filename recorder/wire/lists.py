"""Attributes that are arrays of any length: their elements, and which row each belongs to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recorder.wire.netlink import Offsets, Words


class Lists:
    """The elements of one attribute of all rows of a dump, each ``size`` bytes (a multiple of 4).

    ``rows`` below is always in ascending order, the elements of a row in that of the kernel.
    """

    def __init__(self, size: int) -> None:
        self._words = size // 4
        self._elements: list[npt.NDArray[np.uint32]] = []
        self._rows: list[npt.NDArray[np.int64]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._elements, self._rows = [], []

    def decode(
        self, words: Words, at: Offsets, length: npt.NDArray[np.int32], first_row: int
    ) -> None:
        """Append the elements of N rows; what is left of a payload after the last whole one is not
        one."""
        count = length // (4 * self._words)
        rows = np.repeat(np.arange(count.size), count)
        if rows.size:
            start = (at[rows] >> 2) + places(count) * self._words
            self._elements.append(words[start[:, None] + np.arange(self._words)])
            self._rows.append(rows + first_row)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only the elements of these rows, which are in ascending order and renumbered."""
        for index, old in enumerate(self._rows):
            place = np.minimum(np.searchsorted(rows, old), max(rows.size - 1, 0))
            kept = rows[place] == old if rows.size else np.zeros(old.size, np.bool_)
            self._rows[index] = place[kept]
            self._elements[index] = self._elements[index][kept]

    def __bool__(self) -> bool:
        return any(rows.size for rows in self._rows)

    def elements(self) -> npt.NDArray[np.uint8]:
        """Return the elements as N×size bytes."""
        every = np.concatenate([*self._elements, np.zeros((0, self._words), np.uint32)])
        return np.ascontiguousarray(every, np.uint32).view(np.uint8)

    def counts(self, rows: int) -> npt.NDArray[np.int64]:
        """Return how many elements each of all rows has."""
        every = np.concatenate([*self._rows, np.zeros(0, np.int64)])
        found: npt.NDArray[np.int64] = np.bincount(every, minlength=rows)
        return found


def places(counts: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.int64]:
    """Return the place of each element within its own row: counts 2, 0, 3 give 0 1 0 1 2."""
    before = np.cumsum(counts) - counts
    result: npt.NDArray[np.int64] = np.arange(int(counts.sum())) - np.repeat(before, counts)
    return result
