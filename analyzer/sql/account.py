"""A summary as one object for programs: what was found, what could be looked for, and in what.

docs/summary.md describes it. Within one version names are added, none is taken away or changed.
"""

from __future__ import annotations

from importlib.metadata import version

from analyzer.screen.cells import plain
from analyzer.sql.engine import Engine
from analyzer.sql.info import coverage, dropped, iso, lost
from analyzer.sql.marks import marks
from analyzer.sql.summary import SEVERITIES, Summary, sampled
from analyzer.sql.views import Scope

VERSION = 1

UNKNOWN = "unknown"
NOTHING = "nothing"


def verdict(found: Summary) -> str:
    """Return the worst severity, "nothing" if that was found, "unknown" if none could be told."""
    there = {row["severity"] for row in found.found}
    for severity in SEVERITIES:
        if severity in there:
            return severity
    return NOTHING if found.checked else UNKNOWN


def account(engine: Engine, found: Summary, scope: Scope) -> dict[str, object]:
    """Return what a summary says of a scope, in values that JSON has words for."""
    samples, first, last = sampled(engine, scope)
    recordings = [
        (
            {"recording": str(recording.path), "host": plain(recording.facts.get("host"))},
            {
                "coverage": coverage(engine, one),  # before what is missing, as it may find some
                "missing": [lost(missing) for missing in engine.recordings[one.part or 0].missing],
                "dropped": dropped(recording.dropped),
            },
        )
        for recording, one in zip(engine.recordings, engine.scopes(), strict=True)
    ]
    named, seen = recordings[0]
    if len(recordings) > 1:
        named, seen = {}, {"recordings": [{**name, **more} for name, more in recordings]}
    return {
        "version": VERSION,
        "sockrec": version("sockrec"),
        **named,
        "asked": {
            "from": iso(scope.start),
            "to": iso(scope.end),
            "where": scope.where,
            "filter": scope.filter.text if scope.filter else None,
            "only": None if found.only is None else list(found.only),
        },
        "span": {"first": iso(first), "last": iso(last), "samples": samples},
        "verdict": verdict(found),
        "findings": [plain(dict(row)) for row in found.found],
        "marks": [
            {"time": iso(mark.us)} | {name: getattr(mark, name) for name in mark._fields[1:]}
            for mark in marks(engine, scope)
        ],
        "checked": [finding.name for finding in found.checked],
        "could_not_check": [
            {"finding": one.finding, "title": one.title, "why": one.why} for one in found.unchecked
        ],
        **seen,
    }
