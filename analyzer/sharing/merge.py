"""Several runs of a recorder on one host, one after another, as one recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from analyzer.reading.recording import Cut, Recording
from analyzer.reading.rows import Part
from analyzer.sharing.output import COUNTS
from analyzer.sharing.selection import Selection, check_whole, everything
from analyzer.sql.engine import Engine
from analyzer.sql.views import Scope
from recorder.schema import SockrecError

_EQUAL = ("host", "boot_id", "interval_us", "version")
_FROM_LAST = ("ended", "exit", "reading")
_JOINED = ("unseen", "trouble", "missing_sysctls")

_SPAN = "SELECT min(sample) AS first, max(sample) AS last FROM samples"


class MergeError(SockrecError):
    """Recordings that are no runs of one host, one after another."""


def merge(engine: Engine) -> tuple[Selection, dict[str, Any]]:
    """Return all rows of the recordings that are open, and what recording.json says of them.

    Samples are counted on from one run to the next. Raises MergeError.
    """
    recordings = engine.checked()
    if len(recordings) < 2:
        raise MergeError(f"{recordings[0].path}: is one recording: name two or more to merge")
    for recording in recordings:
        check_whole(recording)
    first, *others = recordings
    for other in others:
        _check_same(first, other)
    spans = [engine.span(scope) for scope in engine.scopes()]
    for (one, other), ((_, ended), (begun, _)) in zip(
        pairwise(recordings), pairwise(spans), strict=True
    ):
        if ended is None or begun is None or begun <= ended:
            raise MergeError(
                f"{one.path} and {other.path} are of the same time, or one has no samples: they "
                "cannot follow each other"
            )
    parts, count = [], 0
    for number, recording in enumerate(recordings):
        parts.append(Part(recording, count))
        (row,) = engine.table(_SPAN, Scope(part=number)).to_pylist()
        count += 1 + (-1 if row["last"] is None else int(row["last"]))
    return everything(parts), _facts(recordings)


def _check_same(first: Recording, other: Recording) -> None:
    for name in _EQUAL:
        one, two = first.facts.get(name), other.facts.get(name)
        if one != two or one is None:
            what = "boot" if name == "boot_id" else name
            raise MergeError(
                f"{first.path} and {other.path} differ in {what}: open them together instead, "
                "'sockrec summary A B' answers for each"
            )
    if any(recording.cut != Cut() for recording in (first, other)):
        raise MergeError(
            f"{first.path} or {other.path} is a cut: merge the whole recordings, then cut"
        )


def _facts(recordings: Sequence[Recording]) -> dict[str, Any]:
    first, last = recordings[0].facts, recordings[-1].facts
    made: dict[str, Any] = dict(first)
    made |= {name: last.get(name) for name in _FROM_LAST}
    for name in _JOINED:
        items: list[Any] = []
        for recording in recordings:
            found = recording.facts.get(name)
            items += (
                [item for item in found if item not in items] if isinstance(found, list) else []
            )
        made[name] = items
    made["skipped"] = sum(_whole(recording.facts.get("skipped")) for recording in recordings)
    for name in COUNTS:
        counted = [recording.facts.get(name) for recording in recordings]
        known = all(isinstance(count, int) for count in counted)
        made[name] = sum(map(_whole, counted)) if known else None
    made["unknown_attributes"] = _summed(
        [recording.facts.get("unknown_attributes") for recording in recordings]
    )
    for one, other in pairwise(recordings):
        ended, begun = one.facts.get("ended"), other.facts.get("started")
        why = f"nothing was recorded from {ended or 'the last sample'} to {begun}"
        made["unseen"].append({"what": "what was between two runs", "why": why})
    made["runs"] = [
        {"started": recording.facts.get("started"), "ended": recording.facts.get("ended")}
        for recording in recordings
    ]
    return made


def _summed(counts: Sequence[object]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for one in counts:
        for step, kinds in one.items() if isinstance(one, Mapping) else ():
            known = total.setdefault(str(step), {})
            for kind, count in kinds.items() if isinstance(kinds, Mapping) else ():
                known[str(kind)] = known.get(str(kind), 0) + _whole(count)
    return total


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
