"""The commands that hand a recording over: bundle, cut, compact, merge, export and unredact."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.cli import (
    Filter,
    Memory,
    Recording,
    Recordings,
    Threads,
    Where,
    request_of,
    wrong_options,
)
from analyzer.options import From, To, Zone
from analyzer.screen.cells import printable
from analyzer.screen.render import Format
from analyzer.sharing.words import Form, Level

if TYPE_CHECKING:
    from analyzer import Analysis
    from analyzer.sql.views import Scope

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_MAP_ENDING = ".map.json"


def _size(text: str) -> int:
    """Return the bytes of 25MB or 8MiB."""
    from analyzer.sql.memory import SizeError, parse_size

    try:
        return parse_size(text)
    except SizeError:
        raise typer.BadParameter(f"{text!r} is not a size; write 25MB or 8MiB") from None


NewDirectory = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Directory to make: must be given, and not be there.",
        show_default=False,
    ),
]


@app.command(
    short_help="Make one zip of a recording to hand over, redacted.",
    epilog="""\b
Examples:
  sockrec bundle incident
  sockrec bundle incident -o incident.zip --from 22:31 --to 22:35 --where "comm = 'nginx'"
  sockrec bundle incident --list
  sockrec bundle incident -o second.zip --map incident.zip.map.json
""",
)
def bundle(
    recording: Recording,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="ZIP",
            help="File to make; RECORDING.zip by default. It must not be there.",
            show_default=False,
        ),
    ] = None,
    start: From = None,
    end: To = None,
    where: Where = None,
    filter: Filter = None,
    redact: Annotated[
        Level,
        typer.Option(
            "--redact",
            metavar="LEVEL",
            help="default: addresses and names become others of their kind, command lines go; all: "
            "well-known names too; none: all as recorded. docs/sharing.md has the whole.",
        ),
    ] = Level.default,
    prefix_preserving: Annotated[
        bool,
        typer.Option(
            "--prefix-preserving",
            help="Addresses of one network stay in one network, which tells more of them.",
        ),
    ] = False,
    shift_time: Annotated[
        bool, typer.Option("--shift-time", help="Move all times by one secret amount.")
    ] = False,
    known: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="MAP",
            help="The private map of an earlier bundle, so that names stay the same; it is added "
            "to. Without one, a new map is made beside the bundle: ZIP.map.json.",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        int,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            parser=_size,
            help="Leave out the earlier part of the time until the zip is no larger.",
        ),
    ] = "25MB",  # type: ignore[assignment]  # typer parses the default as it does the option
    plan_only: Annotated[
        bool, typer.Option("--list", help="Print what would be in it, and write nothing.")
    ] = False,
    zone: Zone = "UTC",
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Make one zip of a recording to hand over: redacted, described, and searched for leaks.

    It has the tables as Parquet files, what summary and the core reports say, a page that tells how
    it is opened, and a manifest. Every command opens it as it is: sockrec summary incident.zip.
    When it is written it is opened again and searched for every value that was to be taken away; if
    one is found it is deleted, and the exit status is 1.
    """
    from analyzer.sharing.bundle import Wish, plan
    from analyzer.sharing.bundle import bundle as make

    out = output if output is not None else _beside(recording, ".zip")
    if redact is Level.none and (known or prefix_preserving or shift_time):
        raise typer.BadParameter("--redact none replaces nothing", param_hint="--redact")
    map_path = None if redact is Level.none else known or out.with_name(out.name + _MAP_ENDING)
    with _opened([recording], threads, memory, start, end, where, filter, zone) as (opened, scope):
        wish = Wish(
            scope=scope,
            level=redact,
            prefixes=prefix_preserving,
            shift=shift_time,
            max_size=max_size,
            map_path=map_path,
            old_map=known is not None,
        )
        if plan_only:
            made = plan(opened, wish)
            _say(made.lines)
            _say(f"file       {name}" for name in made.files)
            return
        with _bar() as done:
            made = make(opened, out, wish, done)
    _say(made.lines)
    _say([f"made       {out}"])


@app.command(
    short_help="Make a smaller recording: a part of the time, or some sockets.",
    epilog="""\b
Examples:
  sockrec cut incident -o minute --from 22:31 --to 22:32
  sockrec cut incident -o nginx --where "comm = 'nginx'"
  sockrec cut incident -o https --filter 'sport = :443 or dport = :443'
""",
)
def cut(
    recording: Recording,
    output: NewDirectory,
    start: From = None,
    end: To = None,
    where: Where = None,
    filter: Filter = None,
    zone: Zone = "UTC",
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Make a recording of a part of another: of its time, of its sockets, or of both.

    Reports on it say what they say of the whole with the same --from, --to and --where: it has the
    row before that time of each socket, and what reports look at whatever they are about.
    """
    from analyzer.sharing.output import described, write_recording
    from analyzer.sharing.selection import select

    with (
        _opened([recording], threads, memory, start, end, where, filter, zone) as (opened, scope),
        _bar() as done,
        _new_place(output) as place,
    ):
        selection = select(opened.engine, scope)
        facts = described(opened.engine.recordings[0].facts, selection)
        write_recording(place, selection, facts, lambda n, of: done(n / max(of, 1)))
    _say([f"{selection.count:,} rows in {output}"])


@app.command(
    short_help="Make a recording of many small segments one of few.",
    epilog="""\b
Examples:
  sockrec compact incident -o small
""",
)
def compact(
    recording: Recording,
    output: NewDirectory,
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Make a recording with the same rows in one segment of each table.

    The old one is left as it is: remove it yourself when 'sockrec verify' finds the new one whole.
    """
    cut(recording, output, threads=threads, memory=memory)


@app.command(
    short_help="Join runs of one host, one after another, in one recording.",
    epilog="""\b
Examples:
  sockrec merge monday tuesday -o both
""",
)
def merge(
    recordings: Recordings,
    output: NewDirectory,
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Join recordings of one boot of one host that follow each other in one recording.

    Samples are counted on. Those of different hosts or boots are opened together instead:
    sockrec summary A B.
    """
    from analyzer.sharing.merge import merge as join
    from analyzer.sharing.output import write_recording

    with (
        _opened(recordings, threads, memory) as (opened, _),
        _bar() as done,
        _new_place(output) as place,
    ):
        selection, facts = join(opened.engine)
        write_recording(place, selection, facts, lambda n, of: done(n / max(of, 1)))
    _say([f"{selection.count:,} rows in {output}"])


@app.command(
    short_help="Write a recording for other programs: DuckDB, Parquet, CSV, Perfetto.",
    epilog="""\b
Examples:
  sockrec export incident --format duckdb
  sockrec export incident --format perfetto -o incident.json
""",
)
def export(
    recording: Recording,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="Must be given. duckdb: a database with all tables and views; parquet or csv: the "
            "sockets, flat; perfetto: a trace of the connections of each process.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to make, RECORDING and an ending by default. It must not be there.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    memory: Memory = None,
) -> None:
    """Write a recording in a form of another program. Nothing is redacted: bundle does that.

    To export a part of it, cut it first.
    """
    from analyzer.sharing.export import ENDINGS
    from analyzer.sharing.export import export as make

    out = output if output is not None else _beside(recording, ENDINGS[form])
    with (
        _opened([recording], threads, memory) as (opened, _),
        _bar() as done,
        _new_place(out) as place,
    ):
        make(opened, place, form, lambda n, of: done(n / max(of, 1)))
    _say([f"{out.stat().st_size:,} bytes in {out}"])


@app.command(
    short_help="Turn the names of a redacted bundle back into real ones.",
    epilog="""\b
Examples:
  sockrec unredact answer.txt --map incident.zip.map.json
  sockrec unredact "198.18.0.7 resets app-3" --map incident.zip.map.json
  sockrec unredact - --map incident.zip.map.json < answer.txt
""",
)
def unredact(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|FILE", help="A file, a text, or - for standard input.", show_default=False
        ),
    ],
    known: Annotated[
        Path,
        typer.Option(
            "--map",
            metavar="MAP",
            help="The private map of the bundle: must be given.",
            show_default=False,
        ),
    ],
) -> None:
    """Print a text with the real addresses and names in place of those of a bundle.

    What is not in the map stays as it is, and so does what looks like a name in it only in part.
    """
    from analyzer.sharing.pseudonyms import read_map
    from analyzer.sharing.pseudonyms import unredact as turn_back

    pseudonyms = read_map(known)
    if text == "-":
        given = sys.stdin.read()
    elif len(text) < 4096 and "\0" not in text and Path(text).is_file():
        given = Path(text).read_text(encoding="utf-8", errors="replace")
    else:
        given = text
    for line in turn_back(given, pseudonyms).splitlines():
        typer.echo(printable(line))


@contextmanager
def _opened(
    recordings: Sequence[Path],
    threads: int | None,
    memory: str | None,
    start: str | None = None,
    end: str | None = None,
    where: str | None = None,
    filter: str | None = None,
    zone: str = "UTC",
) -> Iterator[tuple[Analysis, Scope]]:
    """Give recordings and what of them is asked for, or end a wrong use."""
    request = request_of(
        recordings, start, end, where, filter, zone, Format.table, threads=threads, memory=memory
    )
    with wrong_options(), request.opened() as analysis:
        yield analysis, request.scope(analysis)


@contextmanager
def _new_place(place: Path) -> Iterator[Path]:
    from analyzer.sharing.output import new_place

    with new_place(place.absolute()) as beside:
        yield beside


@contextmanager
def _bar() -> Iterator[Callable[[float], None]]:
    """Give what is told the share done, which a terminal shows."""
    from analyzer.screen.progress import Bar

    done: list[float] = []
    with Bar(lambda: done[-1] if done else None, sys.stderr):
        yield done.append


def _beside(recording: Path, ending: str) -> Path:
    """Return where what is made of a recording goes by default: here, by its name."""
    name = recording.resolve().name.removesuffix(".zip")
    return Path(f"{name}{ending}")


def _say(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        typer.echo(printable(line))
