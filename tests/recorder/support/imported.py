"""Logs of our own making, read and imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recorder.imports.log import Log, Options, Sample, Unread
from recorder.imports.logs import import_logs
from recorder.imports.rows import Row
from tests.recorder.support.recorded import read


def log_of(directory: Path, text: str, **options: Any) -> tuple[Log, Unread]:
    """Return a log of that text, and where what it cannot read will be."""
    path = directory / "ss.log"
    path.write_text(text, errors="surrogateescape")
    unread = Unread()
    return Log(path, Options(**options), unread), unread


def samples_of(directory: Path, text: str, **options: Any) -> tuple[list[Sample], Unread]:
    """Return the samples of a text."""
    log, unread = log_of(directory, text, **options)
    return list(log.samples()), unread


def rows_of(directory: Path, text: str, **options: Any) -> list[Row]:
    """Return the rows of a text of which every line can be read."""
    samples, unread = samples_of(directory, text, **options)
    assert unread.count == 0, unread.first
    assert unread.words == {}
    return [told.row for sample in samples for table in sample.tables for told in table.rows]


def imported(directory: Path, text: str, **options: Any) -> Path:
    """Import a text and return where the recording is."""
    path = directory / "ss.log"
    path.write_text(text)
    target = directory / "imported"
    import_logs([path], target, Options(**options))
    return target


def sockets(recording: Path) -> list[dict[str, Any]]:
    """Return the rows of its sockets in the order of samples."""
    rows: list[dict[str, Any]] = read(recording, "sockets").to_pylist()
    return sorted(rows, key=lambda row: (row["sample"], row["cookie"]))
