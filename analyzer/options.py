"""Options that several commands have: times, zones, durations."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from analyzer.screen.cells import printable

_UNITS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Return the seconds of 30, 0.5, 500ms, 30s, 5m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text, re.ASCII)
    if not match or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) < 1e9:
        raise typer.BadParameter(f"{text!r} is not a duration; write 30, 500ms, 30s or 5m")
    return seconds


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TIME",
        help="Only what was sampled from then on: 2026-11-22T15:04:05, or 15:04 on a day of the "
        "recording (in the zone of --tz), +30s after the first sample, -5m before the last, or "
        "mark:NAME.",
    ),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Only what was sampled before then.")
]
Zone = Annotated[
    str,
    typer.Option(
        "--tz",
        metavar="NAME",
        help="Time zone of the times shown, and of --from and --to: Europe/Berlin, local or UTC.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="DURATION", parser=duration, help="Give up a query after: 30, 500ms or 5m."
    ),
]


def zone_of(text: str) -> str:
    """Return the IANA name of a time zone that was given, or end a wrong use."""
    from analyzer.screen.zones import ZoneError, find_zone

    try:
        return find_zone(text)
    except ZoneError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--tz") from error
