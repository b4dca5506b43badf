"""Numbers and times as people read them on a terminal, by the suffix of their column's name."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal

Number = int | float | Decimal

# Our own, and small: libraries for sizes and durations write "512 Bytes" and "60 s", spell long
# durations out in words and know no rates.
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
"""Decimal, as networks count and the sentences of findings do."""

_SECONDS = {"_us": 1e-6, "_ms": 1e-3, "_s": 1.0}
_UNITS = {"_bytes_per_s": "/s", "_per_s": "/s", "_bytes": "", "_percent": ""} | dict.fromkeys(
    _SECONDS, ""
)
"""What a name ends in that the values tell as well, and what stands instead."""

_MOMENT = 10 * 365 * 86400
"""A duration longer than ten years, in seconds, is a moment counted from 1970."""

_IDENTITY = re.compile(
    r"(?:.+_)?(?:port|id|pid|uid|fd|cookie|inode|netns|sample|start_us|mark|interface)"
)
"""Numbers that tell things apart and that people copy: digits only."""


def short_names(names: Sequence[str], columns: Sequence[Sequence[object]]) -> list[str]:
    """Return the names without the units that the values bear, unless two would be one."""
    short = [_short(name, column) for name, column in zip(names, columns, strict=True)]
    told = Counter([*short, *names])  # a name that stays is counted twice
    return [
        new if new == old or told[new] == 1 else old for new, old in zip(short, names, strict=True)
    ]


def number_text(name: str, column: Sequence[object] = ()) -> Callable[[Number], str]:
    """Return what writes the numbers of the column of that name; some of its values tell more."""
    if _IDENTITY.fullmatch(name):
        return str
    if name.endswith("_bytes_per_s"):
        return lambda value: f"{size(value)}/s"
    if name.endswith("_per_s"):
        return lambda value: f"{_rough(value)}/s"
    if name.endswith("_bytes") or re.match(r"(?:d_)?bytes(?:_|$)", name):
        return size
    if name.endswith("_percent"):
        return _percent
    for suffix, seconds in _SECONDS.items():
        if name.endswith(suffix):
            if _moments(column, seconds):
                return str
            return lambda value: duration(float(value) * seconds)
    return grouped


def grouped(value: Number) -> str:
    """Write a number without a unit, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.1f}"
    return f"{value:,}"


def size(value: Number) -> str:
    """Write bytes: 512 B, 1.2 MB."""
    number = float(value)
    for unit in _SIZES:
        if abs(number) < 999.95 or unit == _SIZES[-1] or not math.isfinite(number):
            return f"{number:.4g} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("the last unit takes all")


def duration(seconds: float) -> str:
    """Write a time: 950 µs, 1.2 ms, 3 min 05 s, 2 d 04 h."""
    length = abs(seconds)
    sign = "-" if seconds < 0 else ""
    if not math.isfinite(seconds) or not seconds:
        return f"{seconds:g} s"
    if length < 59.95:
        scale, unit = (1e6, "µs") if length < 0.9995e-3 else (1e3, "ms")
        if length >= 0.9995:
            scale, unit = 1.0, "s"
        return f"{sign}{length * scale:.3g} {unit}"
    if (whole := round(length)) < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02} s"
    if (minutes := round(length / 60)) < 24 * 60:
        return f"{sign}{minutes // 60} h {minutes % 60:02} min"
    hours = round(length / 3600)
    return f"{sign}{hours // 24:,} d {hours % 24:02} h"


def common_day(columns: Sequence[Sequence[object]]) -> date | None:
    """Return the one day on which all times of all columns are, None if there is none."""
    days = {value.date() for column in columns for value in column if isinstance(value, datetime)}
    return days.pop() if len(days) == 1 else None


def time_text(column: Sequence[object], day: date | None) -> Callable[[datetime], str]:
    """Return what writes the times of a column: no shorter than tells them apart.

    The date is left out if all are of that day, the milliseconds if the seconds differ.
    """
    times = {value for value in column if isinstance(value, datetime)}
    apart = len({value.replace(microsecond=0) for value in times}) == len(times)
    spec = "seconds" if apart else "milliseconds"
    start = 0 if day is None else len("2026-11-22 ")
    return lambda value: value.isoformat(sep=" ", timespec=spec)[start:]


def _short(name: str, column: Sequence[object]) -> str:
    """Return a name without the unit that the numbers of its column bear."""
    if _IDENTITY.fullmatch(name) or not any(isinstance(value, Number) for value in column):
        return name
    for suffix, instead in _UNITS.items():
        if name.endswith(suffix) and name != suffix:
            moments = suffix in _SECONDS and _moments(column, _SECONDS[suffix])
            return name if moments else name.removesuffix(suffix) + instead
    return name


def _moments(column: Sequence[object], seconds: float) -> bool:
    return any(_seconds(value) * seconds > _MOMENT for value in column)


def _percent(value: Number) -> str:
    number = float(value)
    return f"{number:,.2g} %" if 0 < abs(number) < 0.05 else f"{number:,.1f} %"


def _rough(value: Number) -> str:
    number = float(value)
    return f"{number:,.0f}" if abs(number) >= 99.5 else f"{number:.3g}"


def _seconds(value: object) -> float:
    return abs(float(value)) if isinstance(value, int | float | Decimal) else 0.0
