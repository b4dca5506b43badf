"""The analyzer's commands: summary, report, reports, sql, info and verify."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.screen.cells import printable
from analyzer.screen.render import BINARY, Format

if TYPE_CHECKING:
    from analyzer import Analysis
    from analyzer.request import Request
    from analyzer.sql.catalog import Query

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

READING = frozenset({"info", "report", "sql", "summary", "verify"})
"""The commands that open a recording, which may be a stranger's."""

_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_OPENS = (
    "A directory (live, dead or sealed), a zip of one, a glob, or Parquet files of one table; of "
    "several recordings each report answers for each."
)


_ENDINGS = {f".{form}": form for form in Format} | {".jsonl": Format.ndjson, ".md": Format.markdown}


class Told(StrEnum):
    """How what is not rows is printed."""

    table = "table"
    json = "json"


def _duration(text: str) -> float:
    """Return the seconds of 30, 0.5, 500ms, 30s, 5m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text, re.ASCII)
    if not match or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) < 1e9:
        raise typer.BadParameter(f"{text!r} is not a duration; write 30, 500ms, 30s or 5m")
    return seconds


def _memory(text: str) -> str:
    """Return a size as DuckDB takes it."""
    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})? ?[KMGT]i?B", text, re.ASCII | re.IGNORECASE):
        raise typer.BadParameter(f"{text!r} is not a size; write 500MB or 2GiB")
    return text


Recordings = Annotated[
    list[Path], typer.Argument(metavar="RECORDING", help=_OPENS, show_default=False)
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TIME",
        help="Only what was sampled from then on: 2026-11-22T15:04:05 (in the zone of --tz), +30s "
        "after the first sample, or -5m before the last.",
    ),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Only what was sampled before then.")
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        help="Only sockets for which this SQL expression over their columns is true: "
        "\"comm = 'nginx' AND peer_port = 5432\".",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the report, as 'sockrec reports NAME' describes it; may be repeated.",
    ),
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="FINDING.NAME=VALUE",
        help="A threshold of a finding, as docs/reports.md describes it; may be repeated.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="How many rows or series the report lists; 0 is all."),
]
Zone = Annotated[
    str,
    typer.Option(
        "--tz",
        metavar="NAME",
        help="Time zone of the times shown, and of --from and --to: Europe/Berlin, local or UTC.",
    ),
]
Form = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="How rows are printed: by the ending of --output, else as a table.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write this file instead, whole or not at all.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=1024, help="Threads to use; all by default.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        parser=_memory,
        help="Memory that the query may take before temporary files are used, and the process with "
        "256 MiB beside: 2GB; by default half of the machine's, 8GiB at most.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="DURATION", parser=_duration, help="Give up a query after: 30, 500ms or 5m."
    ),
]


def _request(
    recordings: Sequence[Path],
    start: str | None,
    end: str | None,
    where: str | None,
    zone: str,
    form: Format | None,
    output: Path | None,
    threads: int | None,
    memory: str | None,
    timeout: float | None,
) -> Request:
    """Return what is asked for, or end a wrong use."""
    from analyzer.request import Request
    from analyzer.screen.zones import ZoneError, find_zone, with_offset

    if form is None:
        form = _ENDINGS.get(output.suffix.lower() if output else "", Format.table)
    if form in BINARY and output is None and sys.stdout.isatty():
        typer.echo(f"sockrec: {form} is not for a terminal: redirect it, or say -o FILE", err=True)
        raise typer.Exit(2)
    try:
        zone = find_zone(zone)
    except ZoneError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--tz") from error
    return Request(
        recordings=recordings,
        start=start and with_offset(start, zone),
        end=end and with_offset(end, zone, latest=True),
        where=where,
        zone=zone,
        form=form,
        output=output,
        threads=threads,
        memory=memory,
        timeout=timeout,
    )


@app.command()
def info(
    recording: Recordings,
    form: Annotated[Told, typer.Option("--format", help="How it is printed.")] = Told.table,
) -> None:
    """Tell what a recording is: host, span, samples, rows, and what could not be seen."""
    import json

    from analyzer.request import opened
    from analyzer.sql.info import describe

    with opened(recording) as analysis:
        told = [describe(analysis.engine, part) for part in range(len(analysis.engine.recordings))]
    if form is Told.json:
        facts = [one.facts for one in told]
        typer.echo(json.dumps(facts if len(facts) > 1 else facts[0], indent=2))
        return
    for number, one in enumerate(told):
        lines = one.lines()
        width = max(len(label) for label, _ in lines)
        typer.echo("\n" * (number > 0), nl=False)
        for label, text in lines:
            typer.echo(f"{label:<{width}}  {text}")


@app.command()
def verify(
    recording: Recordings,
    form: Annotated[Told, typer.Option("--format", help="How it is printed.")] = Told.table,
) -> None:
    """Check every checksum of a recording, its order and its sums; exit 1 unless it is whole.

    Each line says which file, table, column and span of time is damaged or missing, or what could
    not be checked.
    """
    import json

    from analyzer.request import opened
    from analyzer.screen.progress import Bar
    from analyzer.sql.verify import verify as check

    done: list[float] = []
    with opened(recording) as analysis:
        with Bar(lambda: done[-1] if done else None, sys.stderr):
            found = check(analysis.engine, lambda n, of: done.append(n / of if of else 1.0))
        analysis.engine.news()  # it is told below
        if form is Told.json:
            typer.echo(json.dumps(found.facts(), indent=2))
        else:
            for line in found.lines():
                typer.echo(line)
    if not found.whole:
        raise typer.Exit(1)


@app.command()
def summary(
    recording: Recordings,
    start: From = None,
    end: To = None,
    where: Where = None,
    param: Thresholds = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
) -> None:
    """Tell what is wrong in a recording, worst first, and what to read next."""
    from analyzer.sql.catalog import ParameterError

    request = _request(recording, start, end, where, zone, form, output, threads, memory, timeout)
    with request.opened() as opened:
        try:
            request.summary(opened, _pairs(param or []))
        except ParameterError as error:
            raise typer.BadParameter(printable(str(error)), param_hint="--param") from error


@app.command()
def reports(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Describe this one in full.", show_default=False),
    ] = None,
    form: Annotated[Told, typer.Option("--format", help="How it is printed.")] = Told.table,
) -> None:
    """List the reports, or describe one with its columns and parameters."""
    import json

    from analyzer.sql.catalog import find_report, read_catalog

    found = list(read_catalog().values()) if name is None else [find_report(name)]
    if form is Told.json:
        typer.echo(json.dumps([_facts(report) for report in found], indent=2))
    elif name is None:
        _echo_pairs([(report.name, report.title) for report in found], indent="")
    else:
        _describe(found[0])


def _facts(report: Query) -> dict[str, object]:
    """Return what a report's header says."""
    return {
        "name": report.name,
        "title": report.title,
        "description": report.description,
        "needs": list(report.needs),
        "columns": dict(report.columns),
        "params": [
            {"name": p.name, "type": p.type, "default": p.default, "doc": p.doc}
            | ({"choices": list(p.choices)} if p.choices else {})
            for p in report.params
        ],
    }


def _describe(report: Query) -> None:
    typer.echo(f"{printable(report.name)}: {printable(report.title)}\n")
    for line in report.description.splitlines():
        typer.echo(printable(line))
    typer.echo("\ncolumns:")
    _echo_pairs(list(report.columns.items()))
    if report.params:
        typer.echo("\nparameters (--param NAME=VALUE):")
        _echo_pairs([(p.name, f"{p.doc} {p.values}, default {p.default}.") for p in report.params])
    if report.needs:
        typer.echo(f"\nneeds: {', '.join(report.needs)}")


@app.command()
def report(
    name: Annotated[
        str,
        typer.Argument(help="A report of 'sockrec reports', or a file of your own: ./mine.sql."),
    ],
    recording: Recordings,
    start: From = None,
    end: To = None,
    where: Where = None,
    top: Top = None,
    param: Parameters = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
) -> None:
    """Print a report of a recording."""
    from analyzer.sql.catalog import CatalogError, find_report

    try:
        found = find_report(name)
    except CatalogError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="NAME") from error
    given = _given(found, param or [], top)
    request = _request(recording, start, end, where, zone, form, output, threads, memory, timeout)
    with request.opened() as opened:
        request.report(opened, found, given)


@app.command()
def sql(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDING [QUERY]",
            help=_OPENS + " Without a query, a prompt; not on a terminal, the query is read.",
            show_default=False,
        ),
    ],
    start: From = None,
    end: To = None,
    where: Where = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
) -> None:
    """Ask a recording with one SELECT of DuckDB's SQL, or at a prompt with many.

    The tables are sockets, closes, samples, counters, owners, settings, namespaces, cgroups and
    unexplained; connections, listeners, deltas and counter_values are made of them. t_us is the
    time of a row in microseconds UTC. counters holds only what changed, counter_values every value
    at every reading: ask it WHERE name = '…'. With --from, baseline holds the last row before that
    time of each socket in sockets. .tables and .schema of the prompt describe them all.
    """
    recordings, query = _split(words)
    request = _request(recordings, start, end, where, zone, form, output, threads, memory, timeout)
    if query is None and sys.stdin.isatty():
        if not sys.stdout.isatty() or output is not None:
            raise typer.BadParameter(
                "give one, or let a terminal be the output", param_hint="QUERY"
            )
        with request.opened() as opened:
            _converse(request, opened)
        return
    if query is None:
        from analyzer.prompt import read_query

        query = read_query(sys.stdin)
        if not query:
            raise typer.BadParameter("there is none, nor at standard input", param_hint="QUERY")
    with request.opened() as opened:
        request.sql(opened, query)


def _split(words: Sequence[str]) -> tuple[list[Path], str | None]:
    """Return the recordings and the query, which is the last word unless that names a file."""
    last = words[-1]
    if re.search(r"[\s(;]", last) and not os.path.lexists(last.replace("\0", "")):
        if len(words) == 1:
            raise typer.BadParameter("name a recording before the query", param_hint="RECORDING")
        return [Path(word) for word in words[:-1]], last
    return [Path(word) for word in words], None


def _converse(request: Request, opened: Analysis) -> None:
    """Answer at a prompt until its user leaves."""
    from analyzer.prompt import Answers, Prompt, described_tables, history_path
    from analyzer.sql.catalog import find_report, read_catalog

    def run_report(name: str, words: Sequence[str]) -> None:
        request.report(opened, find_report(name), _pairs(words))

    Prompt(
        Answers(opened.engine.check, lambda query: request.sql(opened, query), run_report),
        described_tables(),
        read_catalog(),
        sys.stdout,
    ).run(history_path(os.environ))


def _given(report: Query, param: Sequence[str], top: int | None) -> dict[str, str]:
    """Return the parameters of a report as they were given, checked."""
    from analyzer.sql.catalog import ParameterError

    try:
        given = _pairs(param)
        report.values(given)
    except ParameterError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--param") from error
    if top is None:
        return given
    if not any(p.name == "top" for p in report.params):
        raise typer.BadParameter(f"{report.name} has no parameter top", param_hint="--top")
    if "top" in given:
        raise typer.BadParameter("top is given by --param too", param_hint="--top")
    return given | {"top": str(top)}


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return names and values. Raises ParameterError."""
    from analyzer.sql.catalog import ParameterError

    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _echo_pairs(pairs: Sequence[tuple[str, str]], indent: str = "  ") -> None:
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        typer.echo(f"{indent}{printable(name):<{width}}  {printable(text)}")
