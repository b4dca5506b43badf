"""The recorder's commands: record, recover, import."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recorder.console import StatusLine, hold_standard_descriptors, tell
from recorder.durations import duration
from recorder.imports.commands import app as import_app

if TYPE_CHECKING:
    from recorder.recording import Progress, Result
    from recorder.ssfilter import Filter

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(import_app, name="import", help="Make a recording of what others wrote down.")


BEHIND = "sockrec.behind"
"""In the context: how many words stand behind a --."""


class Sync(StrEnum):
    """What is synced."""

    segment = "segment"
    sample = "sample"


_EXAMPLES = """\b
Examples:
  sockrec record
      until Ctrl-C, into sockrec-HOST-TIME
  sockrec record -o incident -i 500ms -d 5m
      every half second, for five minutes
  sockrec record -A tcp,udp -- ./load-test --all
      while a command runs; its exit status is passed on
  sockrec record --keep 2h --keep-size 2G
      left on: the last two hours, in two gigabytes at most
  sockrec record --netns current -A '!unix'
      this network namespace only, all but unix sockets
  sockrec record -o https 'sport = :443 or dport = :443'
      only what a filter of ss lets through
"""

_MIN_INTERVAL = 0.01


def _interval(text: str) -> float:
    seconds = duration(text)
    if seconds < _MIN_INTERVAL:
        raise typer.BadParameter(f"{text!r} is less than the shortest interval, 10ms")
    return seconds


def _count(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number of that range."""

    def count(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise typer.BadParameter(f"{text!r} is not a whole number from {least:,} to {most:,}")
        return int(text)

    return count


def _bytes(least: int) -> Callable[[str], int]:
    """Return what reads a number of bytes such as 500M or 2G, at least so many."""

    def read(text: str) -> int:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([KMGT])(?:i?B)?", text, re.ASCII)
        size = int(float(match[1]) * (1 << 10 * (1 + "KMGT".index(match[2])))) if match else 0
        if not match or size < least:
            smallest = f"; the least is {least >> 20}M" if least > 1 else ""
            raise typer.BadParameter(f"{text!r} is not a size as 500M or 2G{smallest}")
        return size

    return read


def _default_directory() -> Path:
    import platform
    import time

    host = re.sub(r"[^\w.-]", "_", platform.node()) or "host"
    return Path(f"sockrec-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


@app.command(
    short_help="Record sockets until -d, -n, Ctrl-C or the end of COMMAND.",
    context_settings={"ignore_unknown_options": False},
    epilog=_EXAMPLES,
)
def record(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILTER] [-- COMMAND ARG...]",
            help="Only sockets that a filter of ss lets through (see docs/ss.md); and record while "
            "a command runs, and exit with its status.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Directory to make the recording in; the default is sockrec-HOST-UTCSTAMP.",
        ),
    ] = None,
    interval: Annotated[
        float,
        typer.Option(
            "-i", "--interval", metavar="TIME", parser=_interval, help="Time between samples."
        ),
    ] = "1s",  # type: ignore[assignment]  # typer parses the default as it does the option
    length: Annotated[
        float | None,
        typer.Option(
            "-d", "--duration", metavar="TIME", parser=duration, help="End after this time."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--samples",
            metavar="N",
            parser=_count(1, 1 << 53),
            help="End after this many samples.",
        ),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "-A",
            "--query",
            metavar="TABLES",
            help="What to record, in the names of ss -A, comma separated; !name leaves one out. "
            "The default is all.",
        ),
    ] = None,
    netns: Annotated[
        list[str] | None,
        typer.Option(
            "--netns",
            metavar="WHICH",
            help="Network namespaces: all, current, a NAME of ip netns, or the PID of a process "
            "in it. May be given several times; the default is all that can be entered.",
        ),
    ] = None,
    no_owners: Annotated[
        bool,
        typer.Option("--no-owners", help="Do not look up the processes that hold the sockets."),
    ] = False,
    no_cmdline: Annotated[
        bool,
        typer.Option("--no-cmdline", help="Do not record command lines, that of COMMAND neither."),
    ] = False,
    no_unix_paths: Annotated[
        bool, typer.Option("--no-unix-paths", help="Do not record the names of unix sockets.")
    ] = False,
    no_closes: Annotated[
        bool, typer.Option("--no-closes", help="Do not record when TCP and UDP sockets close.")
    ] = False,
    closes_buffer: Annotated[
        int | None,
        typer.Option(
            "--closes-buffer",
            metavar="BYTES",
            parser=_count(1, (1 << 30) - 1),
            help="Kernel memory for close events, in each namespace; the default is 32 MiB.",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            "--keep",
            metavar="TIME",
            parser=duration,
            help="Keep what was recorded in this time, and drop what is older.",
        ),
    ] = None,
    keep_size: Annotated[
        int | None,
        typer.Option(
            "--keep-size",
            metavar="SIZE",
            parser=_bytes(16 << 20),
            help="Keep the directory below this size, always, by dropping the oldest: 500M, 2G.",
        ),
    ] = None,
    min_free: Annotated[
        int | None,
        typer.Option(
            "--min-free",
            metavar="SIZE",
            parser=_bytes(1),
            help="Leave so much of the disk free, by dropping the oldest.",
        ),
    ] = None,
    sync: Annotated[
        Sync,
        typer.Option(
            "--sync",
            metavar="WHAT",
            help="What is on the disk, power loss or not, before recording goes on: each segment, "
            "or each sample too.",
        ),
    ] = Sync.segment,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Sample the kernel's sockets into a recording until -d, -n, Ctrl-C or the end of COMMAND.

    Times are written 500ms, 1s, 5m. SIGINT, SIGTERM and SIGHUP end the recording cleanly; with a
    COMMAND they are passed on to it.

    The exit status is 0, that of COMMAND, 127 if there is no such command or 126 if it cannot be
    run; 1 if the recording failed, 2 for a wrong use.
    """
    hold_standard_descriptors()
    given = list(words or ())
    behind = ctx.meta.get(BEHIND, 0)
    asked = " ".join(given[: len(given) - behind])
    argv = tuple(given[len(given) - behind :])
    if argv:
        import shutil

        if shutil.which(argv[0]) is None:
            there = os.path.dirname(argv[0]) and os.path.exists(argv[0])
            tell(f"sockrec: {argv[0]}: " + ("cannot be run" if there else "no such command"))
            raise typer.Exit(126 if there else 127)  # as a shell would
    from recorder.host.limits import Room, check_descriptors
    from recorder.signals import Signals

    check_descriptors()
    room = Room()
    room.check_start()
    with Signals() as signals:
        from recorder.store.imports import leave_out_pandas, set_environment

        leave_out_pandas()
        environment = set_environment(limited=room.is_tight)
        from recorder.host.namespaces import NamespaceError
        from recorder.kernel.tables import QueryError, parse_query, passing
        from recorder.kernel.transport import EVENTS_BUFFER
        from recorder.recording import CommandError, Options, Recording
        from recorder.store.ring import Keep

        found = _filter(asked) if asked.strip() else None
        try:
            choice = parse_query(",".join(tables or ["all"]))
            choice = choice if found is None else passing(choice, found)
        except QueryError as error:
            raise typer.BadParameter(str(error), param_hint="-A") from error
        options = Options(
            directory=output or _default_directory(),
            interval=interval,
            duration=length,
            samples=samples,
            choice=choice,
            filter=found,
            netns=tuple(netns or ["all"]),
            owners=not no_owners,
            closes=not no_closes,
            command_lines=not no_cmdline,
            unix_names=not no_unix_paths,
            closes_buffer=closes_buffer or EVENTS_BUFFER,
            command=argv,
            environment=environment,
            sync=sync is Sync.sample,
            keep=Keep(keep, keep_size, min_free),
        )
        line = StatusLine()
        status = _Status(line)

        def warn(what: str, why: str) -> None:
            line.erase()
            tell(f"sockrec: not recorded: {what}: {why}", patience_s=0)

        def news(text: str) -> None:
            line.erase()
            tell(f"sockrec: {options.directory}: {text}", patience_s=0)

        # What a command prints goes to the same terminal, and nothing tells when.
        show = None if quiet or argv else status.show
        try:
            result = Recording(options, signals, show, warn, room, news).run()
        except NamespaceError as error:
            raise typer.BadParameter(str(error), param_hint="--netns") from error
        except CommandError as error:
            tell(f"sockrec: {error}")
            raise typer.Exit(error.status) from error
        finally:
            line.erase()
    if not quiet:
        tell(_summary(result, options.directory))
    for trouble in dict.fromkeys(result.trouble):
        if trouble not in result.unsealed.values():  # which is told below
            tell(f"sockrec: {options.directory}: {trouble}")
    if result.unsealed:
        number, why = next(iter(result.unsealed.items()))
        tell(
            f"sockrec: {options.directory}: segment {number} could not be sealed: {why}; "
            "its journals are whole: free the cause and run sockrec recover"
        )
        raise typer.Exit(result.status or 1)
    if not quiet and result.progress.samples:
        tell(f"next: sockrec summary {shlex.quote(str(options.directory))}")
    raise typer.Exit(result.status)


def _filter(text: str) -> Filter:
    """Return a filter to record by; a wrong one ends a wrong use."""
    from recorder.ssfilter import FilterError, parse
    from recorder.ssfilter.rows import check

    try:
        found = parse(text)
        check(found)
    except FilterError as error:
        hint = "" if text.startswith("(") else "; a command stands behind --"
        what, _, where = str(error).partition("\n")
        raise typer.BadParameter(f"{what}{hint}\n{where}", param_hint="FILTER") from error
    for warning in found.warnings:
        tell(f"sockrec: {warning}")
    return found


class _Status:
    """What the status line says of a recording, sample by sample."""

    def __init__(self, line: StatusLine) -> None:
        self._line = line
        self._first: tuple[float, float] | None = None

    def show(self, progress: Progress) -> None:
        """Show where the recording stands."""
        # Not what it took to start, nor the first look at all processes: that is over.
        if self._first is None:
            self._first = progress.elapsed, progress.cpu
        elapsed, cpu = progress.elapsed - self._first[0], progress.cpu - self._first[1]
        parts = [
            _counted(progress.samples, "sample"),
            _counted(progress.sockets, "socket"),
            _counted(progress.closes, "close"),
            _counted(progress.namespaces, "namespace"),
            f"{progress.bytes / 1e6:,.1f} MB",
        ]
        parts += [f"{100 * cpu / elapsed:.1f}% CPU"] if elapsed > 0 else []
        self._line.draw("  ".join([f"{progress.elapsed:7.0f} s", *parts, _trouble(progress)]))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _trouble(progress: Progress) -> str:
    """Return what a user may have to do something about."""
    parts = [f"{progress.late:,} late"] * bool(progress.late)
    parts += [f"{progress.skipped:,} skipped"] * bool(progress.skipped)
    parts += [f"{_counted(progress.lost, 'close')} lost"] * bool(progress.lost)
    return ", ".join(parts)


def _summary(result: Result, directory: Path) -> str:
    progress = result.progress
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    trouble = _trouble(progress)
    return (
        f"{_counted(progress.samples, 'sample')}{f' ({trouble})' * bool(trouble)}, "
        f"{_counted(progress.rows, 'socket row')}, {_counted(progress.closes, 'close')}, "
        f"{size / 1e6:,.2f} MB in {directory}"
    )


@app.command(
    short_help="Seal what a killed recorder left in journals.",
    epilog="""\b
Examples:
  sockrec recover incident
  sockrec recover --salvage incident
""",
)
def recover(
    recording: Annotated[
        Path, typer.Argument(metavar="RECORDING", help="The directory of a recording.")
    ],
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Also read, from the journals in damaged/, every sample that checksums prove.",
        ),
    ] = False,
) -> None:
    """Seal what a killed recorder left in journals. Reading a recording does not need this."""
    hold_standard_descriptors()
    from recorder.store.imports import leave_out_pandas

    leave_out_pandas()
    from recorder.store.recover import recover as seal_all

    result = seal_all(recording, salvage=salvage)
    for line in result.told:
        tell(f"sockrec: {line}")
    typer.echo(result.summary)
    raise typer.Exit(1 if result.failed else 0)
