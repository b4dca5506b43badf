"""Several recordings asked the same: each alone, so that its totals are its own, with its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pyarrow as pa

from analyzer.sql.catalog import Query
from analyzer.sql.engine import Engine
from analyzer.sql.summary import Summary, Unchecked, lacking, order, summarize
from analyzer.sql.views import WHOLE, Scope, Value
from analyzer.sql.work import QueryError


def naming(engine: Engine) -> list[dict[str, str | None]]:
    """Return the columns that name each recording: none of a single one, ``host`` of several.

    Where a host has more than one, ``run`` tells when each was started.
    """
    names = [recording.identity for recording in engine.recordings]
    if len(names) == 1:
        return [{}]
    if len({name.host for name in names}) == len(names):
        return [{"host": name.host} for name in names]
    return [{"host": name.host, "run": name.run} for name in names]


def spoken(name: Mapping[str, object]) -> str:
    """Return the name of one of several recordings as a sentence has it, empty of a single one."""
    host = str(name["host"]) if "host" in name else ""
    return f"{host} since {name['run']}" if "run" in name else host


def charted(engine: Engine, report: Query) -> Mapping[str, object]:
    """Return the chart of a report, of several recordings with series of each."""
    row = report.chart.get("row", [])
    names = [{"field": column} for column in naming(engine)[0]]
    return {**report.chart, "row": [*names, *(row if isinstance(row, list) else [row])]}


@contextmanager
def run_each(
    engine: Engine,
    query: str,
    scope: Scope = WHOLE,
    parameters: Mapping[str, tuple[str, Value | None]] | None = None,
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Run a query over each recording for itself, as Engine.run does over all together.

    The rows come in the order of the recordings, their name in front.
    """
    scopes, names = engine.scopes(scope), naming(engine)
    # A report that lists the first so many; what lists all of them may be longer than memory.
    few = bool((parameters or {}).get("top", ("", 0))[1])
    with ExitStack() as running:
        engine.turn = (0, len(scopes))
        running.callback(setattr, engine, "turn", (0, 1))
        first = running.enter_context(engine.run(query, scopes[0], parameters, few=few))
        columns = [name for name in names[0] if name not in first[0].names]
        schema = pa.schema([*((name, pa.string()) for name in columns), *first[0]])

        def batches() -> Iterator[pa.RecordBatch]:
            result = first
            for turn, (name, one) in enumerate(zip(names, scopes, strict=True)):
                if turn:
                    running.pop_all().close()
                    engine.turn = (turn, len(scopes))
                    running.callback(setattr, engine, "turn", (0, 1))
                    result = running.enter_context(engine.run(query, one, parameters, few=few))
                if result[0] != first[0]:
                    raise QueryError(f"the columns are others for {spoken(name)}")
                for batch in result[1]:
                    said = [pa.array([name[c]] * batch.num_rows, pa.string()) for c in columns]
                    yield pa.RecordBatch.from_arrays([*said, *batch.columns], schema=schema)

        yield schema, batches()


def summarize_each(
    engine: Engine,
    scope: Scope = WHOLE,
    parameters: Mapping[str, object] | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
    only: Collection[str] | None = None,
) -> Summary:
    """Look for every finding in each recording for itself, as summarize does in one."""
    scopes, names = engine.scopes(scope), naming(engine)
    if len(scopes) == 1:
        return summarize(engine, scopes[0], parameters, report, only)
    found: list[Mapping[str, object]] = []
    checked: dict[str, Query] = {}
    unchecked: dict[Unchecked, list[str]] = {}
    for turn, (name, one) in enumerate(zip(names, scopes, strict=True)):

        def tell(done: int, of: int, before: int = turn) -> None:
            report(before * of + done, len(scopes) * of)

        summary = summarize(engine, one, parameters, tell, only)
        found += [{**name, **row} for row in summary.found]
        checked |= {finding.name: finding for finding in summary.checked}
        for item in summary.unchecked:
            unchecked.setdefault(item, []).append(spoken(name))
    return Summary(
        tuple(sorted(found, key=lambda row: (order(row), spoken(row)))),
        tuple(checked[name] for name in sorted(checked)),
        tuple(
            item
            if len(of) == len(scopes)
            else Unchecked(item.finding, item.title, f"{item.why} ({', '.join(of)})")
            for item, of in unchecked.items()
        ),
        tuple(names[0]),
        summary.only,
    )


def lacking_each(engine: Engine, scope: Scope, report: Query) -> list[str]:
    """Return why the recordings cannot say what a report rests on."""
    why: dict[str, list[str]] = {}
    scopes = engine.scopes(scope)
    for name, one in zip(naming(engine), scopes, strict=True):
        lacks = lacking(engine, one)
        for reason in dict.fromkeys(lacks[need] for need in report.needs if need in lacks):
            why.setdefault(reason, []).append(spoken(name))
    return [
        reason if len(of) == len(scopes) else f"{reason} ({', '.join(of)})"
        for reason, of in why.items()
    ]
