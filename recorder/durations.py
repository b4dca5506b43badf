"""A length of time as a person writes it on a command line."""

from __future__ import annotations

import re

import typer

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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
