"""The recorder's commands: record, recover, import."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recorder.console import StatusLine, hold_standard_descriptors, line_of, tell
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
_NICE = 5


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


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)%", text, re.ASCII)
    if not match or not 0 < float(match[1]) <= 100:
        raise typer.BadParameter(f"{text!r} is not a share as 5%")
    return float(match[1]) / 100


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


def _command(text: str) -> str:
    """Return a command as it is, if it can be split into words."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no command: {str(error).lower()}") from error
    return text


Directory = Annotated[
    Path, typer.Argument(metavar="RECORDING", help="The directory of a recording.")
]


def _labels(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not re.fullmatch(r"[\w.-]{1,100}", key) or not equals or len(value) > 1000:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
        found[key] = value
    return found


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
    append: Annotated[
        Path | None,
        typer.Option(
            "--append",
            metavar="DIR",
            help="Go on in the recording in DIR, after a restart or reboot; make it if there is "
            "none.",
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
    no_network: Annotated[
        bool,
        typer.Option(
            "--no-network",
            help="Do not record interfaces, qdiscs, addresses, routes, rules, neighbours.",
        ),
    ] = False,
    conntrack: Annotated[
        bool,
        typer.Option(
            "--conntrack",
            help="Record what fills the connection tracking table, every 10 s at most.",
        ),
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
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY=VALUE",
            help="Note this with the recording, for who reads it. May be given several times.",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="CONDITION",
            help="Keep what is around the moment when this gets true: 'listen_overflows > 0 per "
            "10s', 'close_wait_age > 5m'. May be given several times.",
        ),
    ] = None,
    before: Annotated[
        float,
        typer.Option(
            "--pre", metavar="TIME", parser=duration, help="Keep so much before that moment."
        ),
    ] = "10m",  # type: ignore[assignment]  # typer parses the default as it does the option
    after: Annotated[
        float,
        typer.Option("--post", metavar="TIME", parser=duration, help="And so much after it."),
    ] = "5m",  # type: ignore[assignment]
    incidents: Annotated[
        Path | None,
        typer.Option(
            "--incidents",
            metavar="DIR",
            help="Directory to keep it in; the default is incidents, beside the recording.",
        ),
    ] = None,
    incidents_size: Annotated[
        int,
        typer.Option(
            "--incidents-size",
            metavar="SIZE",
            parser=_bytes(16 << 20),
            help="Remove the oldest incidents when all take more than this.",
        ),
    ] = "1G",  # type: ignore[assignment]
    run: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            parser=_command,
            help="Run this for each incident, without a shell; SOCKREC_INCIDENT names it.",
        ),
    ] = None,
    max_cpu: Annotated[
        float | None,
        typer.Option(
            "--max-cpu",
            metavar="SHARE",
            parser=_share,
            help="Leave samples out where more of one CPU would be taken: 5%.",
        ),
    ] = None,
    nice: Annotated[
        int | None,
        typer.Option(
            "--nice",
            metavar="N",
            parser=_count(0, 19),
            help=f"Let others have the CPU first; the default is {_NICE}, with a COMMAND 0.",
        ),
    ] = None,
    log: Annotated[
        bool,
        typer.Option(
            "--log", help="Tell what happens in lines of key=value on standard error, for a log."
        ),
    ] = False,
    heartbeat: Annotated[
        float | None,
        typer.Option(
            "--heartbeat", metavar="TIME", parser=duration, help="Tell so often how it goes."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Sample the kernel's sockets into a recording until -d, -n, Ctrl-C or the end of COMMAND.

    Times are written 500ms, 1s, 5m. SIGINT, SIGTERM and SIGHUP end the recording cleanly; with a
    COMMAND they are passed on to it. SIGUSR1 makes a mark, as 'sockrec mark' does.

    The exit status is 0, that of COMMAND, 127 if there is no such command or 126 if it cannot be
    run; 1 if the recording failed, 2 for a wrong use.
    """
    hold_standard_descriptors()
    if append and output:
        raise typer.BadParameter("names the directory, and so does -o", param_hint="--append")
    if not on:
        for option, value in (("--exec", run), ("--incidents", incidents)):
            if value is not None:
                raise typer.BadParameter(
                    "is of incidents: say by --on what one is", param_hint=option
                )
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
        from recorder.store.imports import set_environment

        environment = set_environment(limited=room.is_tight)
        from recorder.host.namespaces import NamespaceError
        from recorder.kernel.tables import QueryError, parse_query, passing
        from recorder.kernel.transport import EVENTS_BUFFER
        from recorder.notify import Notify
        from recorder.recording import CommandError, Options, Recording
        from recorder.store.ring import Keep
        from recorder.triggers.condition import ConditionError
        from recorder.triggers.condition import parse as parse_condition
        from recorder.triggers.incidents import Keeping

        found = _filter(asked) if asked.strip() else None
        try:
            choice = parse_query(",".join(tables or ["all"]))
            choice = choice if found is None else passing(choice, found)
        except QueryError as error:
            raise typer.BadParameter(str(error), param_hint="-A") from error
        directory = append or output or _default_directory()
        keeping = Keeping(
            incidents or directory.absolute().parent / "incidents",
            incidents_size,
            before,
            after,
            tuple(shlex.split(run or "")),
        )
        try:
            conditions = tuple(map(parse_condition, on or ()))
        except ConditionError as error:
            raise typer.BadParameter(str(error), param_hint="--on") from error
        options = Options(
            directory=directory,
            triggers=conditions,
            incidents=keeping if conditions else None,
            append=append is not None,
            max_cpu=max_cpu,
            nice=(0 if argv else _NICE) if nice is None else nice,
            heartbeat=heartbeat,
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
            network=not no_network,
            conntrack=conntrack,
            closes_buffer=closes_buffer or EVENTS_BUFFER,
            command=argv,
            environment=environment,
            sync=sync is Sync.sample,
            keep=Keep(keep, keep_size, min_free),
            labels=_labels(labels or []),
        )
        line = StatusLine()
        status = _Status(line)

        def news(text: str, event: str = "degradation") -> None:
            line.erase()
            told = f"sockrec: {options.directory}: {text}"
            if log:
                told = line_of(event, {"recording": options.directory, "text": text})
            tell(told, patience_s=0)

        def warn(what: str, why: str) -> None:
            if log:
                news(f"not recorded: {what}: {why}")
            else:
                line.erase()
                tell(f"sockrec: not recorded: {what}: {why}", patience_s=0)

        if signals.ignored and not argv and not quiet:
            news(
                f"{signals.ignored} is ignored here: end it by SIGTERM (kill {os.getpid()})",
                "start",
            )
        if log:
            news(f"begins, every {interval:g} s", "start")
        # What a command prints goes to the same terminal, and nothing tells when.
        show = None if quiet or argv or log else status.show
        notify = Notify(os.environ)
        try:
            result = Recording(options, signals, show, warn, room, news, notify).run()
        except NamespaceError as error:
            raise typer.BadParameter(str(error), param_hint="--netns") from error
        except CommandError as error:
            tell(f"sockrec: {error}")
            raise typer.Exit(error.status) from error
        finally:
            line.erase()
    if log:
        ended = f"{result.reason}: {_summary(result, options.directory)}"
        tell(line_of("end", {"recording": options.directory, "text": ended}))
    elif not quiet:
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
    if not quiet and not log and result.progress.samples:
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
    short_help="Mark a moment of a recording that is being made.",
    epilog="""\b
Examples:
  sockrec mark incident "deployed v2"
      afterwards: sockrec summary incident --from 'mark:deployed v2'
""",
)
def mark(
    recording: Annotated[
        Path, typer.Argument(metavar="RECORDING", help="The directory that is being recorded to.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to call the moment.")],
) -> None:
    """Mark this moment of a recording that is being made; returns when the mark is written.

    Marks are in the table marks, and mark:TEXT is a time for --from, --to and --at.
    """
    hold_standard_descriptors()
    from recorder.control import mark as make_mark

    make_mark(recording, text)


@app.command(
    short_help="Save a recording, or its last part, while it goes on.",
    epilog="""\b
Examples:
  sockrec save /var/lib/sockrec/recording --last 10m -o incident
  sockrec save incident --from 'mark:deployed v2' --to 'mark:rolled back'
""",
)
def save(
    recording: Directory,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Directory to make; the default is RECORDING-UTCSTAMP.",
        ),
    ] = None,
    last: Annotated[
        float | None,
        typer.Option("--last", metavar="TIME", parser=duration, help="Only so much of its end."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Begin there; times as 'report' takes them."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End before this time.")
    ] = None,
) -> None:
    """Save a recording, or a part of it, as one of its own, while the recorder may go on.

    Segments are linked, not copied, so that it takes no time and, as long as both are there, no
    room; on another file system they are copied. The recording goes on meanwhile, and may drop
    what was saved.
    """
    hold_standard_descriptors()
    import time

    from recorder.format.times import TimeError, Times
    from recorder.store.save import save as save_part

    if last is not None and (start or end):
        raise typer.BadParameter("is not for --from or --to", param_hint="--last")

    def bounds(times: Times) -> tuple[int | None, int | None]:
        return times.last(last) if last is not None else times.bounds(start, end)

    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    place = recording.absolute()
    target = output or place.with_name(f"{place.name}-{stamp}")
    try:
        saved = save_part(recording, target, bounds)
    except TimeError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error
    samples = "" if saved.samples is None else f"{_counted(saved.samples, 'sample')}, "
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    typer.echo(f"{samples}{size / 1e6:,.2f} MB saved in {target}")


@app.command(
    short_help="Print a systemd unit that leaves the recorder on.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  sockrec service > /etc/systemd/system/sockrec.service
  sockrec service -- -i 500ms --keep-size 10G > /etc/systemd/system/sockrec.service
""",
)
def service(
    context: typer.Context,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- OPTION...]", help="Options of 'record' to put in, behind those there are."
        ),
    ] = None,
) -> None:
    """Print a systemd unit that records all the time, within bounds, with the least rights.

    docs/service.md tells what to do with it.
    """
    import shutil
    import sys

    from recorder.service import ServiceError, unit

    assert context.parent is not None
    commands: Any = context.parent.command
    # what is wrong is told now, not by a unit that never starts
    commands.get_command(context.parent, "record").make_context(
        "record", list(options or []), parent=context.parent
    )
    command = shutil.which(sys.argv[0]) or shutil.which("sockrec")
    if command is None:
        raise ServiceError(f"{sys.argv[0]}: is no command: install sockrec, or put it in PATH")
    typer.echo(unit(Path(command).absolute(), options or []), nl=False)


@app.command(
    short_help="Seal what a killed recorder left in journals.",
    epilog="""\b
Examples:
  sockrec recover incident
  sockrec recover --salvage incident
""",
)
def recover(
    recording: Directory,
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
    from recorder.store.recover import recover as seal_all

    result = seal_all(recording, salvage=salvage)
    for line in result.told:
        tell(f"sockrec: {line}")
    typer.echo(result.summary)
    raise typer.Exit(1 if result.failed else 0)
