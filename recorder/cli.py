"""The recorder's commands: record, recover."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recorder.console import STDERR, hold_standard_descriptors, tell, write

if TYPE_CHECKING:
    from recorder.recording import Progress, Result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


class Sync(StrEnum):
    """What is synced."""

    segment = "segment"
    sample = "sample"


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MIN_INTERVAL = 0.01
_CLEAR_LINE = "\r\x1b[K"


def duration(text: str) -> float:
    """Return the seconds of a duration such as 500ms, 1s, 5m or 1m30s; a bare number is seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    else:
        raise typer.BadParameter(f"{text!r} is not a duration; write 500ms, 1s, 5m or 1m30s")
    if not 0 < seconds < 1e9:
        raise typer.BadParameter(f"{text!r} must be more than nothing and less than 30 years")
    return seconds


def _interval(text: str) -> float:
    seconds = duration(text)
    if seconds < _MIN_INTERVAL:
        raise typer.BadParameter(f"{text!r} is less than the shortest interval, 10ms")
    return seconds


def _default_directory() -> Path:
    import platform
    import time

    host = re.sub(r"[^\w.-]", "_", platform.node()) or "host"
    return Path(f"sockrec-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")


@app.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
def record(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND ARG...]",
            help="Record while this command runs, and exit with its status.",
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
        int | None, typer.Option("-n", "--samples", min=1, help="End after this many samples.")
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
    owners: Annotated[
        bool,
        typer.Option(" /--no-owners", help="Do not look up the processes that hold the sockets."),
    ] = True,
    closes: Annotated[
        bool, typer.Option(" /--no-closes", help="Do not record when TCP and UDP sockets close.")
    ] = True,
    closes_buffer: Annotated[
        int | None,
        typer.Option(
            "--closes-buffer",
            metavar="BYTES",
            min=1,
            max=(1 << 30) - 1,
            help="Kernel memory for close events, in each namespace; the default is 32 MiB.",
        ),
    ] = None,
    sync: Annotated[
        Sync,
        typer.Option(
            "--sync",
            help="What is on the disk, power loss or not, before recording goes on: each segment, "
            "or each sample too.",
        ),
    ] = Sync.segment,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Sample the kernel's sockets into a recording until -d, -n, Ctrl-C or the end of COMMAND.

    Times are written 500ms, 1s, 5m. SIGINT, SIGTERM and SIGHUP end the recording cleanly; with a
    COMMAND they are passed on to it.
    """
    hold_standard_descriptors()
    argv = tuple(command or ())
    if argv:
        import shutil

        if shutil.which(argv[0]) is None:
            tell(f"sockrec: {argv[0]}: no such command")
            raise typer.Exit(127)
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
        from recorder.kernel.tables import QueryError, parse_query
        from recorder.kernel.transport import EVENTS_BUFFER
        from recorder.recording import Options, Recording

        try:
            choice = parse_query(",".join(tables or ["all"]))
        except QueryError as error:
            raise typer.BadParameter(str(error), param_hint="-A") from error
        options = Options(
            directory=output or _default_directory(),
            interval=interval,
            duration=length,
            samples=samples,
            choice=choice,
            netns=tuple(netns or ["all"]),
            owners=owners,
            closes=closes,
            closes_buffer=closes_buffer or EVENTS_BUFFER,
            command=argv,
            environment=environment,
            sync=sync is Sync.sample,
        )
        live = os.isatty(STDERR) and not quiet
        clear = _CLEAR_LINE * live

        def warn(what: str, why: str) -> None:
            write(clear)
            tell(f"sockrec: not recorded: {what}: {why}", patience_s=0)

        try:
            recording = Recording(options, signals, _show if live else None, warn, room)
            result = recording.run()
        except NamespaceError as error:
            raise typer.BadParameter(str(error), param_hint="--netns") from error
        finally:
            write(clear)
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
    raise typer.Exit(result.status)


def _show(progress: Progress) -> None:
    late = f"{progress.late} late" + f", {progress.skipped} skipped" * bool(progress.skipped)
    late += f", {progress.lost:,} closes lost" * bool(progress.lost)
    cpu = 100 * progress.cpu / max(progress.elapsed, 0.1)
    line = (
        f"{progress.elapsed:7.0f} s  {progress.samples:,} samples  {progress.sockets:,} sockets  "
        f"{progress.closes:,} closes  {progress.namespaces:,} namespaces  "
        f"{progress.bytes / 1e6:,.1f} MB  {cpu:.1f}% CPU  {late}"
    )
    try:
        width = os.get_terminal_size(STDERR).columns
    except OSError:  # the terminal is gone
        return
    # a terminal of no columns is one that does not say how many it has
    write(f"{_CLEAR_LINE}{line[: (width or 80) - 1]}")


def _summary(result: Result, directory: Path) -> str:
    progress = result.progress
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    trouble = f", {progress.late} late" * bool(progress.late)
    trouble += f", {progress.skipped} skipped" * bool(progress.skipped)
    lost = f" ({progress.lost:,} lost)" * bool(progress.lost)
    return (
        f"{progress.samples:,} samples{trouble}, {progress.rows:,} socket rows, "
        f"{progress.closes:,} closes{lost}, "
        f"{size / 1e6:,.2f} MB in {directory}"
    )


@app.command()
def recover(
    recording: Annotated[Path, typer.Argument(help="The directory of a recording.")],
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
