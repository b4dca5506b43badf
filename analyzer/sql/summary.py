"""The diagnosis: every finding of queries/findings/ asked of a recording, worst first."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from analyzer.screen.cells import printable, rows
from analyzer.sql.catalog import (
    FINDING_COLUMNS,
    CatalogError,
    ParameterError,
    Query,
    find_findings,
    read_findings,
)
from analyzer.sql.engine import Engine
from analyzer.sql.shared import Shared
from analyzer.sql.views import WHOLE, Scope
from analyzer.sql.work import QueryError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SEVERITIES = ("critical", "warning", "note")
"""Worst first."""

_TABLES = ("closes", "counters", "owners", "processes", "samples", "settings", "sockets")

_STEPS = """
SELECT
  step,
  count(CASE WHEN outcome IN ('ok', 'partial', 'truncated', 'skipped_empty') THEN 1 END) AS seen,
  CAST(sum(rows) AS BIGINT) AS rows,
  max_by(outcome, sample) AS outcome,
  max_by(detail, sample) AS detail
FROM samples
GROUP BY step
"""

_STEPS_OF = {
    "tcp": ("tcp", "tcp6"),
    "udp": ("udp", "udp6"),
    "unix": ("unix",),
    "closes": ("closes",),
    "counters": ("counters",),
    "owners": ("owners",),
    "network": ("network",),
    "conntrack": ("conntrack",),
    "processes": ("processes",),
}
"""The steps of samples of which one at least has to have worked."""

_KINDS = ("tcp", "udp", "unix")
"""Those of them that are kinds of sockets."""

_EMPTY = "all"
"""The one step for every table of a namespace without sockets."""

_HINTS = {
    "sockets": "no sockets are in it",
    "tcp": "TCP sockets were not recorded",
    "udp": "UDP sockets were not recorded",
    "unix": "unix sockets were not recorded",
    "closes": "the ends of connections were not recorded",
    "counters": "the kernel's counters were not recorded",
    "owners": "the processes were not recorded",
    "limits": "the limits of processes were not recorded",
    "network": "the network beneath was not recorded",
    "conntrack": "connection tracking tables were not recorded (record --conntrack)",
    "processes": "what processes did was not recorded",
    "settings": "the kernel's settings were not recorded",
    "samples": "what the recorder did was not recorded",
    "listeners": "it needs listeners and their backlogs, and none are in it (ss -a)",
    "tcp_info": "it needs tcp_info, and none is in it (ss -i)",
    "timers": "it needs the timers of connections, and none are in it (ss -o)",
    "skmem": "it needs the memory of sockets, and none is in it (ss -m)",
    "drops": "it needs what sockets dropped, and nothing of that is in it (ss -m)",
    "other_drops": "it needs what sockets dropped, and nothing of that is in it (ss -m)",
    "inodes": "it needs the inodes of sockets, and none are in it (ss -e)",
}
"""Every word of ``needs``, and what to say where nothing tells the reason."""

_FILTERED = "it needs every listener, and only what a filter lets through was recorded"

_CONNECTION = "netid = 'tcp' AND coalesce(state, '') NOT IN ('LISTEN', 'SYN-RECV', 'TIME-WAIT')"
_DROPPING = "netid IN ('nl', 'p_raw', 'p_dgr', 'raw')"
_SHOWN = {
    "listeners": (
        "netid = 'tcp' AND (state = 'LISTEN' OR 'log' IN (SELECT source FROM raw.samples))",
        "netid = 'tcp' AND state = 'LISTEN' AND send_q IS NOT NULL",
    ),
    "tcp_info": (
        _CONNECTION,
        "coalesce(rto_us, snd_cwnd, rtt_us, bytes_acked, busy_time_us) IS NOT NULL",
    ),
    "timers": (_CONNECTION, "timer IS NOT NULL"),
    "skmem": (_CONNECTION, "rcvbuf IS NOT NULL"),
    "drops": ("netid IN ('udp', 'udplite')", "drops IS NOT NULL"),
    "other_drops": (_DROPPING, f"{_DROPPING} AND drops IS NOT NULL"),
    "inodes": (_CONNECTION, "inode IS NOT NULL"),
}
"""Of words of ``needs``: which sockets have it, and what is true of one that was recorded with it.
Logs of ss lack what it was not asked for, /proc/net what it does not have."""

_NO_SAMPLE = "no sample lies in that time"
_FEWEST = 2
_TOO_SHORT = "it needs samples of {:g} s, and these are {:.1f} s: record for longer"
_TOO_FEW = "one sample does not show what changes: record for longer"
_MARGIN = " " * 10
_ALIKE = 5
"""How many findings of one kind are told in words."""

_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f.,:]*")
"""Numbers, addresses and identities in a sentence."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A finding that could not be looked for, and why."""

    finding: str
    title: str
    why: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What was found, worst first; what was looked for; what could not be looked for.

    ``found`` has the columns of FINDING_COLUMNS and ``finding``, the name of its file. ``named``
    are those that tell which of several recordings it is of. ``only`` are the findings that were
    asked for, None if all were.
    """

    found: tuple[Mapping[str, object], ...]
    checked: tuple[Query, ...]
    unchecked: tuple[Unchecked, ...]
    named: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None

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
            [
                *((name, pa.string()) for name in (*self.named, "finding")),
                *((n, types[kind]) for n, kind in FINDING_COLUMNS.items()),
            ]
        )
        # A time that Python has no word for is one that no kernel gave.
        times = {field.name for field in schema if pa.types.is_timestamp(field.type)}
        known = [
            {n: None if n in times and isinstance(v, str) else v for n, v in row.items()}
            for row in self.found
        ]
        return pa.Table.from_pylist(known, schema=schema)

    def df(self) -> pd.DataFrame:
        """Return the findings with Arrow's types."""
        import pandas as pd

        frame: pd.DataFrame = self.table().to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        return iter(self.found)

    def __repr__(self) -> str:
        return "\n".join(lines(self, None)).rstrip()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"


def summarize(
    engine: Engine,
    scope: Scope = WHOLE,
    parameters: Mapping[str, object] | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
    only: Collection[str] | None = None,
) -> Summary:
    """Look for every finding, or ``only`` for these; ``parameters`` are ``finding.name``.

    ``report`` is told how many findings are done, of how many. Raises CatalogError.
    """
    findings = find_findings(only)
    given = _by_finding(findings, parameters or {})
    lacks = lacking(engine, scope)
    found: list[Mapping[str, object]] = []
    checked: list[Query] = []
    unchecked: list[Unchecked] = []
    asked = [f for f in findings.values() if not any(need in lacks for need in f.needs)]
    with closing(Shared(engine, scope, asked)) as shared:
        for done, finding in enumerate(findings.values()):
            report(done, len(findings))
            if why := [lacks[need] for need in finding.needs if need in lacks]:
                unchecked.append(Unchecked(finding.name, finding.title, why[0]))
                continue
            values = finding.values(given.get(finding.name, {}))
            try:
                table = engine.table(finding.sql, scope, values, shared.of(finding), few=True)
            except QueryError as error:  # the others may have more to say
                unchecked.append(Unchecked(finding.name, finding.title, str(error)))
                continue
            if table.schema.names != list(FINDING_COLUMNS):
                raise CatalogError(f"findings/{finding.name}.sql: its columns are not a finding's")
            found += (
                {"finding": finding.name} | dict(zip(FINDING_COLUMNS, row, strict=True))
                for row in rows(table.to_batches())
            )
            checked.append(finding)
    # Where too little was recorded, that nothing was found says nothing.
    seen = {row["finding"] for row in found}
    span = sampled(engine, scope)
    for finding in [one for one in checked if one.name not in seen]:
        if short := _too_short(finding.seconds(given.get(finding.name, {})), *span):
            unchecked.append(Unchecked(finding.name, finding.title, short))
            checked.remove(finding)
    found = _placed(found, engine, scope)
    return Summary(
        tuple(sorted(found, key=order)),
        tuple(checked),
        tuple(unchecked),
        only=None if only is None else tuple(findings),
    )


def _too_short(seconds: float, samples: int, first: int | None, last: int | None) -> str | None:
    """Return why a finding that wants so many seconds could not be looked for, None if it could."""
    if samples < _FEWEST or first is None or last is None:
        return _TOO_FEW
    lasted = (last - first) / 1e6
    return _TOO_SHORT.format(seconds, lasted) if lasted < seconds else None


def netns_called(engine: Engine, scope: Scope = WHOLE, *, home: bool) -> dict[int, str]:
    """Return what network namespaces are called, by number, where there are several.

    Without the recorder's own one unless ``home``; a number that several hosts have stays one.
    """
    counted = "SELECT count(DISTINCT netns) AS n FROM raw.namespaces"
    if engine.table(counted, scope, few=True).to_pylist()[0]["n"] < _FEWEST:
        return {}
    named = "SELECT netns, home, called FROM netns_names"
    known = engine.table(named, scope, few=True).to_pylist()
    times = Counter(row["netns"] for row in known)
    return {
        row["netns"]: row["called"]
        for row in known
        if times[row["netns"]] == 1 and (home or not row["home"])
    }


def _placed(
    found: list[Mapping[str, object]], engine: Engine, scope: Scope
) -> list[Mapping[str, object]]:
    """Say in which network namespace it is, where there are several, but not of the recorder's."""
    names = netns_called(engine, scope, home=False) if found else {}
    placed: list[Mapping[str, object]] = []
    for row in found:
        number, sentence = row["netns"], str(row["sentence"])
        if isinstance(number, int) and number in names:
            numbered = f"network namespace {number}"
            named = f"network namespace {names[number]}"
            if numbered in sentence:
                sentence = sentence.replace(numbered, named)
            else:
                sentence += f", in {named}"
        placed.append({**row, "sentence": sentence})
    return placed


def lacking(engine: Engine, scope: Scope = WHOLE) -> Mapping[str, str]:
    """Return what the recording lacks, in words of ``needs``, and why."""
    steps = {row["step"]: row for row in engine.table(_STEPS, scope, few=True).to_pylist()}
    has = dict(_filled(engine, Scope(part=scope.part), raw=True))
    has |= dict.fromkeys(engine.recordings[scope.part or 0].cut.had, 1)
    # A file of sockets alone has no samples; it says of what it has rows, not what was read.
    if not steps and (has["samples"] or not _filled(engine, scope)["sockets"]):
        return dict.fromkeys(_HINTS, _NO_SAMPLE if has["sockets"] else _HINTS["sockets"])
    looked = any(step in steps for kind in _KINDS for step in _STEPS_OF[kind])
    lacks = {}
    for need, hint in _HINTS.items():
        tried = [steps[step] for step in _STEPS_OF.get(need, ()) if step in steps]
        idle = need in _KINDS and not looked and _EMPTY in steps
        alone = need in _KINDS and not steps
        if need in ("closes", "counters") and not has[need] and any(s["rows"] for s in tried):
            lacks[need] = f"the files of {need} are not there"
            continue
        if has.get(need) or idle or alone or any(step["seen"] for step in tried):
            continue
        told = [f"{step['outcome']}, {step['detail'] or 'no reason given'}" for step in tried]
        lacks[need] = f"{hint}: {told[0]}" if told else hint
    shown = _shown(engine, scope)
    lacks = {need: why for need, why in lacks.items() if need not in shown}
    if engine.recordings[scope.part or 0].facts.get("filter"):
        lacks["listeners"] = _FILTERED
    return lacks


def _shown(engine: Engine, scope: Scope) -> frozenset[str]:
    """Return which of what only some ways tell of sockets is there, or of no socket to be told."""
    asked = "SELECT count(*) FILTER (WHERE source IN ('log', 'proc')) AS others, count(*) AS n"
    steps = "step IN ('tcp', 'udp', 'udp6', 'udplite', 'udplite6')"
    query = f"{asked} FROM raw.samples WHERE {steps}"
    (read,) = engine.table(query, Scope(part=scope.part), few=True).to_pylist()
    if read["n"] and not read["others"]:  # the kernel told all of it
        return frozenset(_SHOWN)
    exists = "EXISTS (SELECT 1 FROM raw.sockets WHERE {})"
    columns = ", ".join(
        f"{exists.format(told)} OR NOT {exists.format(sockets)} AS {need}"
        for need, (sockets, told) in _SHOWN.items()
    )
    whole = Scope(part=scope.part)
    (row,) = engine.table(f"SELECT {columns}", whole, few=True).to_pylist()
    return frozenset(need for need, shown in row.items() if shown)


def _filled(engine: Engine, scope: Scope, *, raw: bool = False) -> Mapping[str, int]:
    """Return which tables have rows; ``raw`` looks at the files, which is quicker than a scope."""
    schema = "raw." if raw else ""
    sources = {table: f"{schema}{table}" for table in _TABLES}
    sources["limits"] = f"{schema}owners WHERE fd_limit IS NOT NULL"
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT 1) AS one) AS {name}"
        for name, source in sources.items()
    )
    found: dict[str, int] = engine.table(f"SELECT {counts}", scope, few=True).to_pylist()[0]
    return found


def lines(
    summary: Summary,
    recording: str | None,
    *,
    zone: tzinfo = UTC,
    width: int | None = None,
    narrowed: bool = False,
) -> Iterator[str]:
    """Yield the summary in words: each finding with what to read next, then what was checked.

    ``recording`` is how a command names it, and the scope, None where there is no command; a
    ``width`` wraps what is longer;
    ``narrowed`` says that not all of it was looked at. No line can harm a terminal.
    """
    if not summary.found:
        looked = ", ".join(finding.name for finding in summary.checked)
        part = f" of {looked}" if summary.only else ""
        part += " in the part that was asked for" if narrowed else ""
        yield f"nothing found{part}" if summary.checked else "nothing could be checked"
    told: Counter[object] = Counter()
    for row, more in _folded(summary.found, summary.named):
        told[row["finding"]] += 1
        if told[row["finding"]] > _ALIKE:
            continue
        name = " since ".join(str(row[part]) for part in summary.named)
        told_of = f"{name}: " if name else ""
        yield from _wrapped(f"{row['severity']!s:<{len(_MARGIN)}}{told_of}{row['sentence']}", width)
        if more:
            yield from _wrapped(f"{_MARGIN}{_others(more)}", width)
        command = f"sockrec report {row['report']} {recording}" if recording else row["report"]
        yield printable(f"{_MARGIN}{_when(row, zone)} → {command}")
    for finding, count in told.items():
        if count > _ALIKE:
            yield printable(f"{_MARGIN}and {count - _ALIKE:,} more of {finding}")
    yield ""
    if summary.checked:
        names = ", ".join(finding.name for finding in summary.checked)
        yield from _wrapped(f"{'checked:':<{len(_MARGIN)}}{names}", width)
    if summary.only is not None and (others := len(read_findings()) - len(summary.only)):
        were = "was" if others == 1 else "were"
        yield from _wrapped(f"{'others:':<{len(_MARGIN)}}{others} {were} not asked for", width)
    reasons: dict[str, list[str]] = {}
    for unchecked in summary.unchecked:
        reasons.setdefault(unchecked.why, []).append(unchecked.finding)
    for why, names_of in reasons.items():
        yield from _wrapped(f"could not check: {', '.join(names_of)} because {why}", width)


def _folded(
    found: Sequence[Mapping[str, object]], named: Sequence[str]
) -> Iterator[tuple[Mapping[str, object], Sequence[Mapping[str, object]]]]:
    """Yield each finding, the worst first, with those that differ from it in numbers only.

    What may follow after a semicolon makes no difference, nor the severity: workers of a pool.
    """
    alike: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in found:
        words = _NUMBER.sub("#", str(row["sentence"]).partition(";")[0])
        key = (row["finding"], row["comm"], *(row[part] for part in named), words)
        alike.setdefault(key, []).append(row)
    for first, *more in alike.values():
        yield first, more


def _others(more: Sequence[Mapping[str, object]]) -> str:
    """Return how many are alike, and of which processes or namespaces they are."""
    which = [row["pid"] for row in more]
    names = ""
    if None not in which and len(set(which)) == len(which):
        shown = ", ".join(str(pid) for pid in which[:_ALIKE])
        rest = f" and {len(which) - _ALIKE:,} others" if len(which) > _ALIKE else ""
        names = f": pid {shown}{rest}"
    return f"and {len(more):,} like this{names}"


def _wrapped(text: str, width: int | None) -> list[str]:
    text = printable(text)
    if width is None:
        return [text]
    return textwrap.wrap(
        text,
        max(width, 2 * len(_MARGIN)),
        subsequent_indent=_MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _when(row: Mapping[str, object], zone: tzinfo) -> str:
    """Return since when until when, of the second only what differs."""
    times = [time for time in (row["since"], row["until"]) if isinstance(time, datetime)]
    try:
        moments = [t.replace(tzinfo=UTC, microsecond=0).astimezone(zone) for t in times]
    except OverflowError:
        moments = []
    if not moments:
        return "at an unknown time"
    since, until = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (moments[0], moments[-1]))
    first, last = (_offset(moment) for moment in (moments[0], moments[-1]))
    if moments[0] == moments[-1]:
        return f"{since} {first}"
    if first != last:
        return f"{since} {first} – {until} {last}"
    same_day = since[:10] == until[:10]
    return f"{since} – {until[11:] if same_day else until} {first}"


def _offset(moment: datetime) -> str:
    return moment.isoformat()[-6:] if moment.utcoffset() else "UTC"


def _by_finding(
    findings: Mapping[str, Query], parameters: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    given: dict[str, dict[str, object]] = {}
    for name, value in parameters.items():
        finding, dot, parameter = name.partition(".")
        if not dot or finding not in findings:
            known = ", ".join(findings)
            which = "the findings" if len(findings) == len(read_findings()) else "those asked for"
            raise ParameterError(f"{name}: give FINDING.NAME; {which} are {known}")
        given.setdefault(finding, {})[parameter] = value
    for finding, values in given.items():
        findings[finding].values(values)
    return given


def order(row: Mapping[str, object]) -> tuple[object, ...]:
    """Return what findings are sorted by: the worst first."""
    severity, score = row["severity"], row["score"]
    place = SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
    return (
        place,
        -score if isinstance(score, float) else 0.0,
        str(row["since"]),
        str(row["finding"]),
        str(row["subject"]),
        str(row["pid"]),
        str(row["netns"]),
        str(row["sentence"]),
    )


def sampled(engine: Engine, scope: Scope = WHOLE) -> tuple[int, int | None, int | None]:
    """Return how many samples are in scope, and the times of the first and last in us UTC."""
    # A file of sockets alone has no samples.
    for table in ("samples", "sockets"):
        query = f"SELECT count(DISTINCT sample) AS n, min(t_us) AS a, max(t_us) AS z FROM {table}"
        row = engine.table(query, scope, few=True).to_pylist()[0]
        if row["n"]:
            return row["n"], row["a"], row["z"]
    return 0, None, None
