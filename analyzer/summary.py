"""The diagnosis: every finding of queries/findings/ asked of a recording, worst first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.catalog import FINDING_COLUMNS, CatalogError, ParameterError, Query, read_findings
from analyzer.engine import Engine
from analyzer.views import WHOLE, Scope

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SEVERITIES = ("critical", "warning", "note")
"""Worst first."""

_TABLES = {"sockets", "closes", "counters", "owners", "settings"}

_STEPS = """
SELECT
  step,
  count(*) FILTER (WHERE outcome IN ('ok', 'partial', 'skipped_empty', 'rotated')) AS seen,
  count(*) AS times,
  max(detail) AS detail,
  max_by(outcome, sample) AS outcome
FROM samples
GROUP BY step
"""

_STEPS_OF = {
    "tcp": ("tcp", "tcp6", "all"),
    "udp": ("udp", "udp6", "all"),
    "unix": ("unix", "all"),
    "closes": ("closes",),
    "counters": ("counters",),
    "owners": ("owners",),
}
"""The steps of samples of which one at least has to have worked."""

_HINTS = {
    "closes": "recorded without close events (--no-closes, or only this table was opened)",
    "owners": "recorded without owners (--no-owners, or only this table was opened)",
    "counters": "the kernel's counters are not in it",
    "settings": "the kernel's settings are not in it",
    "tcp": "TCP sockets were not recorded (-A)",
    "udp": "UDP sockets were not recorded (-A)",
    "unix": "unix sockets were not recorded (-A)",
    "sockets": "no sockets are in it",
}


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A finding that could not be looked for, and why."""

    finding: str
    title: str
    why: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What was found, worst first; what was looked for; what could not be looked for.

    ``found`` has the columns of FINDING_COLUMNS and ``finding``, the name of its file.
    """

    found: tuple[Mapping[str, object], ...]
    checked: tuple[Query, ...]
    unchecked: tuple[Unchecked, ...]

    def table(self) -> pa.Table:
        """Return the findings."""
        import pyarrow as pa

        types = {
            "VARCHAR": pa.string(),
            "DOUBLE": pa.float64(),
            "BIGINT": pa.int64(),
            "INTEGER": pa.int32(),
            "TIMESTAMP": pa.timestamp("us"),
        }
        schema = pa.schema(
            [("finding", pa.string()), *((n, types[kind]) for n, kind in FINDING_COLUMNS.items())]
        )
        return pa.Table.from_pylist([dict(row) for row in self.found], schema=schema)

    def df(self) -> pd.DataFrame:
        """Return the findings with Arrow's types."""
        import pandas as pd

        frame: pd.DataFrame = self.table().to_pandas(types_mapper=pd.ArrowDtype)
        return frame


def summarize(
    engine: Engine,
    scope: Scope = WHOLE,
    parameters: Mapping[str, object] | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Summary:
    """Look for every finding; ``parameters`` are ``finding.name``.

    ``report`` is told how many findings are done, of how many. Raises CatalogError.
    """
    findings = read_findings()
    given = _by_finding(findings, parameters or {})
    lacks = lacking(engine, scope)
    found: list[Mapping[str, object]] = []
    checked: list[Query] = []
    unchecked: list[Unchecked] = []
    for done, finding in enumerate(findings.values()):
        report(done, len(findings))
        if why := [lacks[need] for need in finding.needs if need in lacks]:
            unchecked.append(Unchecked(finding.name, finding.title, why[0]))
            continue
        table = engine.table(finding.sql, scope, finding.values(given.get(finding.name, {})))
        if table.schema.names != list(FINDING_COLUMNS):
            raise CatalogError(f"findings/{finding.name}.sql: its columns are not those of findings")
        found += ({"finding": finding.name} | row for row in table.to_pylist())
        checked.append(finding)
    return Summary(tuple(sorted(found, key=_order)), tuple(checked), tuple(unchecked))


def lacking(engine: Engine, scope: Scope = WHOLE) -> Mapping[str, str]:
    """Return what the recording lacks, in words of ``needs``, and why."""
    steps = {row["step"]: row for row in engine.table(_STEPS, scope).to_pylist()}
    counts = "SELECT " + ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM raw.{table} LIMIT 1)) AS {table}"
        for table in sorted(_TABLES)
    )
    rows = engine.table(counts).to_pylist()[0]
    lacks = {}
    for need, hint in _HINTS.items():
        if rows.get(need) or (need in ("tcp", "udp", "unix") and not steps and rows["sockets"]):
            continue
        tried = [steps[step] for step in _STEPS_OF.get(need, ()) if step in steps]
        if any(step["seen"] for step in tried):
            continue
        told = [f"{step['outcome']}: {step['detail'] or 'no reason given'}" for step in tried]
        lacks[need] = told[0] if told else hint
    return lacks


def _by_finding(
    findings: Mapping[str, Query], parameters: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    given: dict[str, dict[str, object]] = {}
    for name, value in parameters.items():
        finding, dot, parameter = name.partition(".")
        if not dot or finding not in findings:
            known: Sequence[str] = list(findings)
            raise ParameterError(f"{name}: give FINDING.NAME; the findings are {', '.join(known)}")
        given.setdefault(finding, {})[parameter] = value
    for finding, values in given.items():
        findings[finding].values(values)
    return given


def _order(row: Mapping[str, object]) -> tuple[object, ...]:
    severity, score = row["severity"], row["score"]
    place = SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
    return (
        place,
        -score if isinstance(score, float) else 0.0,
        str(row["since"]),
        str(row["finding"]),
        str(row["subject"]),
        str(row["pid"]),
    )
