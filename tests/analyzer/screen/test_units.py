"""Numbers on a terminal: the unit fits, nothing is rounded into what it is not."""

from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.screen.units import (
    common_day,
    duration,
    grouped,
    number_text,
    short_names,
    size,
    time_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (0.5, "0.5 B"),
        (1000, "1.0 kB"),
        (1258291, "1.3 MB"),
        (1000**2 - 1, "1.0 MB"),
        (-5000, "-5.0 kB"),
        (2**63 - 1, "9.2 EB"),
        (Decimal(10**27), "1000000000.0 EB"),
        (float("inf"), "inf B"),
        (float("nan"), "nan B"),
    ],
)
def test_bytes(value: int | float | Decimal, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1e-6, "1 µs"),
        (999e-6, "999 µs"),
        (999.6e-6, "1 ms"),
        (0.0012, "1.2 ms"),
        (0.9996, "1 s"),
        (1.234, "1.23 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86399, "1 d 00 h"),
        (100 * 3600, "4 d 04 h"),
        (-185, "-3 min 05 s"),
        (float("nan"), "nan s"),
        (float("-inf"), "-inf s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("sockets", 1234567, "1,234,567"),
        ("ratio", 1234.5, "1,234.5"),
        ("pid", 1234567, "1234567"),
        ("local_port", 54321, "54321"),
        ("start_us", 5_000_000, "5000000"),
        ("cgroup_id", 12345, "12345"),
        ("class_id", 65536, "65536"),
        ("d_bytes_sent", 2000, "2.0 kB"),
        ("bytes", 2000, "2.0 kB"),
        ("peak_bytes", Decimal(2000), "2.0 kB"),
        ("acked_bytes_per_s", 2000.0, "2.0 kB/s"),
        ("opens_per_s", 0.123456, "0.123/s"),
        ("opens_per_s", 99.6, "100/s"),
        ("opens_per_s", 12345.6, "12,346/s"),
        ("busy_percent", 99.96, "100.0 %"),
        ("busy_percent", 0.004, "0.004 %"),
        ("busy_percent", 0, "0.0 %"),
        ("rto_ms", 1500, "1.5 s"),
        ("age_s", 90, "1 min 30 s"),
    ],
)
def test_the_name_of_a_column_tells_its_unit(
    name: str, value: int | float | Decimal, text: str
) -> None:
    assert number_text(name, [value])(value) == text


def test_moments_are_no_durations() -> None:
    moment = 1_795_384_102_790_820
    assert number_text("first_us", [None, moment])(moment) == str(moment)
    assert number_text("first_us", [None, 2_500_000])(2_500_000) == "2.5 s"


def test_a_name_loses_the_unit_that_its_values_bear() -> None:
    names = {
        "duration_us": "duration",
        "oldest_s": "oldest",
        "rto_ms": "rto",
        "sent_bytes": "sent",
        "acked_bytes_per_s": "acked/s",
        "opens_per_s": "opens/s",
        "short_percent": "short",
        "sockets": "sockets",
        "start_us": "start_us",
        "bytes": "bytes",
        "_s": "_s",
    }
    assert short_names(list(names), [[None, 1]] * len(names)) == list(names.values())


def test_a_name_keeps_its_unit_if_nothing_else_tells_it() -> None:
    moment = 1_795_384_102_790_820
    assert short_names(["first_us", "class_s", "none_us"], [[moment], ["a"], [None]]) == [
        *("first_us", "class_s", "none_us")
    ]
    both = ["peak", "peak_percent", "rtt_us", "rtt_ms", "x_us_s", "x_us"]
    assert short_names(both, [[1]] * 6) == [
        "peak",
        "peak_percent",
        "rtt_us",
        "rtt_ms",
        "x_us_s",
        "x",
    ]


@given(st.lists(st.from_regex(r"[ab](_us|_s|_bytes|_per_s|_percent){0,2}", fullmatch=True)))
def test_names_that_differ_still_do(names: list[str]) -> None:
    short = short_names(names, [[1]] * len(names))
    assert len(set(short)) == len(set(names))


@given(st.integers(-(2**64), 2**64) | st.floats() | st.decimals())
def test_every_number_is_written_in_every_unit(value: int | float | Decimal) -> None:
    if isinstance(value, Decimal) and value.is_snan():
        return
    assert grouped(value)
    for name in ("x", "x_bytes", "x_us", "x_ms", "x_s", "x_percent", "x_per_s", "x_bytes_per_s"):
        assert number_text(name, [value])(value).isprintable()


def test_a_day_is_common_only_if_it_is() -> None:
    day = datetime(2026, 11, 22)
    assert common_day([[day, None, "x"], [day.replace(hour=23)]]) == date(2026, 11, 22)
    assert common_day([[day], [datetime(2026, 11, 23)]]) is None
    assert common_day([[None], []]) is None


def test_times_are_no_shorter_than_tells_them_apart() -> None:
    close = [datetime(2026, 11, 22, 15, 4, 5, us) for us in (0, 1000)]
    assert time_text(close, None)(close[0]) == "2026-11-22 15:04:05.000"
    assert time_text(close[:1] * 2, date(2026, 11, 22))(close[0]) == "15:04:05"
