"""The commands ``import ss`` and ``import dump``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recorder.console import hold_standard_descriptors, tell
from recorder.durations import duration

if TYPE_CHECKING:
    from recorder.imports.recording import Imported

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

_Output = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="DIR", help="Directory to make the recording in."),
]
_Timezone = Annotated[
    str | None,
    typer.Option(
        "--timezone",
        metavar="ZONE",
        help="Zone of times that have none, or an abbreviation: Europe/Berlin, UTC, +02:00. "
        "Without it times without a zone are taken for UTC.",
    ),
]
_Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="TIME",
        help="When the first listing was, where the log has no dates; the day, where it has times "
        "only.",
    ),
]
_Host = Annotated[
    str | None, typer.Option("--host", metavar="NAME", help="Name of the host it is of.")
]


_Interval = Annotated[
    float | None,
    typer.Option(
        "--interval",
        metavar="TIME",
        parser=duration,
        help="Time between two listings, where no dates are between them: 2s.",
    ),
]


@app.command(
    name="ss",
    short_help="Make a recording of logs of ss or netstat.",
    epilog="""\b
Examples:
  sockrec import ss ss.log -o incident
  sockrec import ss monday.log tuesday.log --timezone Europe/Berlin -o incident
  sockrec import ss once.txt --start 2026-11-29T15:04:05Z -o incident
""",
)
def import_ss(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Text files.")],
    output: _Output,
    timezone: _Timezone = None,
    start: _Start = None,
    interval: _Interval = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Kind of the sockets, where neither a column Netid nor their states tell: tcp, "
            "udp, raw, sctp, dccp, mptcp.",
        ),
    ] = None,
    host: _Host = None,
) -> None:
    """Make a recording of text logs: what loops of ss or netstat printed, with dates between.

    Any options of ss and netstat, on one line for a socket or several. What is not in the log is
    NULL in the recording; lines that cannot be read are counted, and the first ones shown.
    """
    hold_standard_descriptors()
    from recorder.imports.log import Options
    from recorder.imports.logs import import_logs
    from recorder.imports.moments import MomentError, zone
    from recorder.imports.rows import INET

    if kind is not None and kind not in INET:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(INET)}", param_hint="--kind")
    try:
        options = Options(
            timezone=None if timezone is None else zone(timezone),
            start=start,
            interval_us=None if interval is None else round(interval * 1e6),
            kind=kind,
        )
    except MomentError as error:
        raise typer.BadParameter(str(error), param_hint="--timezone") from error
    _report(import_logs(logs, output, options, host), output)


def _report(result: Imported, output: Path) -> None:
    """Print what became of it."""
    for line in result.told:
        tell(line)
    tell(
        f"{result.samples:,} sample{'s' * (result.samples != 1)}, "
        f"{result.rows:,} socket row{'s' * (result.rows != 1)} in {output}"
    )
    tell(f"next: sockrec summary {shlex.quote(str(output))}")


def _release(text: str) -> tuple[int, int]:
    import re

    found = re.match(r"(\d{1,3})\.(\d{1,4})", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no release of a kernel; write 6.18")
    return int(found[1]), int(found[2])


@app.command(
    name="dump",
    short_help="Make a recording of raw dumps of ss -D.",
    epilog="""\b
Examples:
  sockrec import dump tcp.dump --start 2026-11-29T15:04:05Z -o incident
  sockrec import dump 1.dump 2.dump --start 2026-11-29T15:04:05+01:00 --interval 10s -o incident
""",
)
def import_dump(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that ss -D wrote.")],
    output: _Output,
    start: Annotated[
        str,
        typer.Option(
            "--start", metavar="TIME", help="When the first dump was taken: no dump says it."
        ),
    ],
    timezone: _Timezone = None,
    interval: _Interval = None,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="What the messages of inet sockets are of: tcp, as ss -D writes, udp, raw, sctp, "
            "dccp, mptcp.",
        ),
    ] = "tcp",
    kernel: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--kernel",
            metavar="RELEASE",
            parser=_release,
            help="The kernel that was asked, say 7.0; the last field of tcp_info depends on it.",
        ),
    ] = None,
    host: _Host = None,
) -> None:
    """Make a recording of raw netlink dumps, as ss -D FILE writes them of TCP.

    Each file is a sample. A dump has all that the kernel gave, but neither the time nor the
    processes.
    """
    hold_standard_descriptors()
    from recorder.imports.dump import import_dumps
    from recorder.imports.moments import MomentError, Moments, zone
    from recorder.imports.rows import INET

    if kind not in INET:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(INET)}", param_hint="--kind")
    try:
        start_us = Moments(None if timezone is None else zone(timezone)).of_option(start)
    except MomentError as error:
        raise typer.BadParameter(str(error), param_hint="--start") from error
    result = import_dumps(
        files,
        output,
        start_us=start_us,
        interval_us=None if interval is None else round(interval * 1e6),
        kind=kind,
        release=kernel or (0, 0),
        host=host,
    )
    _report(result, output)
