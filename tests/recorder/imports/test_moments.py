"""Times in logs: which lines are dates, which zone they are of, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recorder.imports.moments import MomentError, Moments, microseconds, zone

NOON = 1_704_110_400_000_000


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("Mon Jan  1 12:00:00 UTC 2024", 0),
        ("Mon Jan  1 12:00:00 PM UTC 2024", 0),
        ("Mon 01 Jan 2024 12:00:00 PM UTC", 0),
        ("2024-01-01T13:00:00+01:00", 0),
        ("2024-01-01 12:00:00.123", 0.123),
        ("2024-01-01T12:00:00,123456789+00:00", 0.123456),
        ("=== 2024-01-01 12:00:00 ===", 0),
        ("zzz ***Mon Jan 1 12:00:00 UTC 2024", 0),
        ("### date: 2024-01-01 12:00:00 ###", 0),
        ("1704110400", 0),
        ("1704110400.25", 0.25),
        ("--- 1704110400 ---", 0),
        ("Mon, 01 Jan 2024 12:00:00 +0000", 0),
        ("20240101 12:00:00", 0),
    ],
)
def test_lines_that_are_dates(line: str, seconds: float) -> None:
    assert Moments().of_line(line) == NOON + round(seconds * 1e6)


@pytest.mark.parametrize(
    "line",
    [
        "State Recv-Q Send-Q Local Address:Port",
        "ESTAB 0 0 192.0.2.1:1 192.0.2.2:2",
        "12:00",
        "uptime 12:00:00",
        "u_str LISTEN 0 128 /run/2024 12:00 * 0",
        "1234567890123",
        "2024-13-45 12:00:00",
        "at 12:00:00 of 99999999999",
        "",
    ],
)
def test_lines_that_are_none(line: str) -> None:
    assert Moments().of_line(line) is None


def test_a_time_without_zone_is_of_the_zone_given_and_else_of_utc_which_is_told() -> None:
    moments = Moments(zone("Europe/Berlin"))
    assert moments.of_line("2024-01-01 13:00:00") == NOON
    assert not moments.without_zone
    moments = Moments()
    assert moments.of_line("2024-01-01 12:00:00") == NOON
    assert moments.without_zone


def test_an_abbreviation_needs_a_place() -> None:
    line = "Mon Jan  1 13:00:00 CET 2024"
    with pytest.raises(MomentError, match="CET may be several time zones"):
        Moments().of_line(line)
    assert Moments(zone("Europe/Berlin")).of_line(line) == NOON


def test_an_hour_that_comes_twice() -> None:
    named = Moments(zone("Europe/Berlin"))
    first = named.of_line("Sun Oct 27 02:30:00 CEST 2024")
    second = named.of_line("Sun Oct 27 02:30:00 CET 2024")
    assert first is not None
    assert second == first + 3_600_000_000
    unnamed = Moments(zone("Europe/Berlin"))
    assert unnamed.of_line("2024-10-27 02:59:59") == first + 1_799_000_000
    assert unnamed.of_line("2024-10-27 02:00:01") == first + 1_801_000_000


def test_times_of_a_day_that_is_given_go_on_past_midnight() -> None:
    moments = Moments(UTC, datetime(2024, 1, 1))
    assert moments.of_line("23:59:58") == NOON + 43_198_000_000
    assert moments.of_line("00:00:02") == NOON + 43_202_000_000
    without = Moments(UTC)
    assert without.of_line("23:59:58") is None
    assert without.undated


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("[2024/1/1 12:00:00] ESTAB 0 0", "ESTAB 0 0"),
        ("2024-01-01T12:00:00Z ESTAB 0 0", "ESTAB 0 0"),
        ("1704110400.000000 ESTAB 0 0", "ESTAB 0 0"),
        ("Jan  1 12:00:00 ESTAB 0 0", "ESTAB 0 0"),
    ],
)
def test_times_before_a_line(line: str, rest: str) -> None:
    assert Moments(UTC, datetime(2024, 5, 5)).before(line) == (NOON, rest)


def test_what_is_no_time_before_a_line_stays() -> None:
    for line in ("[::1]:22 x", "[ ACC ] STREAM", "ESTAB 0 0"):
        assert Moments().before(line) == (None, line)


def test_zones() -> None:
    assert microseconds(datetime(2024, 1, 1, 14, tzinfo=zone("+02:00"))) == NOON
    assert microseconds(datetime(2024, 1, 1, 9, 30, tzinfo=zone("-02:30"))) == NOON
    for name in ("Mars/Olympus", "", "+99:00", "../etc/passwd"):
        with pytest.raises(MomentError, match="is no time zone"):
            zone(name)
