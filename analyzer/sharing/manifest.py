"""MANIFEST.json: what a bundle holds, and what was cut, replaced and left out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from analyzer.sharing.redaction import Account
from analyzer.sharing.words import Level
from recorder.schema import VERSION

NAME = "MANIFEST.json"


def manifest(
    level: Level,
    cut: Mapping[str, Any] | None,
    narrowed: Mapping[str, Any] | None,
    account: Account | None,
    rows: Mapping[str, int],
    files: Mapping[str, bytes | str],
) -> dict[str, Any]:
    """Return what the manifest says; ``files`` gives for each name its bytes or its sha256."""
    return {
        "sockrec_bundle": 1,
        "format_version": VERSION,
        "sockrec": version("sockrec"),
        "redaction": str(level),
        "cut": cut,
        "left_out_for_size": narrowed,
        "rows": dict(rows),
        "columns": None
        if account is None
        else {
            "kept": _counts(account.kept),
            "replaced": _counts(account.replaced),
            "dropped": _counts(account.dropped),
        },
        "sha256": {
            name: content if isinstance(content, str) else hashlib.sha256(content).hexdigest()
            for name, content in files.items()
        },
    }


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


def told(level: Level, account: Account | None) -> Iterator[str]:
    """Yield on one screen what was kept, replaced and dropped."""
    if account is None:
        yield "redaction  none: everything is in it as it was recorded, command lines too"
        return
    always = "ports, times, process numbers, cookies, counters, kernel and settings"
    yield f"kept       {always}"
    for word, counts in (("kept", account.kept), ("replaced", account.replaced)):
        if columns := _by_column(counts):
            also = "as well-known  " if word == "kept" else ""
            yield f"{word:9}  {also}{columns}"
    dropped = _by_column(account.dropped)
    yield f"dropped    {dropped + ', ' if dropped else ''}the recorded command"
    yield f"level      {level}: docs/sharing.md says what it protects from, and what not"


def _by_column(counts: Mapping[str, int]) -> str:
    """Return how many distinct values there are of each column, the most of its tables."""
    most: dict[str, int] = {}
    for name, count in counts.items():
        column = name.partition(".")[2]
        most[column] = max(most.get(column, 0), count)
    return ", ".join(f"{count:,} of {column}" for column, count in sorted(most.items()) if count)
