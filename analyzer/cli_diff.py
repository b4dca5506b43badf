"""The command diff: two moments of a recording, or two recordings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.cli import (
    Filter,
    Form,
    Memory,
    Output,
    Recordings,
    Threads,
    Top,
    Where,
    request_of,
    wrong_options,
)
from analyzer.options import Timeout, Zone

if TYPE_CHECKING:
    from analyzer import Analysis
    from analyzer.difference import Row
    from analyzer.request import Request
    from analyzer.sql.views import Scope

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_TOP = 10
_RANKS = ("name", "place", "measure", "before", "after", "said")


@app.command(
    short_help="What differs between two moments, or two recordings.",
    epilog="""\b
Examples:
  sockrec diff incident --from 15:04:05 --to 15:05
  sockrec diff incident --from first --to last --filter 'sport = :443'
  sockrec diff monday incident
""",
)
def diff(
    recording: Recordings,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MOMENT",
            help="The earlier moment of one recording: a time as other commands have it, first, "
            "last or sample:N; the default is first.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="MOMENT",
            help="The later moment; the default is last.",
            show_default=False,
        ),
    ] = None,
    where: Where = None,
    filter: Filter = None,
    top: Top = None,
    zone: Zone = "UTC",
    form: Form = None,
    output: Output = None,
    threads: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
) -> None:
    """Say what differs between two moments of a recording, or between two recordings.

    Sockets are folded by process, by listener or destination, and by state. Between two moments it
    is counted which appeared, vanished or changed state; two recordings are compared by averages,
    rates and shares, as they may be of different lengths, and what only one of them has of the
    findings of summary comes first.
    """
    if len(recording) > 1 and (start or end):
        raise typer.BadParameter(
            "two recordings are compared whole: cut them first", param_hint="--from, --to"
        )
    request = request_of(
        recording,
        where=where,
        filter=filter,
        zone=zone,
        form=form,
        output=output,
        threads=threads,
        memory=memory,
        timeout=timeout,
    )
    with wrong_options(), request.opened() as opened:
        parts = _parts(recording, opened)
        scope = request.scope(opened)
        if len(parts) == 1:
            found = _moments(request, opened, scope, start or "first", end or "last")
        else:
            found = _recordings(opened, scope, (parts[0], parts[1]))
        _show(request, opened, list(found), _TOP if top is None else top)


def _parts(named: Sequence[Path], opened: Analysis) -> list[int]:
    """Return the places of the recordings in the order in which they are named."""
    paths = [recording.path.resolve() for recording in opened.engine.recordings]
    if len(paths) not in (1, 2):
        raise typer.BadParameter("name one recording, or two", param_hint="RECORDING")
    first = named[0].resolve()
    parts = list(range(len(paths)))
    return parts[::-1] if len(paths) == 2 and paths[1] == first else parts


def _moments(
    request: Request, opened: Analysis, scope: Scope, start: str, end: str
) -> Iterator[Row]:
    from zoneinfo import ZoneInfo

    from analyzer.difference import between
    from analyzer.ss.moments import Moments, told
    from analyzer.ss.rows import Rows

    zone = ZoneInfo(request.zone)
    moments = Moments(Rows(opened.engine.sources, request.timeout, opened.engine), zone)
    first, last = moments.find(start), moments.find(end)
    if first.us >= last.us:
        raise typer.BadParameter(
            f"is no earlier moment than --to: both are {told(first, zone)}"
            if first == last
            else "is later than --to",
            param_hint="--from",
        )
    for label, moment in (("from", first), ("to", last)):
        typer.echo(f"sockrec: {label} {told(moment, zone)}", err=True)
    return between(opened.engine, first, last, scope)


def _recordings(opened: Analysis, scope: Scope, parts: tuple[int, int]) -> Iterator[Row]:
    from analyzer.difference import across
    from analyzer.screen.progress import Bar

    every = opened.engine.scopes(scope)
    done: list[float] = []
    with Bar(lambda: done[-1] if done else None, sys.stderr):
        yield from list(
            across(
                opened.engine,
                (every[parts[0]], every[parts[1]]),
                lambda n, of: done.append(n / max(of, 1)),
            )
        )


def _show(request: Request, opened: Analysis, found: Sequence[Row], top: int) -> None:
    from analyzer.difference import table, topped
    from analyzer.screen.output import destination
    from analyzer.screen.render import Format, Look, write

    shown, left_out = topped(found, top)
    rows = table(shown)
    if request.form is Format.table:  # what applies to no row is no column for people
        rows = rows.select([n for n in rows.column_names if rows[n].null_count < len(shown)])
    with destination(request.output, [*request.recordings, *opened.engine.paths]) as out:
        ranks = tuple(name for name in _RANKS if name in rows.column_names)
        look = Look(request.zone, ranks=ranks)
        write(rows.schema, rows.to_batches(), request.form, out, look)
    if not shown:
        typer.echo("sockrec: nothing differs", err=True)
    for what, count in left_out.items():
        typer.echo(f"sockrec: {count:,} more of {what}: --top 0 lists all", err=True)
