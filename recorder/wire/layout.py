"""A kernel struct of which older kernels send a shorter form: its fields → columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recorder.wire.columns import Columns, Values
from recorder.wire.netlink import Offsets, Words, gather

BLOCK_ROWS = 2048
"""Structs copied at once: what stays in the second level cache while columns are made of it."""

Field = tuple[str, int, str]
"""Column, byte offset, numpy type."""


@dataclass(frozen=True)
class Layout:
    """The fields of a struct; ``name`` marks the internal column that keeps each row's length.

    Fields past the length a kernel sent are NULL, a tail past the last known field is ignored.
    """

    name: str
    fields: tuple[Field, ...]

    @property
    def length_column(self) -> str:
        return f"_{self.name}_length"

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        names, offsets, formats = zip(*self.fields, strict=True)
        size = max(at + np.dtype(kind).itemsize for _, at, kind in self.fields)
        return np.dtype(
            {
                "names": list(names),
                "formats": list(formats),
                "offsets": list(offsets),
                "itemsize": (size + 3) & ~3,
            }
        )

    def column_types(self) -> dict[str, str]:
        """Return what ``decode`` needs in Columns."""
        return {self.length_column: "<u2"} | {name: kind for name, _, kind in self.fields}

    def decode(
        self,
        words: Words,
        at: Offsets,
        length: npt.NDArray[np.int32],
        columns: Columns,
        rows: slice,
    ) -> None:
        """Copy the struct of every row to the columns; ``length`` 0 says that it has none."""
        columns.whole(self.length_column)[rows] = np.minimum(length, 0xFFFF)
        if not length.any():
            for name, _, _ in self.fields:
                columns.whole(name)[rows] = 0
            return
        arrays = [(name, columns.whole(name)) for name, _, _ in self.fields]
        for first in range(0, at.size, BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            structs = self._gather(words, at[block], length[block])
            target = slice(rows.start + first, rows.start + first + len(structs))
            for name, array in arrays:
                array[target] = structs[name]

    def _gather(
        self, words: Words, at: Offsets, length: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.void]:
        """Return the structs, zero past the length of each."""
        dtype = self.dtype
        structs = gather(words, at, dtype)
        if int(length.min()) < dtype.itemsize:
            raw = structs.view(np.uint8).reshape(len(structs), dtype.itemsize)
            for size in np.unique(length[length < dtype.itemsize]).tolist():
                raw[length == size, size:] = 0
        return structs

    def values(self, columns: Columns) -> dict[str, Values]:
        """Return the columns with what is valid in them; a column without any value is left out."""
        length = columns[self.length_column]
        sizes = np.flatnonzero(np.bincount(length)) if length.size else length
        result: dict[str, Values] = {}
        masks: dict[tuple[int, ...], npt.NDArray[np.bool_] | None] = {}
        for name, at, kind in self.fields:
            end = at + np.dtype(kind).itemsize
            reached = tuple(int(size) for size in sizes if size >= end)
            if not reached:
                continue
            if reached not in masks:
                masks[reached] = None if len(reached) == len(sizes) else length >= end
            result[name] = Values(columns[name], masks[reached])
        return result
