"""recording.json, read: the facts of a recording, from whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from recorder.format.files import FileError, read_whole
from recorder.schema import VERSION

MOST_BYTES = 4 << 20
"""Python takes some fifty bytes of memory for each byte of the worst JSON."""


def read_facts(path: Path, *, directory: int | None = None) -> str:
    """Return the text of recording.json. Raises FileError or OSError."""
    return read_whole(path, MOST_BYTES, directory=directory).decode(errors="replace")


def parse_facts(path: Path, text: str) -> Mapping[str, object]:
    """Return the facts in a text that was found at ``path``. Raises FileError."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not a sockrec recording: {error}") from error
    if not isinstance(facts, dict):
        raise FileError(f"{path}: not a sockrec recording: no JSON object")
    check_version(path, facts.get("version"))
    return facts


def check_version(where: Path, version: object) -> None:
    """Raise FileError unless this sockrec can read that version of the format."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FileError(f"{where}: not a sockrec recording: no format version")
    if version > VERSION:
        raise FileError(
            f"{where}: written in format version {version}, this sockrec reads up to {VERSION}: "
            "use a newer one"
        )
