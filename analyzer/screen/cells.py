"""Values as text of which none can harm who reads it: plain, JSON, CSV and Markdown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = "-"
"""How a table shows NULL."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_INFINITE = {
    (1 << 63) - 1: "infinity",
    1 - (1 << 63): "-infinity",
    (1 << 31) - 1: "infinity",
    1 - (1 << 31): "-infinity",
}
_HARMLESS = re.compile(
    r"(?! |-+$)(?:[A-Za-z0-9 +%/,-]|\.(?![A-Za-z])|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9]))*"
    r"(?::[0-9]+)?(?<! )"
)
_REFERENCE = re.compile(r"\b(?:GH-\d|[0-9a-f]{7})", re.IGNORECASE)
"""Text in which Markdown, GitHub's too, sees no markup, link, mention or emoji; what it links."""


def printable(text: str) -> str:
    """Return the text with every character that is not plainly visible written as an escape.

    Terminal sequences, line breaks and marks that turn the direction of writing are such.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[object, ...]]:
    """Yield rows of Python values; what has none in Python, such as infinity, becomes text."""
    for batch in batches:
        yield from zip(*map(values, batch.columns), strict=True)


def values(column: pa.Array) -> list[object]:
    """Return the Python values of a column."""
    try:
        found: list[object] = column.to_pylist()
    except (OverflowError, ValueError):  # of the latter kind is UnicodeDecodeError
        found = [_value(scalar) for scalar in column]
    return found


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return str(scalar.as_buffer().to_pybytes(), "utf-8", "backslashreplace")
    except (OverflowError, ValueError):
        if isinstance(number := getattr(scalar, "value", None), int):
            return _INFINITE.get(number, str(number))
    return "unreadable"


def text(value: object) -> str:
    """Return the plain text of a value that is not NULL."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return printable(value)
        case float():
            return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.1f}"
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat(sep=" ", timespec="milliseconds")
        case int() | Decimal() | date() | time() | timedelta():
            return str(value)
    return printable(json.dumps(plain(value), ensure_ascii=False))


def plain(value: object) -> object:
    """Return a value that JSON has a word for; times are ISO and UTC unless they say otherwise."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime():
            return value.isoformat() + ("" if value.tzinfo else "Z")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return str(value)


def csv_text(value: object) -> str:
    """Return a cell of CSV; a spreadsheet runs none as a formula."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return str(plain(value))
    found = text(value)
    if isinstance(value, int | Decimal) or not found.startswith(_FORMULA):
        return found
    return "'" + found


def markdown_text(value: object) -> str:
    """Return a cell of a Markdown table in which nothing is markup, a link, a mention or an emoji.

    GitHub looks for mentions, references and emoji everywhere but in code. A code span cannot hold
    every text, so one with a backtick, a bar or a backslash is written in entities within <code>.
    """
    if value is None:
        return NOTHING
    found = text(value)
    if isinstance(value, int | float | Decimal | datetime):
        return found
    if _HARMLESS.fullmatch(found) and not _REFERENCE.search(found):
        return found
    if re.search(r"[`|\\]", found):
        coded = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in found)
        # Even as an entity and in code, an @ makes an address of mail a link; a comment parts it.
        return f"<code>{coded.replace('&#64;', '&#64;<!-- -->')}</code>"
    # A code span gives up one blank at either end, if it has both.
    return f"` {found} `" if found[0] == found[-1] == " " and found.strip() else f"`{found}`"
