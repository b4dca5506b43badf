"""How ss lays its fields out in columns: each as wide as what is in it, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Field:
    """A text for every row, most of which are there many times: which of ``texts`` each has."""

    texts: Sequence[str]
    of: npt.NDArray[np.int64]

    @classmethod
    def each(cls, texts: Sequence[str]) -> Field:
        """Return the field of rows of which each has its own text."""
        places: dict[str, int] = {}
        of = [places.setdefault(text, len(places)) for text in texts]
        return cls(list(places), np.array(of, np.int64))

    @classmethod
    def of_column(cls, column: pa.ChunkedArray, told: Callable[[Any], str]) -> Field:
        """Return the field of a column, ``told`` giving the text of each distinct value."""
        values, of = distinct(column)
        return cls([told(value) for value in values], of)

    @classmethod
    def of_pairs(
        cls, first: pa.ChunkedArray, second: pa.ChunkedArray, told: Callable[[Any, Any], str]
    ) -> Field:
        """Return the field of two columns, ``told`` giving the text of each distinct pair."""
        (left, one), (right, two) = distinct(first), distinct(second)
        pairs, of = distinct(pa.chunked_array([one * len(right) + two]))
        return cls([told(left[n // len(right)], right[n % len(right)]) for n in pairs], of)

    @classmethod
    def joined(cls, fields: Iterable[Field]) -> Field:
        """Return the field of the rows of many, one after the other."""
        texts: list[str] = []
        places = []
        for field in fields:
            places.append(field.of + len(texts))
            texts += field.texts
        return cls(texts, np.concatenate([*places, np.array([], np.int64)]))

    def part(self, start: int, end: int) -> Field:
        """Return some of the rows."""
        return Field(self.texts, self.of[start:end])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the bytes of each row's text."""
        return np.array([*map(_length, self.texts)], np.int64)[self.of]


def distinct(column: pa.ChunkedArray) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the values of a column, each once, and which of them each row has."""
    found = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return found.dictionary.to_pylist(), found.indices.to_numpy().astype(np.int64)


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

    def text(self, rows: Sequence[Field], netns: Field | None = None) -> str:
        """Return the lines of rows, given by their fields, and before the first of all the header.

        The namespaces of the rows are given if there is a column for them.
        """
        # The very last field ss does not measure: it may be longer than its column is wide.
        return self._text(rows, netns, -1)

    def growing(self, rows: Sequence[Field], netns: Field | None = None) -> Iterator[str]:
        """Yield the lines of rows of which each is laid out before the next is known."""
        fields = [*[netns] * (netns is not None), *(rows[place] for place in self._shown[:-1])]
        widest = [np.maximum.accumulate(field.lengths()) for field in fields if field is not None]
        grows = np.flatnonzero(np.diff(widest).any(axis=0)) + 1
        for start, end in pairwise([0, *grows, len(rows[0].of)]):
            part = [field.part(start, end) for field in rows]
            yield self._text(part, netns and netns.part(start, end), 0)

    def _text(self, rows: Sequence[Field], netns: Field | None, measured: int) -> str:
        fields = [rows[place] for place in self._shown]
        if netns is not None:
            fields = [netns, *fields]
        last = fields[-1].part(0, measured)
        if self._header:
            self._header = False
            titles = [Field.each([title]) for title in self._titles]
            fields = [Field.joined(both) for both in zip(titles, fields, strict=True)]
            last = Field.joined([titles[-1], last]) if len(rows[0].of) else last
        if not len(fields[0].of):
            return ""
        self._most = [
            max(most, int(field.lengths().max(initial=0)))
            for most, field in zip(self._most, [*fields[:-1], last], strict=True)
        ]
        widths = [
            most + len(delimiter) if most else 0
            for most, delimiter in zip(self._most, self._delimiters, strict=True)
        ]
        if self._screen is not None:
            widths = _spread([min(one, self._screen) for one in widths], self._screen)
        columns = [
            _padded(*one) for one in zip(fields, widths, self._delimiters, self._right, strict=True)
        ]
        lines = pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.large_binary()))
        whole = pa.LargeListArray.from_arrays([0, len(lines)], lines)
        text = pc.binary_join(whole, pa.scalar(b"\n", pa.large_binary()))
        return bytes(text[0].as_py()).decode(errors="surrogateescape") + "\n"


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _padded(field: Field, size: int, delimiter: str, to_right: bool) -> pa.Array:
    room = size - len(delimiter)
    padded = []
    for text in field.texts:
        blanks = " " * max(0, room - _length(text))
        padded.append(_bytes(delimiter + (blanks + text if to_right else text + blanks)))
    return pa.array(padded, pa.large_binary()).take(pa.array(field.of))


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
