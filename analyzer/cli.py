"""The analyzer's commands: info, reports, report and sql."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.render import Format

if TYPE_CHECKING:
    from analyzer import Answer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Recordings = Annotated[
    list[Path],
    typer.Argument(
        metavar="RECORDING",
        help="A directory (live, dead or sealed), or Parquet files of one table.",
        show_default=False,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TIME",
        help="Only what was sampled from then on: 2026-11-22T15:04:05 (UTC), +30s after the "
        "first sample, or -5m before the last.",
    ),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Only what was sampled before then.")
]
Form = Annotated[Format, typer.Option("--format", help="How rows are printed.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the report, as 'sockrec reports NAME' describes it; may be repeated.",
    ),
]


@app.command()
def info(
    recording: Recordings,
    form: Annotated[Format, typer.Option("--format", help="table or json.")] = Format.table,
) -> None:
    """Tell what a recording is: host, span, samples, rows, and what could not be seen."""
    import json

    import analyzer
    from analyzer.info import describe

    if form is Format.csv:
        raise typer.BadParameter("info has no csv: table or json", param_hint="--format")
    with analyzer.open(*recording) as opened:
        told = describe(opened.engine)
    if form is Format.json:
        typer.echo(json.dumps(told.facts, indent=2))
        return
    lines = told.lines()
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        typer.echo(f"{label:<{width}}  {text}")


@app.command()
def reports(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Describe this one in full.", show_default=False),
    ] = None,
) -> None:
    """List the reports, or describe one with its columns and parameters."""
    from analyzer.catalog import find_report, read_catalog

    if name is None:
        catalog = read_catalog()
        width = max(map(len, catalog), default=0)
        for report in catalog.values():
            typer.echo(f"{report.name:<{width}}  {report.title}")
        return
    report = find_report(name)
    typer.echo(f"{report.name}: {report.title}\n\n{report.description}")
    typer.echo("\ncolumns:")
    _echo_pairs(list(report.columns.items()))
    if report.params:
        typer.echo("\nparameters (--param NAME=VALUE):")
        _echo_pairs([(p.name, f"{p.doc} {p.type}, default {p.default}.") for p in report.params])


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A report of 'sockrec reports'.")],
    recording: Recordings,
    start: From = None,
    end: To = None,
    param: Parameters = None,
    form: Form = Format.table,
) -> None:
    """Print a report of a recording."""
    import analyzer
    from analyzer.catalog import CatalogError, ParameterError, find_report

    try:
        found = find_report(name)
        found.values(given := _pairs(param or []))
    except ParameterError as error:
        raise typer.BadParameter(str(error), param_hint="--param") from error
    except CatalogError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from error
    with analyzer.open(*recording) as opened:
        _print(opened.report(found, start=start, end=end, **given), form)


@app.command()
def sql(
    recording: Recordings,
    query: Annotated[str, typer.Argument(metavar="'SELECT …'", show_default=False)],
    start: From = None,
    end: To = None,
    form: Form = Format.table,
) -> None:
    """Ask a recording with one SELECT of DuckDB's SQL.

    The tables are sockets, closes, samples, counters, owners, settings, namespaces, cgroups and
    unexplained, with t_us (microseconds UTC) added to each. counters holds only what changed:
    counter_values has every value at every reading, ask it WHERE name = '…'. With --from, baseline
    holds the last row before that time of each socket in sockets.
    """
    import analyzer

    with analyzer.open(*recording) as opened:
        _print(opened.sql(query, start=start, end=end), form)


def _print(answer: Answer, form: Format) -> None:
    from analyzer.render import write

    with answer.batches() as (schema, batches):
        write(schema, batches, form, sys.stdout)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
        pairs[name] = value
    return pairs


def _echo_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        typer.echo(f"  {name:<{width}}  {text}")
