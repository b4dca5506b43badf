"""How ss lays its fields out in columns: each as wide as what is in it, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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

Field = Sequence[str]


@dataclass(frozen=True, slots=True)
class Lines:
    """Rows of fields as columns: each of ``fields`` has one text for every row."""

    fields: Sequence[Field]

    def only(self, place: int) -> Lines:
        """Return one row, none if there is none."""
        return Lines([field[place : place + 1] for field in self.fields])


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

    def lines(self, rows: Lines, netns: Field = ()) -> Iterator[str]:
        """Yield the lines, each with its end, and before the first of all the header."""
        fields = [list(rows.fields[place]) for place in self._shown]
        if len(self._titles) > len(fields):
            fields = [list(netns), *fields]
        if self._header:
            self._header = False
            for field, title in zip(fields, self._titles, strict=True):
                field.insert(0, title)
        if not fields[0]:
            return
        # The very last field ss does not measure: it may be longer than its column is wide.
        measured = [*fields[:-1], fields[-1][:-1]]
        self._most = [
            max(most, *map(_length, set(field)), 0)
            for most, field in zip(self._most, measured, strict=True)
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
        yield from map("".join, zip(*columns, ["\n"] * len(fields[0]), strict=True))


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogateescape"))


def _padded(field: Field, size: int, delimiter: str, to_right: bool) -> list[str]:
    room = size - len(delimiter)
    padded = {}
    for text in set(field):  # most are there many times
        blanks = " " * max(0, room - _length(text))
        padded[text] = delimiter + (blanks + text if to_right else text + blanks)
    return [padded[text] for text in field]


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
