"""The rows of one dump while it is decoded: reused arrays in the kernel's widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

AnyArray = npt.NDArray[Any]
"""Numbers of any kind."""

_FIRST_ROWS = 4096


@dataclass(frozen=True)
class Values:
    """The values of one column of a dump; where ``valid`` is False they are NULL, None: nowhere."""

    data: AnyArray
    valid: npt.NDArray[np.bool_] | None = None


Arrays = dict[str, Values | pa.Array]
"""Columns by name."""


class Columns:
    """Arrays that grow together and are used again for the next dump.

    Reusing them matters: fresh memory for 100,000 rows costs as many page faults as decoding
    costs time.
    """

    def __init__(self, types: Mapping[str, npt.DTypeLike]) -> None:
        self.rows = 0
        self._capacity = 0
        self._arrays: dict[str, AnyArray] = {
            name: np.empty(0, np.dtype(kind)) for name, kind in types.items()
        }

    def clear(self) -> None:
        """Forget the rows, keep the memory."""
        self.rows = 0

    def extend(self, count: int) -> slice:
        """Make room for ``count`` more rows and return where they are."""
        start = self.rows
        self.rows += count
        if self.rows > self._capacity:
            self._capacity = max(self.rows, 2 * self._capacity, _FIRST_ROWS)
            for name, old in self._arrays.items():
                # not np.empty: what lies under a NULL is written too, and must not be old memory
                new = np.zeros(self._capacity, old.dtype)
                new[:start] = old[:start]
                self._arrays[name] = new
        return slice(start, self.rows)

    def whole(self, name: str) -> AnyArray:
        """Return the array with its unused tail, to be written to at the slice of ``extend``."""
        return self._arrays[name]

    def __getitem__(self, name: str) -> AnyArray:
        """Return the rows of one column; valid until the next ``clear``."""
        return self._arrays[name][: self.rows]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep only these rows, in this order."""
        for array in self._arrays.values():
            array[: rows.size] = array[rows]
        self.rows = rows.size


class Bits:
    """Presence masks from a bit column; equal masks are one object."""

    def __init__(self, bits: npt.NDArray[np.uint32]) -> None:
        self._bits = bits
        self._some = int(np.bitwise_or.reduce(bits)) if bits.size else 0
        self._all = int(np.bitwise_and.reduce(bits)) if bits.size else 0

    def any(self, bit: int) -> bool:
        """Whether any row has it."""
        return bool(self._some >> bit & 1)

    def mask(self, bit: int) -> npt.NDArray[np.bool_] | None:
        """Return which rows have it, None if all."""
        if self._all >> bit & 1:
            return None
        mask: npt.NDArray[np.bool_] = (self._bits & np.uint32(1 << bit)) != 0
        return mask


def word_codes(numbers: npt.NDArray[np.generic], count: int, other: int) -> npt.NDArray[np.int8]:
    """Return numbers as places in a list of ``count`` words; those beyond it become ``other``."""
    plain = numbers.astype(np.uint8, copy=False)
    return np.where(plain < count, plain, other).astype(np.int8)


def code_words(
    index: npt.NDArray[np.int8], words: list[str], valid: npt.NDArray[np.bool_] | None = None
) -> pa.DictionaryArray:
    """Return a column of words given by their places in a list."""
    mask = None if valid is None else ~valid
    return pa.DictionaryArray.from_arrays(pa.array(index, mask=mask), pa.array(words))
