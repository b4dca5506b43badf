"""The analyzer's commands: summary, report, reports, sql, info and verify."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.options import From, Timeout, To, Zone, zone_of
from analyzer.screen.cells import printable
from analyzer.screen.prose import paragraphs, two_columns, width_of
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

_LEAST_MEMORY = 1 << 20
_OPENS = "A directory (live, dead or sealed), a zip of one, a glob, or Parquet files of one table"
_OPENS_MANY = f"{_OPENS}; of several recordings each report answers for each."


_ENDINGS = {f".{form}": form for form in Format} | {
    "": Format.table,
    ".jsonl": Format.ndjson,
    ".md": Format.markdown,
    ".txt": Format.table,
}
"""The formats by the endings of the files that they are written to."""

_FOUND, _UNKNOWN = 3, 4
"""What --fail-on makes summary exit with: something was found, or nothing could be told."""


class Severity(StrEnum):
    """What a summary may be made to fail on."""

    warning = "warning"
    critical = "critical"


class Told(StrEnum):
    """How what is not rows is printed."""

    table = "table"
    json = "json"


def _memory(text: str) -> str:
    """Return a size as DuckDB takes it."""
    from analyzer.sql.memory import parse_size

    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})? ?[KMGT]i?B", text, re.ASCII | re.IGNORECASE):
        raise typer.BadParameter(f"{text!r} is not a size; write 500MB or 2GiB")
    if parse_size(text) < _LEAST_MEMORY:
        raise typer.BadParameter(f"{text!r} is too little; write 500MB or 2GiB")
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number of that range."""

    def number(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise typer.BadParameter(f"{text!r} is not a whole number from {least:,} to {most:,}")
        return int(text)

    return number


def _complete_report(incomplete: str) -> list[tuple[str, str]]:
    """Return the reports that a word begins, for a shell."""
    from analyzer.sql.catalog import read_catalog

    return [(q.name, q.title) for q in read_catalog().values() if q.name.startswith(incomplete)]


def _complete_finding(incomplete: str) -> list[tuple[str, str]]:
    """Return the findings that a word begins, for a shell."""
    from analyzer.sql.catalog import read_findings

    return [(q.name, q.title) for q in read_findings().values() if q.name.startswith(incomplete)]


Recording = Annotated[
    Path, typer.Argument(metavar="RECORDING", help=f"{_OPENS}.", show_default=False)
]
Recordings = Annotated[
    list[Path], typer.Argument(metavar="RECORDING...", help=_OPENS_MANY, show_default=False)
]
MaybeRecordings = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RECORDING...]",
        help=f"{_OPENS_MANY} Without one, the newest recording in or below this directory.",
        show_default=False,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        help='Only sockets for which this SQL expression over their columns is true: "comm = '
        "'nginx' AND peer_port = 5432\"; it may name cmdline, exe, unit, slice, runtime, container "
        "and pod of the process, and netns_name, too.",
    ),
]
Filter = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        help="Only sockets that a filter of ss lets through: "
        '"dst 10.0.0.0/8 and sport = :443". See docs/ss.md.',
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
    typer.Option(
        metavar="N",
        parser=_number(0, 1 << 53),
        help="How many rows or series the report lists; 0 is all.",
    ),
]
NamesFile = Annotated[
    Path | None,
    typer.Option(
        "--names",
        metavar="FILE",
        help="Show names in place of addresses: from CSV (address,name) or a file as /etc/hosts.",
        show_default=False,
    ),
]
Form = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="How rows are printed: table, csv, json, ndjson, markdown, parquet or arrow; the "
        "ending of --output says it too.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write this file instead, whole or not at all: .csv, .json, .ndjson, .md, .parquet, "
        ".arrow, or .txt for a table.",
        show_default=False,
    ),
]
Text = Annotated[
    Told, typer.Option("--format", metavar="FORMAT", help="How it is printed: table or json.")
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", parser=_number(1, 1024), help="Threads to use; all by default."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        parser=_memory,
        help="Memory that the query may take before temporary files are used, and the process with "
        "512 MiB beside: 2GB; by default half of the machine's, 8GiB at most.",
    ),
]


def request_of(
    recordings: Sequence[Path],
    start: str | None = None,
    end: str | None = None,
    where: str | None = None,
    filter: str | None = None,
    zone: str = "UTC",
    form: Format | None = None,
    output: Path | None = None,
    threads: int | None = None,
    memory: str | None = None,
    timeout: float | None = None,
    names: Path | None = None,
) -> Request:
    """Return what is asked for, or end a wrong use."""
    from analyzer.request import Request
    from analyzer.screen.names import Names, read_names

    if form is None:
        ending = output.suffix.lower() if output else ""
        if ending not in _ENDINGS:
            known = ", ".join(ending for ending in _ENDINGS if ending)
            raise typer.BadParameter(
                f"{printable(ending)!r} stands for no format: use one of {known}, or say --format",
                param_hint="--output",
            )
        form = _ENDINGS[ending]
    if form in BINARY and output is None and sys.stdout.isatty():
        typer.echo(f"sockrec: {form} is not for a terminal: redirect it, or say -o FILE", err=True)
        raise typer.Exit(2)
    zone = zone_of(zone)
    if filter is not None:
        _check_filter(filter)
    return Request(
        recordings=recordings,
        start=start,
        end=end,
        where=where,
        filter=filter,
        zone=zone,
        form=form,
        output=output,
        threads=threads,
        memory=memory,
        timeout=timeout,
        names=read_names(names) if names is not None else Names(),
    )


def _check_filter(text: str) -> None:
    """End a wrong use if it is no filter, and tell what about it may surprise."""
    from recorder.ssfilter import FilterError, parse

    try:
        found = parse(text)
    except FilterError as error:
        told = "\n".join(map(printable, str(error).split("\n")))
        raise typer.BadParameter(told, param_hint="--filter") from error
    for warning in found.warnings:
        typer.echo(f"sockrec: {printable(warning)}", err=True)


def _named(recordings: Sequence[Path] | None) -> Sequence[Path]:
    """Return the recordings that are named, else the newest one, and say which that is."""
    from analyzer.reading.newest import newest

    if recordings:
        return recordings
    found = newest(Path())
    if found is None:
        raise typer.BadParameter(
            "name one: none was found in or below this directory", param_hint="RECORDING"
        )
    typer.echo(f"sockrec: the newest recording here: {printable(str(found))}", err=True)
    return [found]


@contextmanager
def wrong_options() -> Iterator[None]:
    """Let what is wrong about an option end as a wrong use, and name it."""
    from analyzer.sql.catalog import ParameterError
    from analyzer.sql.views import ScopeError
    from recorder.format.times import TimeError

    try:
        yield
    except ParameterError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--param") from error
    except TimeError as error:
        raise typer.BadParameter(printable(str(error)), param_hint=error.option) from error
    except ScopeError as error:
        lines = [str(error), *getattr(error, "__notes__", ())]
        said = "\n".join(map(printable, lines))
        raise typer.BadParameter(said, param_hint="--where") from error


@contextmanager
def _printed() -> Iterator[Callable[[Iterable[str]], None]]:
    """Give what prints lines, by a pager where they are many."""
    from analyzer.screen.output import destination

    with destination(None) as out:
        yield lambda lines: out.writelines(line + "\n" for line in lines)


@app.command(
    short_help="What a recording is, and what could not be seen.",
    epilog="""\b
Examples:
  sockrec info incident
  sockrec info incident --format json | jq .coverage
""",
)
def info(
    recording: MaybeRecordings = None,
    form: Text = Told.table,
) -> None:
    """Describe a recording: host, span, samples, rows, and what could not be seen."""
    import json

    from analyzer.request import opened
    from analyzer.sql.info import describe

    with opened(_named(recording)) as analysis:
        parts = range(len(analysis.engine.recordings))
        told = [describe(analysis.engine, part) for part in parts]
        with _printed() as say:
            if form is Told.json:
                facts = [one.facts for one in told]
                say([json.dumps(facts if len(facts) > 1 else facts[0], indent=2)])
            else:
                for number, one in enumerate(told):
                    say([""] * (number > 0))
                    say(two_columns(one.lines(), width_of(sys.stdout)))


@app.command(
    short_help="Is a recording whole? Exit 1 unless it is.",
    epilog="""\b
Examples:
  sockrec verify incident
  sockrec verify incident.zip --format json
""",
)
def verify(
    recording: Recordings,
    form: Text = Told.table,
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


@app.command(
    short_help="What is wrong, worst first, and what to read next.",
    epilog="""\b
Examples:
  sockrec summary
  sockrec summary incident --from 22:31 --to 22:35 --tz local
  sockrec summary incident --where "comm = 'nginx'" -p close_wait.age_s=30
  sockrec summary incident --only close_wait --only resets
  sockrec summary incident --format json | jq -r '.findings[].sentence'
  sockrec summary incident --fail-on warning || page-someone
""",
)
def summary(
    recording: MaybeRecordings = None,
    start: From = None,
    end: To = None,
    where: Where = None,
    filter: Filter = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING",
            help="Look for this finding only, in less time, and say so; may be repeated.",
            autocompletion=_complete_finding,
            show_default=False,
        ),
    ] = None,
    param: Thresholds = None,
    fail_on: Annotated[
        Severity | None,
        typer.Option(
            "--fail-on",
            metavar="SEVERITY",
            help="Exit with 3 if something that bad was found (warning or critical), and with 4 if "
            "nothing could be checked.",
            show_default=False,
        ),
    ] = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
    names: NamesFile = None,
) -> None:
    """Say what is wrong in a recording, worst first, and what to read next.

    With --format json it is one object, which docs/summary.md describes; csv, ndjson and the other
    formats have a row for each finding.

    The exit status is 0 whatever was found, 1 if it failed, 2 for a wrong use. With --fail-on it is
    3 if something that bad was found, and 4 if nothing was found because nothing could be checked.
    """
    _check_findings(only or [])
    recordings = _named(recording)
    request = request_of(
        recordings, start, end, where, filter, zone, form, output, threads, memory, timeout, names
    )
    with wrong_options(), request.opened() as opened:
        verdict = request.summary(opened, _pairs(param or []), only or None)
    if fail_on is None:
        return
    if verdict == "unknown":
        raise typer.Exit(_UNKNOWN)
    if verdict == "critical" or verdict == fail_on:
        raise typer.Exit(_FOUND)


def _check_findings(names: Sequence[str]) -> None:
    """End a wrong use unless these are findings."""
    from analyzer.sql.catalog import CatalogError, find_findings

    try:
        find_findings(names)
    except CatalogError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--only") from error


@app.command(
    short_help="List the reports, or describe one.",
    epilog="""\b
Examples:
  sockrec reports
  sockrec reports churn
""",
)
def reports(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Describe this one in full.",
            show_default=False,
            autocompletion=_complete_report,
        ),
    ] = None,
    form: Text = Told.table,
) -> None:
    """List the reports, or describe one with its columns and parameters."""
    import json

    from analyzer.sql.catalog import read_catalog

    found = list(read_catalog().values()) if name is None else [_report(name)]
    width = width_of(sys.stdout)
    with _printed() as say:
        if form is Told.json:
            say([json.dumps([_facts(report) for report in found], indent=2)])
        elif name is None:
            say(two_columns([(report.name, report.title) for report in found], width))
        else:
            say(_described(found[0], width))


def _report(name: str) -> Query:
    """Return the report of that name, or end a wrong use."""
    from analyzer.sql.catalog import CatalogError, find_report

    try:
        return find_report(name)
    except CatalogError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="NAME") from error


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


def _described(report: Query, width: int | None) -> Iterator[str]:
    """Yield what a report's header says, for people."""
    yield f"{printable(report.name)}: {printable(report.title)}"
    yield ""
    yield from paragraphs(report.description, width)
    yield ""
    yield "columns:"
    yield from two_columns(list(report.columns.items()), width, "  ")
    if report.params:
        yield ""
        yield "parameters (--param NAME=VALUE):"
        told = [(p.name, f"{p.doc} {p.values}, default {p.default}.") for p in report.params]
        yield from two_columns(told, width, "  ")
    if report.needs:
        yield ""
        yield f"needs: {', '.join(report.needs)}"


@app.command(
    short_help="Print a report of a recording.",
    epilog="""\b
Examples:
  sockrec report churn
  sockrec report churn incident --param by=peer --top 5
  sockrec report connections incident --from +30s --to -10s --where "comm = 'nginx'"
  sockrec report time_wait incident -o time_wait.csv
  sockrec report ./mine.sql incident
""",
)
def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A report of 'sockrec reports', or a file of your own: ./mine.sql.",
            autocompletion=_complete_report,
        ),
    ],
    recording: MaybeRecordings = None,
    start: From = None,
    end: To = None,
    where: Where = None,
    filter: Filter = None,
    top: Top = None,
    param: Parameters = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
    names: NamesFile = None,
) -> None:
    """Print a report of a recording."""
    found = _report(name)
    given = _given(found, param or [], top)
    recordings = _named(recording)
    request = request_of(
        recordings, start, end, where, filter, zone, form, output, threads, memory, timeout, names
    )
    with wrong_options(), request.opened() as opened:
        request.report(opened, found, given)


@app.command(
    short_help="Ask with one SELECT of SQL, or at a prompt.",
    epilog="""\b
Examples:
  sockrec sql incident 'SELECT peer_addr, max(send_q) FROM sockets GROUP BY ALL'
  sockrec sql incident --from -5m < query.sql
  sockrec sql incident
      a prompt, with history and completion
""",
)
def sql(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDING [QUERY]",
            help=f"{_OPENS_MANY} Without a query, a prompt; not on a terminal, the query is read.",
            show_default=False,
        ),
    ],
    start: From = None,
    end: To = None,
    where: Where = None,
    filter: Filter = None,
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
    request = request_of(
        recordings, start, end, where, filter, zone, form, output, threads, memory, timeout
    )
    if query is None and sys.stdin.isatty():
        if not sys.stdout.isatty() or output is not None:
            raise typer.BadParameter(
                "give one, or let a terminal be the output", param_hint="QUERY"
            )
        with wrong_options(), request.opened() as opened:
            request.scope(opened)
            _converse(request, opened)
        return
    if query is None:
        from analyzer.prompt import read_query

        query = read_query(sys.stdin)
        if not query:
            raise typer.BadParameter("there is none, nor at standard input", param_hint="QUERY")
    with wrong_options(), request.opened() as opened:
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
