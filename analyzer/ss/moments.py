"""The moments of a recording: which sample is meant."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

import pyarrow as pa

from analyzer.ss.layout import together
from analyzer.ss.rows import Rows
from recorder.format.times import TimeError, Times
from recorder.schema import SAMPLES, SOCKETS

_SAMPLE = re.compile(r"sample:(\d{1,18})", re.ASCII)
MOST = 100_000
"""Moments that one command shows at most."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A sample, its time in microseconds UTC, and that asked for if it is another."""

    sample: int
    us: int
    asked: int | None = None


class Moments:
    """All samples of a recording."""

    def __init__(self, rows: Rows, zone: tzinfo) -> None:
        self._zone = zone
        self._rows = rows
        self._all: list[tuple[int, int]] = []
        for table in (SAMPLES, SOCKETS):  # a file of sockets alone has no samples
            found = rows.read(table, ["sample_time", "sample"])
            found = found.set_column(0, "us", found["sample_time"].cast(pa.int64())).drop_null()
            known, _ = together(*found.columns)
            self._all = sorted(known)
            if self._all:
                break
        if not self._all:
            raise TimeError("the recording has no sample", "--at")

    def _marks(self) -> list[tuple[str, int]]:
        from analyzer.sql.marks import named

        return named(self._rows.engine)

    @property
    def span(self) -> tuple[int, int]:
        return self._all[0][0], self._all[-1][0]

    def find(self, text: str) -> Moment:
        """Return the sample nearest to what is asked for. Raises TimeError."""
        if text == "first":
            return self._moment(0)
        if text == "last":
            return self._moment(-1)
        if match := _SAMPLE.fullmatch(text):
            number = int(match[1])
            for us, sample in self._all:
                if sample == number:
                    return Moment(sample, us)
            first, last = self._all[0][1], self._all[-1][1]
            raise TimeError(f"{text}: there are samples {first:,} to {last:,}", "--at")
        return self._nearest(Times(*self.span, self._zone, self._marks).at(text))

    def every(self, seconds: float, start: int, end: int) -> list[Moment]:
        """Return the samples nearest to moments at that distance, none of them twice."""
        step = max(1, round(seconds * 1e6))
        if (end - start) // step > MOST:
            raise TimeError(f"that is more than {MOST:,} moments", "--every")
        found = {one.sample: one for one in map(self._nearest, range(start, end + 1, step))}
        return [Moment(one.sample, one.us) for one in found.values()]

    def _moment(self, place: int) -> Moment:
        us, sample = self._all[place]
        return Moment(sample, us)

    def _nearest(self, us: int) -> Moment:
        times: Sequence[int] = [known for known, _ in self._all]
        after = bisect_left(times, us)
        places = [place for place in (after - 1, after) if 0 <= place < len(times)]
        best = min(places, key=lambda place: abs(times[place] - us))
        return Moment(self._all[best][1], times[best], us if times[best] != us else None)


def told(moment: Moment, zone: tzinfo) -> str:
    """Return a moment in words."""
    text = f"{clock(moment.us, zone)}, sample {moment.sample:,}"
    if moment.asked is None:
        return text
    away = (moment.us - moment.asked) / 1e6
    return f"{text}, {abs(away):,.3f} s {'after' if away > 0 else 'before'} the moment asked for"


def clock(us: int, zone: tzinfo) -> str:
    """Return a time with its date, and its zone."""
    try:
        moment = datetime.fromtimestamp(us / 1e6, UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return f"{us} us"
    name = "Z" if not moment.utcoffset() else moment.isoformat()[-6:]
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000 // 1000:03}{name}"
