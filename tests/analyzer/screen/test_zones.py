"""Time zones: names, the times a user gives, days on which the clock is put back or forward."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from analyzer.screen.zones import UTC_NAME, ZoneError, _local_name, find_zone, with_offset, zoned
from analyzer.screen.zones import zoned_schema as schema_of


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "EST"])
def test_iana_names_are_zones(name: str) -> None:
    assert find_zone(name) == name


@pytest.mark.parametrize("name", ["UTC", "utc"])
def test_utc_is_utc(name: str) -> None:
    assert find_zone(name) == UTC_NAME


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("Europe/Berlim", "did you mean Europe/Berlin?"),
        ("Europe", "Europe"),
        ("", "write Europe/Berlin"),
        ("../../../etc/passwd", "write"),
        ("/etc/localtime", ""),
        ("a\0b", "write"),
        ("x" * 5000, "write"),
        ("+02:00", ""),
        ("\x1b[2J", "write"),
    ],
)
def test_what_is_no_zone_is_said_in_one_line(name: str, hint: str) -> None:
    with pytest.raises(ZoneError) as caught:
        find_zone(name)
    assert hint in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_local_zone_has_its_iana_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "localtime"
    assert _local_name(None, link) == UTC_NAME
    link.symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert _local_name(None, link) == "Asia/Tokyo"
    assert _local_name("", link) == UTC_NAME
    assert _local_name(":Europe/Paris", link) == "Europe/Paris"
    assert _local_name("/usr/share/zoneinfo/US/Alaska", link) == "US/Alaska"
    link.unlink()
    link.write_bytes(b"TZif2")
    with pytest.raises(ZoneError, match="give it, as Europe/Berlin"):
        _local_name(None, link)
    monkeypatch.setenv("TZ", "Australia/Sydney")
    assert find_zone("local") == "Australia/Sydney"
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(ZoneError, match="no time zone"):
        find_zone("local")


@pytest.mark.parametrize(
    "text", ["+30s", "-5m", "soon", "2026-11-22T15:04:05+05:00", "2026-11-22T15:04:05Z"]
)
def test_a_time_that_says_what_it_means_stays(text: str) -> None:
    assert with_offset(text, "Europe/Berlin") == text


def test_a_time_without_an_offset_is_of_the_zone() -> None:
    assert with_offset("2026-11-22T15:04:05", "Europe/Berlin") == "2026-11-22T14:04:05+00:00"
    assert with_offset("2026-07-01", "Europe/Berlin") == "2026-06-30T22:00:00+00:00"
    assert with_offset("2026-11-22T15:04:05", UTC_NAME) == "2026-11-22T15:04:05"
    assert with_offset("0001-01-01T00:00:00", "Asia/Tokyo") == "0001-01-01T00:00:00"


def test_a_time_that_the_clock_shows_twice_or_never_leaves_nothing_out() -> None:
    twice, never = "2026-10-25T02:30:00", "2026-03-29T02:30:00"
    assert with_offset(twice, "Europe/Berlin") == "2026-10-25T00:30:00+00:00"
    assert with_offset(twice, "Europe/Berlin", latest=True) == "2026-10-25T01:30:00+00:00"
    assert with_offset(never, "Europe/Berlin") == "2026-03-29T00:30:00+00:00"
    assert with_offset(never, "Europe/Berlin", latest=True) == "2026-03-29T01:30:00+00:00"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_in_a_zone_are_the_same_moments(unit: str) -> None:
    moments = pa.array([datetime(2026, 10, 25, 0, 30), datetime(2026, 10, 25, 1, 30), None]).cast(
        pa.timestamp(unit)
    )
    schema = schema_of(pa.schema([("t", moments.type), ("n", pa.int64())]), "Europe/Berlin")
    batch = pa.record_batch([moments, pa.array([1, 2, 3])], names=["t", "n"])
    (found,) = zoned([batch], schema)
    assert found.schema.types == [pa.timestamp(unit, "Europe/Berlin"), pa.int64()]
    first, second, nothing = found.column("t").to_pylist()
    assert (first.utcoffset().seconds, second.utcoffset().seconds) == (7200, 3600)
    assert first.replace(tzinfo=None) == second.replace(tzinfo=None)
    assert first.astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert nothing is None
    # What Arrow itself makes of it, by its own database.
    assumed = pa.compute.assume_timezone(moments, "UTC").cast(pa.timestamp(unit, "Europe/Berlin"))
    assert found.column("t").equals(assumed)
