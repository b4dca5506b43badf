"""How ss lays its fields out in columns: each as wide as what is in it, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

HEADER = (
    "Netid",
    "State",
    "Recv-Q",
    "Send-Q",
    "Local Address:",
    "Port",
    "Peer Address:",
    "Port",
    "Process",
)
NETNS = "Netns"
"""The header of the column that ss has not, before all others."""

NETID_FIELD, STATE_FIELD = 0, 1
_DELIMITERS = ("", " ", " ", " ", " ", "", " ", "", "")
_RIGHT = (4, 6)
"""Fields that are aligned to the right: what stands before a port."""

_AT_ONCE = 1 << 13
"""Lines that are made at once: the first ones are printed before the others are made."""

_NOTHING = pa.scalar(b"", pa.large_binary())
_BLANK = pa.scalar(b" ", pa.large_binary())


Numbers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Field:
    """A text for every row, made of pieces that stand one behind the other.

    Of each piece there are its texts, as most are there many times, and which of them each row has.
    """

    pieces: tuple[tuple[pa.LargeBinaryArray, Numbers], ...]

    @classmethod
    def each(cls, texts: Sequence[str]) -> Field:
        """Return the field of rows of which each has its own text."""
        return cls(((_array(texts), np.arange(len(texts))),))

    @classmethod
    def of(cls, told: Callable[..., str], *columns: pa.ChunkedArray) -> Field:
        """Return the field of some columns, ``told`` giving the text of their distinct values."""
        values, of = together(*columns)
        return cls(((_array([told(*one) for one in values]), of),))

    @classmethod
    def behind(cls, fields: Iterable[Field]) -> Field:
        """Return the field of the texts of many, one behind the other; there is one at least."""
        pieces = [piece for field in fields for piece in field.pieces]
        return cls(tuple(p for p in pieces if len(p[0].buffers()[2] or b"")) or (pieces[0],))

    @classmethod
    def joined(cls, fields: Sequence[Field]) -> Field:
        """Return the field of the rows of many, one below the other."""
        most = max((len(field.pieces) for field in fields), default=0)
        pieces = []
        for place in range(most):
            texts, places, there = [], [], 0
            for field in fields:
                some, of = field.pieces[place] if place < len(field.pieces) else field.empty()
                texts.append(some)
                places.append(of + there)
                there += len(some)
            pieces.append((pa.concat_arrays(texts), np.concatenate(places)))
        return cls(tuple(pieces) or ((_array(()), np.array((), np.int64)),))

    def empty(self) -> tuple[pa.LargeBinaryArray, Numbers]:
        """Return a piece of nothing for each row."""
        return _array([""]), np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self.pieces[0][1])

    def part(self, start: int, end: int) -> Field:
        """Return some of the rows."""
        return Field(tuple((texts, of[start:end]) for texts, of in self.pieces))

    def lengths(self) -> Numbers:
        """Return the bytes of each row's text."""
        found = np.zeros(len(self), np.int64)
        for texts, of in self.pieces:
            found += pc.binary_length(texts).to_numpy()[of]
        return found

    def texts(self) -> pa.LargeBinaryArray:
        """Return each row's text."""
        taken = [texts.take(pa.array(of)) for texts, of in self.pieces]
        return taken[0] if len(taken) == 1 else pc.binary_join_element_wise(*taken, _NOTHING)


def together(*columns: pa.Array | pa.ChunkedArray) -> tuple[list[tuple[Any, ...]], Numbers]:
    """Return the values that columns have together, each once, and which of them each row has."""
    values, codes = zip(*map(_distinct, columns), strict=True)
    if len(columns) == 1:
        return [(value,) for value in values[0]], codes[0]
    of = codes[0]
    for known, code in zip(values[1:], codes[1:], strict=True):
        if len(known) > 1:
            of = _distinct(pa.array(of * len(known) + code))[1]
    # Of each that is there, some row that has it; a column may know words that no row has.
    rows = np.zeros(int(of.max(initial=-1)) + 1, np.int64)
    rows[of] = np.arange(len(of))
    each = (map(known.__getitem__, code[rows]) for known, code in zip(values, codes, strict=True))
    return list(zip(*each, strict=True)), of


def _distinct(column: pa.Array | pa.ChunkedArray) -> tuple[list[Any], Numbers]:
    """Return the values of a column, each once, and which of them each row has."""
    if column.null_count == len(column):
        return [None] * bool(len(column)), np.zeros(len(column), np.int64)
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(found.type):
        found = found.dictionary_encode()
    values = found.dictionary.to_pylist()
    of = np.asarray(found.indices.fill_null(len(values))).astype(np.int64)
    return [*values, *[None] * bool(found.null_count)], of


class Layout:
    """Lays out rows in columns; with each call they are as wide as all before needed them.

    ``hidden`` fields are left out, ``width`` is a screen's, ``netns`` asks for a column of
    namespaces before all others.
    """

    def __init__(
        self,
        *,
        hidden: Iterable[int] = (),
        header: bool = True,
        width: int | None = None,
        netns: bool = False,
    ) -> None:
        self._shown = [place for place in range(len(HEADER)) if place not in set(hidden)]
        self._titles = [*[NETNS] * netns, *(HEADER[place] for place in self._shown)]
        delimiters = ["", *(_DELIMITERS[place] for place in self._shown[not netns :])]
        if netns:
            delimiters[1] = " "
        self._delimiters = delimiters
        self._right = [*[False] * netns, *(place in _RIGHT for place in self._shown)]
        self._most = [0] * len(self._titles)
        self._header = header
        self._screen = width

    def text(self, rows: Sequence[Field], netns: Field | None = None) -> Iterator[str]:
        """Yield the lines of rows, given by their fields, and before the first of all the header.

        The namespaces of the rows are given if there is a column for them.
        """
        # The very last field ss does not measure: it may be longer than its column is wide.
        return self._text(rows, netns, -1)

    def growing(self, rows: Sequence[Field], netns: Field | None = None) -> Iterator[str]:
        """Yield the lines of rows of which each is laid out before the next is known."""
        fields = [*_given(netns), *(rows[place] for place in self._shown[:-1])]
        widest = [np.maximum.accumulate(field.lengths()) for field in fields]
        grows = np.flatnonzero(np.diff(widest).any(axis=0)) + 1
        for start, end in pairwise([0, *grows, len(rows[0])]):
            part = [field.part(start, end) for field in rows]
            yield from self._text(part, None if netns is None else netns.part(start, end), 0)

    def _text(self, rows: Sequence[Field], netns: Field | None, measured: int) -> Iterator[str]:
        there, fields = len(rows[0]), [*_given(netns), *(rows[place] for place in self._shown)]
        lengths = [field.lengths() for field in fields]
        lengths[-1] = lengths[-1][:measured] if there else lengths[-1]
        if self._header:
            fields = [
                Field.joined([Field.each([title]), field])
                for title, field in zip(self._titles, fields, strict=True)
            ]
            titles = [len(title) for title in self._titles]
            if not there:
                titles[-1] = 0
            lengths = [np.append(n, title) for n, title in zip(lengths, titles, strict=True)]
            self._header = False
        self._most = [
            max(most, int(found.max(initial=0)))
            for most, found in zip(self._most, lengths, strict=True)
        ]
        widths = [
            most + len(delimiter) if most else 0
            for most, delimiter in zip(self._most, self._delimiters, strict=True)
        ]
        if self._screen is not None:
            widths = _spread([min(one, self._screen) for one in widths], self._screen)
        for start in range(0, len(fields[0]), _AT_ONCE):
            part = (field.part(start, start + _AT_ONCE) for field in fields)
            columns = map(_padded, part, widths, self._delimiters, self._right)
            lines = pc.binary_join_element_wise(*columns, _NOTHING)
            whole = pa.LargeListArray.from_arrays([0, len(lines)], lines)
            text = pc.binary_join(whole, pa.scalar(b"\n", pa.large_binary()))
            yield bytes(text[0].as_py()).decode(errors="surrogateescape") + "\n"


def _given(field: Field | None) -> list[Field]:
    return [] if field is None else [field]


def _array(texts: Sequence[str]) -> pa.LargeBinaryArray:
    encoded = (text.encode(errors="surrogateescape") for text in texts)
    return pa.array(encoded, pa.large_binary(), size=len(texts))


def _padded(field: Field, size: int, delimiter: str, to_right: bool) -> pa.LargeBinaryArray:
    texts = field.texts()
    room = size - len(delimiter) - pc.binary_length(texts).to_numpy()
    blanks = pc.binary_repeat(_BLANK, pa.array(np.maximum(room, 0)))
    before = pa.scalar(delimiter.encode(), pa.large_binary())
    both = (blanks, texts) if to_right else (texts, blanks)
    return pc.binary_join_element_wise(before, *both, _NOTHING)


def _spread(widths: list[int], screen: int) -> list[int]:
    """Spread the room that a line of a screen has left over its columns.

    Those that do not fit begin another line, which has its own.
    """
    widths = list(widths)
    line: list[int] = []
    used = 0

    def close() -> None:
        nonlocal line, used
        left = screen - used
        if line and left > 0:
            spacing, rest = divmod(left, len(line))
            for place in reversed(line):
                widths[place] += spacing + (rest > 0)
                rest -= rest > 0
        line, used = [], 0

    for place, size in enumerate(widths):
        if not size:
            continue
        if used + size > screen:
            close()
        line.append(place)
        used += size
        if used == screen:
            line, used = [], 0
    close()
    return widths
