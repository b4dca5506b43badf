"""Time zones by their IANA name: of the times that a user gives, and of those that are shown."""

from __future__ import annotations

import difflib
import os
import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from recorder.schema import SockrecError

if TYPE_CHECKING:
    import pyarrow as pa

UTC_NAME = "UTC"
_SHARED = "zoneinfo/"
_LOCAL = Path("/etc/localtime")


class ZoneError(SockrecError):
    """A time zone that does not exist, or whose name is not known."""


def find_zone(name: str) -> str:
    """Return the IANA name of a zone, the machine's for ``local``. Raises ZoneError."""
    if name == "local":
        name = _local_name(os.environ.get("TZ"), _LOCAL)
    if name.upper() == UTC_NAME:
        return UTC_NAME
    try:
        zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        known = sorted(zoneinfo.available_timezones())
        lower = {zone.lower(): zone for zone in known}
        near = difflib.get_close_matches(name.lower()[:60], lower, n=1)
        hint = f"did you mean {lower[near[0]]}?" if near else "write Europe/Berlin, local or UTC"
        raise ZoneError(f"there is no time zone {name!r}: {hint}") from None
    return name


def _local_name(variable: str | None, localtime: Path) -> str:
    """Return the name of the machine's zone: of $TZ, else of the file that is linked."""
    if variable:
        target = variable.removeprefix(":")
        if not target.startswith("/"):
            return target
    elif variable is not None or not localtime.exists():
        return UTC_NAME  # as the C library reads an empty $TZ, and a machine without a zone
    else:
        target = os.path.realpath(localtime)
    if _SHARED not in target:
        raise ZoneError("the name of the local time zone is not known: give it, as Europe/Berlin")
    return target.rpartition(_SHARED)[2]


def with_offset(text: str, zone: str, *, latest: bool = False) -> str:
    """Return an ISO time without an offset as one of the zone; any other text as it is.

    A time that the clock shows twice, or skips, as it is put back or forward, means the earliest
    moment that it can, or the latest.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    if moment.tzinfo or zone == UTC_NAME:
        return text
    info = zoneinfo.ZoneInfo(zone)
    try:
        both = [moment.replace(tzinfo=info, fold=fold).astimezone(UTC) for fold in (0, 1)]
    except OverflowError:
        return text
    return (max(both) if latest else min(both)).isoformat()


def zoned_schema(schema: pa.Schema, zone: str, *, naive: bool = True) -> pa.Schema:
    """Return the schema with its times in a zone, those without one only if ``naive`` says so."""
    import pyarrow as pa

    def changed(kind: pa.DataType) -> pa.DataType:
        if not pa.types.is_timestamp(kind) or (kind.tz is None and not naive):
            return kind
        return pa.timestamp(kind.unit, zone)

    return pa.schema(
        [field.with_type(changed(field.type)) for field in schema], metadata=schema.metadata
    )


def zoned(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the batches with their times, which are UTC, in the zones of a schema."""
    import pyarrow as pa

    for batch in batches:
        # Both kinds count from 1970 in UTC, so that the numbers stay and no database is needed.
        columns = [
            column.view(field.type) if pa.types.is_timestamp(field.type) else column
            for column, field in zip(batch.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
