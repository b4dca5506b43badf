"""The times in a log: lines that are a date, and dates before each line.

python-dateutil reads the date; here stands what tells a date from any other text, and its zone.
"""

from __future__ import annotations

import re
import warnings
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil import parser

from recorder.schema import SockrecError

_LONGEST = 120
"""Characters; no line with a date is longer."""

_MAY_BE = re.compile(
    r"(?<![\d.:\]])\d{1,2}:[0-5]\d(?!\d)|^\D{0,12}\d{10}(\.\d+)?\D{0,12}$", re.ASCII
)
_EDGES = "#=-*+~<>[]()|@ \t,;:!_"
_BEFORE = re.compile(r"^(?:zzz|date|time|timestamp|at|on|sample(?: \d+)?)\b[\s:*=#-]*", re.I)
_EPOCH = re.compile(r"(\d{10})(?:[.,](\d{1,9}))?(?: s)?", re.ASCII)
_COMMA = re.compile(r"(:\d\d),(\d)")
_BRACKETED = re.compile(r"\[([^][]{5,40})\]\s?(.*)", re.DOTALL)
_BARE = re.compile(
    r"((?:\d{4}[-/]\d\d?[-/]\d\d?[T ]\d\d?:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
    r"|[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?:\.\d{1,9})?"
    r"|\d{10}\.\d{1,9}|\d\d:\d\d:\d\d(?:\.\d{1,9})?))[:|]?\s(.*)",
    re.ASCII | re.DOTALL,
)
_ZEROS = ("utc", "gmt", "z", "zulu")
_DAYS = (datetime(2000, 1, 3), datetime(2004, 2, 6))
"""What a date that is not whole would be filled up from; they differ in all but the time."""

_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


class MomentError(SockrecError):
    """A time that cannot be placed; says what to give."""


def zone(name: str) -> tzinfo:
    """Return the zone of a name of the IANA database, or of an offset such as +02:00."""
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", name, re.ASCII)
    if found and int(found[3]) < 60 and int(found[2]) < 24:
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    try:
        return UTC if name.lower() in _ZEROS else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise MomentError(f"{name!r} is no time zone: write Europe/Berlin, UTC or +02:00") from None


def microseconds(moment: datetime) -> int:
    """Return a time with a zone in microseconds since 1970."""
    return (moment - _EPOCH_START) // timedelta(microseconds=1)


class _Unknown(tzinfo):
    """The zone of an abbreviation that only a place could explain."""

    def __init__(self, name: str) -> None:
        self.name = name

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, moment: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, moment: datetime | None) -> str:
        return self.name


class Moments:
    """Reads times. ``day`` is what a time without a date is of, which goes on past midnight."""

    def __init__(self, given: tzinfo | None = None, day: datetime | None = None) -> None:
        self._given = given
        self._day = day
        self._last: int | None = None
        self._last_of_day: int | None = None
        self.without_zone = False
        """Whether a time had no zone and none was given: it was taken for UTC."""
        self.undated = False
        """Whether a time lacked a date, or its year, and no day was given."""

    def of_line(self, text: str) -> int | None:
        """Return the microseconds of a line that is a date and nothing else, or None."""
        if len(text) > _LONGEST or not _MAY_BE.search(text):
            return None
        return self._read(_BEFORE.sub("", text.strip(_EDGES)).strip(_EDGES))

    def before(self, text: str) -> tuple[int | None, str]:
        """Return the time that a line begins with, as ts writes it, and the rest of the line."""
        found = _BRACKETED.match(text) or _BARE.match(text)
        if found and _MAY_BE.search(found[1]):
            moment = self._read(found[1].strip())
            if moment is not None:
                return moment, found[2]
        return None, text

    def of_option(self, text: str) -> int:
        """Return the microseconds of a time that was given. Raises MomentError."""
        moment = self._read(text)
        if moment is None:
            raise MomentError(f"{text!r} is no time: write 2026-11-29T15:04:05, with a zone or not")
        return moment

    def _read(self, text: str) -> int | None:
        if found := _EPOCH.fullmatch(text):
            return int(found[1]) * 1_000_000 + int((found[2] or "")[:6].ljust(6, "0"))
        text = _COMMA.sub(r"\1.\2", text)
        first, second = (self._parsed(text, day) for day in _DAYS)
        if first is None or second is None:
            return None
        if first.date() != second.date():
            # it has no date, or not all of one
            if self._day is None or (first.date(), second.date()) != tuple(
                day.date() for day in _DAYS
            ):
                return self._without_year(text, first, second)
            return self._continued(self._placed(first.replace(*self._day.timetuple()[:3])))
        return self._placed(first)

    def _without_year(self, text: str, first: datetime, second: datetime) -> int | None:
        """Return a time that has day and month only, as ts writes them, in the year given."""
        self.undated |= self._day is None
        if self._day is None or (first.month, first.day) != (second.month, second.day):
            return None
        full = self._parsed(text, self._day)
        return None if full is None else self._placed(full)

    def _continued(self, moment: int) -> int:
        """Return a time of the day given, or of a later one if it would be before the last."""
        day = 86_400_000_000
        while self._last_of_day is not None and moment < self._last_of_day - day // 2:
            moment += day
        self._last_of_day = moment
        return moment

    def _parsed(self, text: str, default: datetime) -> datetime | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return parser.parse(text, default=default, tzinfos=_zone_of)
        except (ValueError, OverflowError, TypeError, Warning):
            return None

    def _placed(self, moment: datetime) -> int:
        named = moment.tzinfo
        if isinstance(named, _Unknown):
            if self._given is None:
                raise MomentError(
                    f"{named.name} may be several time zones: say which by --timezone, "
                    "as --timezone Europe/Berlin"
                )
            here = moment.replace(tzinfo=self._given)
            later = here.replace(fold=1)
            # of an hour that comes twice, the abbreviation tells which
            return microseconds(later if named.name == later.tzname() else here)
        if named is not None:
            return microseconds(moment)
        if self._given is None:
            self.without_zone = True
            return microseconds(moment.replace(tzinfo=UTC))
        here = moment.replace(tzinfo=self._given)
        later = here.replace(fold=1)
        back = self._last is not None and microseconds(here) < self._last
        if later.utcoffset() != here.utcoffset() and back:
            here = later
        self._last = microseconds(here)
        return self._last


def _zone_of(name: str | None, offset: int | None) -> tzinfo | None:
    """Return the zone of a word or an offset in a date, as dateutil asks."""
    if offset is not None:
        return timezone(timedelta(seconds=offset)) if abs(offset) < 86_400 else None
    if name is None:
        return None
    return UTC if name.lower() in _ZEROS else _Unknown(name)
