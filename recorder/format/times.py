"""The times that a user gives: moments, clock times of the recording's days, and distances."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo

from recorder.schema import SockrecError

Time = str | datetime
"""ISO, 22:31, +30s, -5m or mark:NAME; or a datetime."""

Mark = tuple[str, int]
"""The text of a mark, and when it was made, in microseconds UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FURTHEST_US = 1e17
"""Some three thousand years."""

_RELATIVE = re.compile(r"([+-])(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?:$|[:+Z-].*)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MARK = re.compile(r"mark:(.+?)(?:#(\d{1,9}))?", re.DOTALL)
_MOST_DAYS = 10_000


class TimeError(SockrecError):
    """A time that is not one, or not one of the recording; ``option`` names what gave it."""

    def __init__(self, text: str, option: str) -> None:
        super().__init__(text)
        self.option = option


class Times:
    """What times mean for a recording with samples from ``first`` to ``last``, microseconds UTC.

    Both are None if it has no sample. A time without an offset is one of ``zone``. ``marks`` gives
    those of the recording, in their order.
    """

    def __init__(
        self,
        first: int | None,
        last: int | None,
        zone: tzinfo = UTC,
        marks: Callable[[], Sequence[Mark]] = lambda: (),
    ) -> None:
        self._marks = marks
        self._span = None if first is None or last is None else (first, last)
        self._zone = zone

    def bounds(self, start: Time | None, end: Time | None) -> tuple[int | None, int | None]:
        """Return the moments from which on and before which; not even one sample is an error.

        Raises TimeError.
        """
        first = None if start is None else self._moment(start, "--from")
        last = None if end is None else self._moment(end, "--to")
        if first is not None and last is not None and first >= last:
            raise TimeError(
                f"{start} is not before {end}, which --to gives{self._told()}", "--from"
            )
        if self._span is not None:
            if first is not None and first > self._span[1]:
                raise TimeError(f"{start} is after the last sample{self._told()}", "--from")
            if last is not None and last <= self._span[0]:
                raise TimeError(f"{end} is not after the first sample{self._told()}", "--to")
        return first, last

    def last(self, seconds: float) -> tuple[int | None, int | None]:
        """Return the bounds of so much of the end, all of it if it is no longer."""
        if self._span is None:
            return None, None
        start = self._span[1] - round(seconds * 1e6)
        return (start if start > self._span[0] else None), None

    def within(self, start: int, end: int) -> tuple[int | None, int | None]:
        """Return these bounds, none where the recording is no longer on that side."""
        if self._span is None:
            return None, None
        return start if start > self._span[0] else None, end if end <= self._span[1] else None

    def at(self, given: Time) -> int:
        """Return a moment in microseconds UTC, of the recording or not. Raises TimeError."""
        return self._moment(given, "--at")

    def _moment(self, given: Time, option: str) -> int:
        late = option == "--to"
        if isinstance(given, datetime):
            return self._micros(given, late=late)
        if mark := _MARK.fullmatch(given):
            return self._of_mark(mark[1], mark[2], option)
        if relative := _RELATIVE.fullmatch(given):
            sign, number, unit = relative.groups()
            if self._span is None:
                raise TimeError(f"{given}: the recording has no sample to count from", option)
            micros = float(sign + number) * _SECONDS[unit] * 1_000_000
            if abs(micros) > _FURTHEST_US:
                raise TimeError(f"{given}: is too far away", option)
            return self._span[sign == "-"] + round(micros)
        try:
            if _CLOCK.fullmatch(given):
                clock = time.fromisoformat(given if given[2] == ":" else f"0{given}")
                return self._of_day(given, clock, option)
            return self._micros(datetime.fromisoformat(given), late=late)
        except OverflowError:
            raise TimeError(f"{given}: is too far away", option) from None
        except ValueError:
            raise TimeError(
                f"{given!r} is no time: write 2026-11-22T15:04:05, 15:04 or 15:04:05 on a day of "
                "the recording, +30s after the first sample, -5m before the last, or mark:NAME",
                option,
            ) from None

    def _of_mark(self, name: str, which: str | None, option: str) -> int:
        """Return when a mark was made; of several of that name ``which``, from 1 on."""
        marks = self._marks()
        times = [us for known, us in marks if known == name]
        if which is None and not times:
            names = ", ".join(dict.fromkeys(known for known, _ in marks))
            there = f"there are {names[:200]}" if names else "the recording has no marks"
            raise TimeError(f"mark:{name}: there is no such mark: {there}", option)
        if which is None and len(times) > 1:
            raise TimeError(
                f"mark:{name}: there are {len(times):,} of them: write mark:{name}#1 to "
                f"mark:{name}#{len(times)}",
                option,
            )
        if which is None:
            return times[0]
        if whole := [us for known, us in marks if known == f"{name}#{which}"]:
            return whole[0]
        if not 0 < int(which) <= len(times):
            raise TimeError(
                f"mark:{name}#{which}: there are {len(times):,} marks called {name}", option
            )
        return times[int(which) - 1]

    def _of_day(self, given: str, clock: time, option: str) -> int:
        """Return when the clock shows that time while the recording lasts."""
        if self._span is None:
            raise TimeError(f"{given}: the recording has no sample to tell the day by", option)
        first, last = (
            (_EPOCH + micros * _MICROSECOND).astimezone(clock.tzinfo or self._zone).date()
            for micros in self._span
        )
        days = min((last - first).days, _MOST_DAYS) + 1
        moments = [
            self._micros(
                datetime.combine(first + timedelta(days=day), clock), late=option == "--to"
            )
            for day in range(days)
        ]
        within = [moment for moment in moments if self._span[0] <= moment <= self._span[1]]
        if len(within) > 1:
            raise TimeError(
                f"{given} comes {len(within):,} times{self._told()}: write the date too", option
            )
        if within:
            return within[0]
        # Of days that the recording has only a part of: --from before it, --to behind it.
        before = [moment for moment in moments if moment < self._span[0]]
        behind = [moment for moment in moments if moment > self._span[1]]
        return (behind or before)[0] if option == "--to" else (before or behind)[-1]

    def _micros(self, moment: datetime, *, late: bool) -> int:
        """Return microseconds UTC of a time.

        One that the clock shows twice, or skips, as it is put back or forward, means the earliest
        moment that it can, or the latest.
        """
        if moment.tzinfo is None:
            folds = [moment.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1)]
            both = [moment - (one.utcoffset() or timedelta()) for one in folds]
            moment = (max(both) if late else min(both)).replace(tzinfo=UTC)
        return (moment - _EPOCH) // _MICROSECOND

    def _told(self) -> str:
        if self._span is None:
            return ""
        try:
            first, last = (
                (_EPOCH + micros * _MICROSECOND).astimezone(self._zone) for micros in self._span
            )
        except OverflowError:  # times that no recorder wrote
            return ""
        name = "UTC" if not first.utcoffset() else first.isoformat()[-6:]
        until = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M:%S}"
        return f"; the recording lasts from {first:%Y-%m-%d %H:%M:%S} to {until} {name}"
