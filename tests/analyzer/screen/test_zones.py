"""Time zones: names, and the times of rows in one."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from analyzer.screen.zones import UTC_NAME, ZoneError, _local_name, find_zone, zoned
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
