"""The marks of a recording: what somebody, or a trigger, said of a moment."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, NamedTuple

from analyzer.screen.cells import printable
from analyzer.sql.views import WHOLE, Scope
from recorder.schema import MARKS

if TYPE_CHECKING:
    from analyzer.sql.engine import Engine


class Mark(NamedTuple):
    """One mark; ``us`` is its time in microseconds UTC, the rest as in the table."""

    us: int
    kind: str | None
    name: str
    detail: str | None


def marks(engine: Engine, scope: Scope = WHOLE) -> list[Mark]:
    """Return the marks of a scope, in the order of time."""
    found: list[Mark] = []
    for one in engine.scopes(scope):
        recording = engine.recordings[one.part or 0]
        tables = [segment.table for segment in recording.segments]
        if MARKS in [*tables, *(journal.table for journal in recording.journals)]:
            query = (
                "SELECT t_us, kind, name, detail FROM marks "
                "WHERE name IS NOT NULL AND t_us IS NOT NULL"
            )
            found += [Mark(*row.values()) for row in engine.table(query, one).to_pylist()]
    return sorted(found, key=lambda mark: mark.us)


def named(engine: Engine, scope: Scope = WHOLE) -> list[tuple[str, int]]:
    """Return the text and the time of each, as Times takes them."""
    return [(mark.name, mark.us) for mark in marks(engine, scope)]


def words(mark: Mark, zone: tzinfo = UTC) -> str:
    """Return a mark as a person reads it; no name in it can harm a terminal."""
    try:
        when = datetime.fromtimestamp(mark.us / 1e6, UTC).astimezone(zone)
        text = f"{when:%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        text = f"{mark.us} us"
    detail = f" ({mark.detail})" if mark.detail else ""
    return printable(f"{text} {mark.name}{detail}")
