"""The newest recording below a directory, for a command that names none."""

from __future__ import annotations

import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from recorder.format.facts import parse_facts, read_facts
from recorder.schema import RECORDING_FILE, SockrecError

_MOST = 10_000
"""Directories that are looked into, the nearest first."""

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def newest(below: Path) -> Path | None:
    """Return the recording that was begun last, None if there is none.

    Neither links nor what is hidden are followed, and nothing is looked for within a recording.
    """
    found: list[Path] = []
    waiting = deque([below])
    for _ in range(_MOST):
        if not waiting:
            break
        folder = waiting.popleft()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        if any(entry.name == RECORDING_FILE for entry in inside):
            found.append(folder)
            continue
        waiting += (
            folder / entry.name
            for entry in inside
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        )
    return max(found, key=_begun, default=None)


def _begun(recording: Path) -> datetime:
    """Return when a recording was begun; one that does not say is the oldest."""
    place = recording / RECORDING_FILE
    try:
        begun = datetime.fromisoformat(str(parse_facts(place, read_facts(place)).get("started")))
    except (OSError, SockrecError, ValueError):
        return _NEVER
    return begun if begun.tzinfo else begun.replace(tzinfo=UTC)
