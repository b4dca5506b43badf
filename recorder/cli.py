"""The recorder's commands: record, recover."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recorder.recording import Progress, Result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MIN_INTERVAL = 0.01


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


def _tables(text: str) -> list[str]:
    from recorder.sampler import TABLES

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in TABLES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(TABLES)}")
    return [table for table in TABLES if table in names]


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
        str,
        typer.Option(
            "-A",
            "--query",
            metavar="TABLES",
            help="What to record, comma separated.",
        ),
    ] = "tcp,udp,unix",
    owners: Annotated[
        bool,
        typer.Option(" /--no-owners", help="Do not look up the processes that hold the sockets."),
    ] = True,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Sample the kernel's sockets into a recording until -d, -n, Ctrl-C or the end of COMMAND.

    Times are written 500ms, 1s, 5m. SIGINT, SIGTERM and SIGHUP end the recording cleanly; with a
    COMMAND they are passed on to it.
    """
    argv = tuple(command or ())
    if argv:
        import shutil

        if shutil.which(argv[0]) is None:
            typer.echo(f"sockrec: {argv[0]}: no such command", err=True)
            raise typer.Exit(127)
    from recorder.signals import Signals

    with Signals() as signals:
        from recorder.imports import leave_out_pandas

        leave_out_pandas()
        from recorder.recording import Options, Recording

        options = Options(
            directory=output or _default_directory(),
            interval=interval,
            duration=length,
            samples=samples,
            tables=tuple(_tables(tables)),
            owners=owners,
            command=argv,
        )
        live = sys.stderr.isatty() and not quiet
        result = Recording(options, signals, _show if live else None).run()
    if live:
        sys.stderr.write("\r\x1b[K")
    if not quiet:
        typer.echo(_summary(result, options.directory), err=True)
    if result.unsealed:
        number, why = next(iter(result.unsealed.items()))
        typer.echo(
            f"sockrec: {options.directory}: segment {number} could not be sealed: {why}; "
            "its journals are whole: free the cause and run sockrec recover",
            err=True,
        )
        raise typer.Exit(result.status or 1)
    raise typer.Exit(result.status)


def _show(progress: Progress) -> None:
    late = f"{progress.late} late" + (f", {progress.skipped} skipped" * bool(progress.skipped))
    cpu = 100 * progress.cpu / max(progress.elapsed, 0.1)
    line = (
        f"{progress.elapsed:7.0f} s  {progress.samples:,} samples  {progress.sockets:,} sockets  "
        f"{progress.rows:,} rows  {progress.bytes / 1e6:,.1f} MB  {cpu:.1f}% CPU  {late}"
    )
    import shutil

    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write(f"\r\x1b[K{line[:width]}")
    sys.stderr.flush()


def _summary(result: Result, directory: Path) -> str:
    progress = result.progress
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    trouble = f", {progress.late} late" * bool(progress.late)
    trouble += f", {progress.skipped} skipped" * bool(progress.skipped)
    return (
        f"{progress.samples:,} samples{trouble}, {progress.rows:,} socket rows, "
        f"{size / 1e6:,.2f} MB in {directory}"
    )


@app.command()
def recover(
    recording: Annotated[Path, typer.Argument(help="The directory of a recording.")],
) -> None:
    """Seal what a killed recorder left in journals. Reading a recording does not need this."""
    from recorder.journal import numbers
    from recorder.schema import RECORDING_FILE, SockrecError
    from recorder.segment import seal

    if not (recording / RECORDING_FILE).is_file():
        raise SockrecError(f"{recording}: is not a recording: it has no {RECORDING_FILE}")
    left = numbers(recording)
    for number in left:
        seal(recording, number)
    typer.echo(f"{len(left)} segments sealed in {recording}")
