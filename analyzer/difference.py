"""What differs between two moments of a recording, or between two recordings, folded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import pyarrow as pa

from analyzer.screen.cells import rows
from analyzer.sql.engine import Engine
from analyzer.sql.header import Query, parse_query, read_folder
from analyzer.sql.summary import summarize
from analyzer.sql.views import Scope
from analyzer.ss.moments import Moment

COLUMNS = {
    "what": "finding, sockets, traffic, counter or setting.",
    "name": "Name of the finding, process, counter or setting.",
    "place": "Subject of the finding; else at which listener, or to which destination.",
    "measure": "Severity; state; what is measured.",
    "before": "In the earlier moment or first recording: sockets (on average), or per s; of a "
    "counter between moments, what it stood at.",
    "after": "The same in the later moment or second recording.",
    "before_percent": "Share in all sockets before.",
    "after_percent": "Share in all sockets after.",
    "appeared": "Sockets that are new. Between moments.",
    "vanished": "Sockets that are gone. Between moments.",
    "entered": "Sockets that came from another state. Between moments.",
    "gone_on": "Sockets that went on to another state. Between moments.",
    "queued_bytes": "By how much more waits in the queues of those that stayed. Between moments.",
    "said": "Sentence of the finding; values of the setting, before → after.",
}
"""What a row says; NULL is what does not apply to it."""

_KINDS = ("finding", "sockets", "traffic", "counter", "setting")

_FACTOR = 2.0
"""A rate differs if one is at least so many times the other."""

_LEAST_PER_S = 0.1
_LEAST_SOCKETS = 0.5
"""What is less, in both, is no difference of two recordings."""

_TROUBLE = re.compile(
    r"drop|overflow|fail|error|errs|retrans|abort|reset|\brst|outrsts|prune|timeout|collapse|"
    r"discard|noport|invalid|memorypressure|backlog",
    re.IGNORECASE,
)
"""Counters that tell of trouble come first; between two moments no others are told."""

_NONE = "none"


@dataclass(frozen=True, slots=True)
class Row:
    """One difference, in COLUMNS."""

    what: str
    name: str | None = None
    place: str | None = None
    measure: str | None = None
    before: float | None = None
    after: float | None = None
    before_percent: float | None = None
    after_percent: float | None = None
    appeared: int | None = None
    vanished: int | None = None
    entered: int | None = None
    gone_on: int | None = None
    queued_bytes: int | None = None
    said: str | None = None


_TYPES = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
SCHEMA = pa.schema([(one.name, _TYPES[str(one.type).partition(" ")[0]]) for one in fields(Row)])


def table(found: Sequence[Row]) -> pa.Table:
    """Return differences in the columns of COLUMNS."""
    return pa.Table.from_pylist(
        [{name: getattr(row, name) for name in COLUMNS} for row in found], schema=SCHEMA
    )


def topped(found: Iterable[Row], top: int) -> tuple[list[Row], dict[str, int]]:
    """Return all findings and so many rows of each other kind, 0 is all; and how many are not."""
    kept: list[Row] = []
    seen = dict.fromkeys(_KINDS, 0)
    for row in found:
        if row.what != "finding":
            seen[row.what] += 1
        if not top or seen[row.what] <= top:
            kept.append(row)
    return kept, {what: count - top for what, count in seen.items() if top and count > top}


def between(engine: Engine, first: Moment, last: Moment, scope: Scope) -> Iterator[Row]:
    """Yield what differs between two samples of a recording: what differs most first, by kind."""
    given = {"first": first.sample, "last": last.sample}
    for row in _asked(engine, "sockets", scope, given):
        yield Row("sockets", row.pop("process"), row.pop("place"), row.pop("state"), **row)
    values = _counters(engine, (first, last), scope)
    counters = [
        Row("counter", name, measure="value", before=a, after=b)
        for name, (a, b) in values.items()
        if b > a and _TROUBLE.search(name)
    ]
    yield from sorted(counters, key=lambda row: (row.before or 0) - (row.after or 0))
    before, after = (
        _settings(engine, Scope(end=moment.us + 1, part=scope.part)) for moment in (first, last)
    )
    yield from _changed_settings(before, after)


def across(
    engine: Engine, scopes: tuple[Scope, Scope], report: Callable[[int, int], None]
) -> Iterator[Row]:
    """Yield what differs between two recordings: findings, then rates and shares, by kind."""

    def turn(number: int) -> Callable[[int, int], None]:
        return lambda done, of: report(number * of + done, 2 * of)

    sides = [summarize(engine, scope, None, turn(n)) for n, scope in enumerate(scopes)]
    first, second = ({_key(found): found for found in side} for side in sides)
    for there, other, is_first in ((second, first, False), (first, second, True)):
        for key, found in there.items():
            if key in other:
                continue
            yield Row(
                "finding",
                str(found["finding"]),
                _text(found["subject"]),
                _text(found["severity"]),
                float(is_first),
                float(not is_first),
                said=_text(found["sentence"]),
            )
    yield from _populations(*(_asked(engine, "population", scope) for scope in scopes))
    names = ("process", "place", "measure")
    rates = [_rates(_asked(engine, "traffic", scope), *names) for scope in scopes]
    yield from (
        Row("traffic", key[0], key[1], f"{key[2]} per s", a, b) for key, a, b in _differing(*rates)
    )
    rates = [_rates(_asked(engine, "counters", scope), "name") for scope in scopes]
    counters = [Row("counter", key[0], None, "per s", a, b) for key, a, b in _differing(*rates)]
    yield from sorted(counters, key=lambda row: not _TROUBLE.search(row.name or ""))
    yield from _changed_settings(*(_settings(engine, scope) for scope in scopes))


@cache
def queries() -> Mapping[str, Query]:
    """Return the queries of queries/diff/ by name."""
    return {name: parse_query(name, text) for name, text in read_folder("diff").items()}


def _asked(
    engine: Engine, name: str, scope: Scope, given: Mapping[str, object] | None = None
) -> list[dict[str, Any]]:
    query = queries()[name]
    found = engine.table(query.sql, scope, query.values(given or {}))
    names = found.column_names
    return [dict(zip(names, row, strict=True)) for row in rows(found.to_batches())]


def _key(found: Mapping[str, object]) -> tuple[str, str, str]:
    """Return by what a finding is the same in another recording: never by a number."""
    subject = re.sub(r"\d+", "#", str(found["subject"])) if found["comm"] else found["subject"]
    return str(found["finding"]), str(found["comm"]), str(subject)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _populations(*sides: list[dict[str, Any]]) -> Iterator[Row]:
    a, b, c = "process", "place", "state"
    keyed = [
        {(row[a], row[b], row[c]): (row["sockets"], row["percent"]) for row in side}
        for side in sides
    ]
    found = []
    for key in keyed[0] | keyed[1]:
        (before, of_all), (after, of_others) = (side.get(key, (0.0, 0.0)) for side in keyed)
        most = max(before, after)
        if most >= _LEAST_SOCKETS and most >= _FACTOR * min(before, after):
            found.append(Row("sockets", *key, before, after, of_all, of_others))
    yield from sorted(
        found,
        key=lambda row: (
            -abs((row.after or 0) - (row.before or 0)),
            *map(str, (row.name, row.place, row.measure)),
        ),
    )


_Rates = dict[tuple[str | None, ...], float]


def _rates(found: list[dict[str, Any]], *names: str) -> _Rates:
    return {tuple(row[name] for name in names): row["per_s"] or 0.0 for row in found}


def _differing(first: _Rates, second: _Rates) -> list[tuple[tuple[Any, ...], float, float]]:
    """Return the keys whose rates differ, what differs by the largest factor first."""
    found = []
    for key in first | second:
        a, b = first.get(key, 0.0), second.get(key, 0.0)
        if max(a, b) >= _LEAST_PER_S and max(a, b) >= _FACTOR * min(a, b):
            found.append((key, a, b))

    def by(one: tuple[tuple[Any, ...], float, float]) -> tuple[float, float, str]:
        _, a, b = one
        factor = max(a, b) / max(min(a, b), _LEAST_PER_S)
        return -factor, -max(a, b), str(one[0])

    return sorted(found, key=by)


def _counters(
    engine: Engine, moments: tuple[Moment, Moment], scope: Scope
) -> dict[str, tuple[float, float]]:
    """Return what each counter stood at, over all network namespaces."""
    samples = ", ".join(str(moment.sample) for moment in moments)
    found = engine.table(
        "SELECT name, sample, CAST(sum(value) AS DOUBLE) AS value FROM counter_values "
        f"WHERE sample IN ({samples}) AND phase = 'before' AND source NOT LIKE 'sockstat%' "
        "GROUP BY name, sample ORDER BY name",
        Scope(part=scope.part),
    ).to_pylist()
    values: dict[str, dict[int, float]] = {}
    for row in found:
        values.setdefault(row["name"], {})[row["sample"]] = row["value"]
    both = (moments[0].sample, moments[1].sample)
    return {
        name: (at[both[0]], at[both[1]]) for name, at in values.items() if at.keys() >= set(both)
    }


def _settings(engine: Engine, scope: Scope) -> dict[str, str]:
    return {row["name"]: row["value"] for row in _asked(engine, "settings", scope)}


def _changed_settings(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Row]:
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a != b and before and after:
            yield Row("setting", name, said=f"{a or _NONE} → {b or _NONE}")
