"""The runs of a recording that was gone on in: of which boot, and from which number on, each is.

recording.json has them as ``runs`` once there is more than one. Its other facts are those of the
last run, but for ``started``, which is that of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

COUNTS = ("samples", "socket_rows")

_KILLED = "by a kill, before the next run"


@dataclass(frozen=True, slots=True)
class Part:
    """The runs of one boot with one interval: the facts of them, from which number on.

    ``before`` counts what was recorded until then, None where that is not known.
    """

    number: int
    facts: Mapping[str, object]
    before: Mapping[str, int | None]


def run_of(
    facts: Mapping[str, Any], number: int, before: Mapping[str, int | None]
) -> dict[str, Any]:
    """Return what ``runs`` has of a run with these facts."""
    names = ("started", "ended", "exit", "boot_id", "interval_us")
    return {"number": number, **{name: facts.get(name) for name in names}, "before": dict(before)}


def parts_of(facts: Mapping[str, object]) -> list[Part]:
    """Return the parts of a recording whose sockets must not be joined, in their order.

    It is one of number 0 where there are no runs, or what is told of them makes no sense.
    """
    runs = facts.get("runs")
    whole = [Part(0, facts, dict.fromkeys(COUNTS, 0))]
    if not isinstance(runs, list) or not all(map(_makes_sense, runs)):
        return whole
    numbers = [run["number"] for run in runs]
    if not runs or numbers != sorted(numbers):
        return whole
    parts = []
    for _, group in groupby(runs, lambda run: (run["boot_id"], run.get("interval_us"))):
        own = list(group)
        first, last = own[0], own[-1]
        told = {
            "runs": own,  # so that what is made of the part knows of no other
            "boot_id": first["boot_id"],
            "interval_us": first.get("interval_us"),
            "started": first.get("started"),
            "ended": facts.get("ended") if last is runs[-1] else last.get("ended") or _KILLED,
            "exit": facts.get("exit") if last is runs[-1] else last.get("exit"),
        }
        before = first.get("before")
        counts = before if isinstance(before, dict) else {}
        parts.append(
            Part(
                first["number"],
                {**facts, **told},
                {name: _count(counts.get(name)) for name in COUNTS},
            )
        )
    return parts


def boot_numbers(facts: Mapping[str, object]) -> list[int]:
    """Return from which number on each boot is, but for the first, which has all before."""
    parts = parts_of(facts)
    return [
        part.number
        for before, part in pairwise(parts)
        if part.facts.get("boot_id") != before.facts.get("boot_id")
    ]


def part_numbers(parts: Sequence[Part]) -> list[int]:
    """Return from which number on each part is, but for the first, which has all before."""
    return [part.number for part in parts[1:]]


def _makes_sense(run: object) -> bool:
    return (
        isinstance(run, dict)
        and isinstance(run.get("number"), int)
        and isinstance(run.get("boot_id"), str)
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
