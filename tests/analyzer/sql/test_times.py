"""The times that a user gives: what they mean for a recording, and what is refused."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from recorder.format.times import TimeError, Times
from tests.analyzer.support.recordings import micros, time_of

FIRST, LAST = micros(time_of(0)), micros(time_of(3))
DAY = 86_400_000_000
BERLIN = ZoneInfo("Europe/Berlin")


def start(text: str | datetime, first: int | None = FIRST, last: int | None = LAST) -> int | None:
    return Times(first, last).bounds(text, None)[0]


def at(moment: str) -> int:
    return micros(datetime.fromisoformat(moment))


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("2026-11-22T15:04:06", 1),
        ("2026-11-22 15:04:06", 1),
        ("2026-11-22T15:04:06Z", 1),
        ("2026-11-22T16:04:06+01:00", 1),
        ("+2s", 2),
        ("+2000ms", 2),
        ("-1s", 2),
        ("-0s", 3),
        ("15:04:06", 1),
        ("15:04:07.000", 2),
        ("16:04:06+01:00", 1),
        (datetime(2026, 11, 22, 15, 4, 6), 1),
        (datetime(2026, 11, 22, 20, 34, 6, tzinfo=timezone(timedelta(hours=5, minutes=30))), 1),
    ],
)
def test_a_time_is_a_moment_or_of_the_day_or_counted_from_an_end(
    text: str | datetime, sample: int
) -> None:
    assert start(text) == micros(time_of(sample))


def test_units_are_what_record_takes() -> None:
    assert start("+1.5m", 0, 90_000_000) == 90_000_000
    assert start("+1h", 0, DAY) == 3_600_000_000
    assert start("+1d", 0, DAY) == DAY


@pytest.mark.parametrize(
    "text", ["", "soon", "5s", "+5", "+5 s", "+-5s", "1504", "25:00", "1:2", "15:04x", "+٣s", "1e9"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(TimeError, match="is no time: write ") as caught:
        start(text)
    assert caught.value.option == "--from"


@pytest.mark.parametrize("text", [f"+{'9' * 400}s", "+99999999999999d", f"-{'9' * 20}h"])
def test_a_time_beyond_all_calendars_is_refused(text: str) -> None:
    with pytest.raises(TimeError, match="too far away"):
        start(text)


@pytest.mark.parametrize("text", ["+5s", "15:04"])
def test_an_empty_recording_has_nothing_to_count_from(text: str) -> None:
    with pytest.raises(TimeError, match="no sample"):
        start(text, None, None)
    assert start("2026-11-22T15:04:06", None, None) == micros(time_of(1))


def test_a_clock_time_is_of_the_day_that_has_it() -> None:
    night = Times(at("2026-11-22T23:50:00"), at("2026-11-23T00:20:00"))
    assert night.bounds("23:55", "00:05") == (at("2026-11-22T23:55"), at("2026-11-23T00:05"))
    # Of the part of a day that the recording does not have.
    assert night.bounds("23:00", "01:00") == (at("2026-11-22T23:00"), at("2026-11-23T01:00"))
    with pytest.raises(TimeError, match=r"00:10 is not before 23:55.*to 2026-11-23 00:20:00 UTC"):
        night.bounds("00:10", "23:55")


def test_a_clock_time_of_several_days_wants_the_date() -> None:
    days = Times(at("2026-11-22T10:00:00"), at("2026-11-24T20:00:00"))
    with pytest.raises(TimeError, match=r"12:00 comes 3 times; the recording lasts .*: write the"):
        days.bounds("12:00", None)
    # Before the first day's begin and behind the last one's end there is one of each.
    assert Times(FIRST, LAST).bounds("9:30", "23:00") == (
        at("2026-11-22T09:30"),
        at("2026-11-22T23:00"),
    )


@pytest.mark.parametrize(
    ("given", "option", "says"),
    [
        (("+3s", "+3s"), "--from", "+3s is not before +3s"),
        (("+3s", "+1s"), "--from", "+3s is not before +1s"),
        (("+3001ms", None), "--from", "+3001ms is after the last sample"),
        ((None, "+0s"), "--to", "+0s is not after the first sample"),
        (("2027-01-01", None), "--from", "2027-01-01 is after the last sample"),
        ((datetime(2027, 1, 1, tzinfo=UTC), None), "--from", "2027-01-01 00:00:00+00:00 is after"),
    ],
)
def test_a_span_without_a_sample_is_an_error_that_gives_the_recordings(
    given: tuple[str | None, str | None], option: str, says: str
) -> None:
    with pytest.raises(TimeError) as caught:
        Times(FIRST, LAST).bounds(*given)
    assert caught.value.option == option
    assert says in str(caught.value)
    assert "the recording lasts from 2026-11-22 15:04:05 to 15:04:08 UTC" in str(caught.value)


def test_a_time_without_an_offset_is_of_the_zone() -> None:
    times = Times(FIRST, LAST, BERLIN)
    for text in ("2026-11-22T16:04:06", "16:04:06", "2026-11-22T15:04:06Z"):
        assert times.bounds(text, None) == (micros(time_of(1)), None)
    assert times.bounds("2026-07-01", None) == (at("2026-06-30T22:00:00"), None)
    tokyo = Times(FIRST, LAST, ZoneInfo("Asia/Tokyo"))
    with pytest.raises(TimeError, match="too far away"):
        tokyo.bounds("0001-01-01T00:00:00", None)


def test_a_time_that_the_clock_shows_twice_or_never_leaves_nothing_out() -> None:
    times = Times(at("2026-01-01"), at("2026-12-31"), BERLIN)
    for text, first, last in [
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00", "2026-10-25T01:30:00"),
        ("2026-03-29T02:30:00", "2026-03-29T00:30:00", "2026-03-29T01:30:00"),
    ]:
        assert times.bounds(text, None) == (at(first), None)
        assert times.bounds(None, text) == (None, at(last))
        assert times.bounds(datetime.fromisoformat(text), None) == (at(first), None)


def test_times_that_no_recorder_wrote_end_in_words() -> None:
    times = Times(-(1 << 62), 1 << 62)
    with pytest.raises(TimeError, match="too far away"):
        times.bounds("15:04", None)
    with pytest.raises(TimeError, match="is not before"):
        times.bounds("2026-11-22", "2026-11-21")


MARKS = [("begin", FIRST), ("deployed v2", at("2026-11-22T15:04:06")), ("x", LAST - 1), ("x", LAST)]
MARKS += [("a#1", FIRST + 7)]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("mark:begin", FIRST),
        ("mark:begin#1", FIRST),
        ("mark:deployed v2", at("2026-11-22T15:04:06")),
        ("mark:x#1", LAST - 1),
        ("mark:x#2", LAST),
        ("mark:a#1", FIRST + 7),
    ],
)
def test_a_mark_is_a_time(text: str, moment: int) -> None:
    assert Times(FIRST, LAST, marks=lambda: MARKS).bounds(text, None)[0] == moment


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mark:x", r"there are 2 of them: write mark:x#1 to mark:x#2"),
        ("mark:x#3", r"mark:x#3: there are 2 marks called x"),
        ("mark:y", r"there is no such mark: there are begin, deployed v2, x, a#1"),
        ("mark:", "is no time: write "),
    ],
)
def test_a_mark_that_is_none_or_several_is_refused(text: str, told: str) -> None:
    with pytest.raises(TimeError, match=told) as caught:
        Times(FIRST, LAST, marks=lambda: MARKS).bounds(None, text)
    assert caught.value.option == "--to"


def test_without_marks_that_is_told() -> None:
    with pytest.raises(TimeError, match="mark:begin: there is no such mark: the recording has no"):
        start("mark:begin")
