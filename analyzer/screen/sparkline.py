"""The chart of a report drawn as one line of block characters per series."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate, pairwise
from math import isfinite
from typing import TYPE_CHECKING

from analyzer.screen.cells import NOTHING, printable, values
from analyzer.screen.units import number_text

if TYPE_CHECKING:
    import pyarrow as pa

BLOCKS = "▁▂▃▄▅▆▇"
BLANK = " "
MARK = "▲"

_MARKS = ("line", "area", "bar")
_SERIES = ("row", "column", "facet", "color", "detail", "strokeDash", "shape")
_JOINED: Mapping[str, Callable[[list[float]], float]] = {"sum": sum, "min": min}
"""How several values of a series at one time become one; else the largest does."""

_HOLE = 1.5
"""Times that are so many usual steps apart have a gap between them."""

_BINNED_HOLE = 1.95
"""The same of slices, each named by its first sample: two may begin nearly two slices apart."""

Points = Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its name, its blocks over time, and its least and largest value."""

    name: str
    blocks: str
    least: str
    most: str


@dataclass(slots=True)
class Sparklines:
    """The values of a chart over time, gathered from the rows as they pass.

    ``binned`` times are those of slices, which follow each other unless there is nothing in one.
    """

    time: str
    value: str
    series: tuple[str, ...]
    join: str | None = None
    binned: bool = False
    _points: dict[tuple[str, ...], dict[float, list[float]]] = field(default_factory=dict)
    _times: set[float] = field(default_factory=set)

    def gather(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches on, taking their rows."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch."""
        names = batch.schema.names
        columns = [values(batch.column(names.index(name))) for name in (self.time, self.value)]
        series = [values(batch.column(names.index(name))) for name in self.series]
        keys = zip(*series, strict=True) if series else iter([()] * batch.num_rows)
        for key, moment, value in zip(keys, *columns, strict=True):
            if (x := _seconds(moment)) is None:
                continue
            self._times.add(x)
            named = tuple(NOTHING if part is None else printable(str(part)) for part in key)
            points = self._points.setdefault(named, {})
            if (y := _number(value)) is not None:
                points.setdefault(x, []).append(y)

    def span(self) -> tuple[float, float] | None:
        """Return the first and the last time in seconds since 1970, None if there is none."""
        return (min(self._times), max(self._times)) if self._times else None

    def lines(self, width: int, top: int = 0) -> tuple[list[Line], int]:
        """Return the ``top`` series of the largest values, all if 0, and how many are left out.

        Each has at most ``width`` blocks.
        """
        joined = {
            key: {x: float(_JOINED.get(self.join or "", max)(found)) for x, found in points.items()}
            for key, points in self._points.items()
            if points
        }
        ranked = sorted(joined, key=lambda key: (-max(joined[key].values()), key))
        shown = ranked[:top] if top else ranked
        times = sorted(self._times)
        slots = _slots(times, max(width, 1), self.binned) if times else {}
        return [self._line(key, joined[key], slots) for key in shown], len(ranked) - len(shown)

    def marked(self, moments: Iterable[float], width: int) -> str:
        """Return a line that points at moments of its time, in seconds, below lines of that width.

        One between two samples is pointed at under the earlier one.
        """
        times = sorted(self._times)
        if not times:
            return ""
        slots = _slots(times, max(width, 1), self.binned)
        before = [bisect_right(times, moment) - 1 for moment in moments if moment <= times[-1]]
        places = {slots[times[at]] for at in before if at >= 0}
        return "".join(MARK if at in places else BLANK for at in range(max(places, default=-1) + 1))

    def _line(self, key: tuple[str, ...], points: Points, slots: Mapping[float, int]) -> Line:
        numbers = list(points.values())
        write = number_text(self.value, numbers)
        least, most = min(numbers), max(numbers)
        return Line(
            name=" ".join(key) or printable(self.value),
            blocks=draw(((slots[x], y) for x, y in points.items()), least, most),
            least=write(_whole(least)),
            most=write(_whole(most)),
        )


def read_chart(chart: Mapping[str, object], names: Sequence[str]) -> Sparklines | None:
    """Return what draws a chart in Vega-Lite's words, None if it is not one over time.

    ``names`` are the columns of the rows.
    """
    mark = chart.get("mark")
    mark = mark.get("type") if isinstance(mark, Mapping) else mark
    x, y = chart.get("x"), chart.get("y")
    if mark not in _MARKS or not isinstance(x, Mapping) or not isinstance(y, Mapping):
        return None
    time, value, join = x.get("field"), y.get("field"), y.get("aggregate")
    series = tuple(dict.fromkeys(name for word in _SERIES for name in _fields(chart.get(word))))
    if x.get("type") != "temporal" or not isinstance(time, str) or not isinstance(value, str):
        return None
    if not {time, value, *series} <= set(names):
        return None
    join = join if isinstance(join, str) else None
    return Sparklines(time, value, series, join, x.get("bin") == "binned")


def _fields(channel: object) -> list[str]:
    """Return the fields of a channel, which may be one or a list."""
    found = []
    for item in channel if isinstance(channel, list) else [channel]:
        name = item.get("field") if isinstance(item, Mapping) else None
        if isinstance(name, str):
            found.append(name)
    return found


def draw(points: Iterable[tuple[int, float]], least: float, most: float) -> str:
    """Draw values at their places; a place without any is blank, of several the largest counts.

    The lowest block is zero, or the least value if that is below.
    """
    places: dict[int, float] = {}
    for place, value in points:
        places[place] = max(value, places.get(place, value))
    floor = min(least, 0.0)
    spread = max(most, 0.0) - floor
    drawn = [BLANK] * (max(places, default=-1) + 1)
    for place, value in places.items():
        share = (value - floor) / spread if spread else 0.0
        level = round(share * (len(BLOCKS) - 1))
        # What is more than nothing must not look like nothing.
        drawn[place] = BLOCKS[max(level, 1) if value > floor else level]
    return "".join(drawn)


def _slots(times: Sequence[float], width: int, binned: bool) -> dict[float, int]:
    """Return the place of each time: its own, a gap in between, or one shared if there are many."""
    steps = [after - before for before, after in pairwise(times)]
    usual, hole = sorted(steps)[(len(steps) - 1) // 2] if steps else 1.0, _HOLE
    if binned and steps:
        near = [step for step in steps if step < (1 + _HOLE) * usual]
        usual, hole = sum(near) / len(near), _BINNED_HOLE
    # Step by step, so that samples that are a little late do not add up to a gap.
    wide = (round(step / usual) if step >= hole * usual else 1 for step in steps)
    places = list(accumulate(wide, initial=0))
    share = min(1.0, width / (places[-1] + 1))
    return {time: int(place * share) for time, place in zip(times, places, strict=True)}


def _seconds(value: object) -> float | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    number = _number(value)  # microseconds, as t_us
    return None if number is None else number / 1e6


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return float(value) if isfinite(value) else None


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value
