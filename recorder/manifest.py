"""recording.json: what a recording is, always whole on disk."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recorder.schema import RECORDING_FILE, VERSION, SockrecError


class DirectoryError(SockrecError):
    """The directory for the recording cannot be used."""


class Manifest:
    """The facts of recording.json; ``save`` replaces the file if they changed."""

    def __init__(self, directory: Path, facts: dict[str, Any]) -> None:
        self._directory = directory
        self.facts: dict[str, Any] = {"version": VERSION} | facts
        self._saved = ""

    def add_unseen(self, what: str, why: str) -> bool:
        """Note once that something could not be seen; tell whether that is new."""
        item = {"what": what, "why": why}
        if item in self.facts["unseen"]:
            return False
        self.facts["unseen"].append(item)
        return True

    def save(self) -> None:
        text = json.dumps(self.facts, indent=1)
        if text == self._saved:
            return
        path = self._directory / RECORDING_FILE
        temporary = path.with_name(path.name + ".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        self._saved = text


def make_directory(path: Path) -> None:
    """Make the directory of a new recording, readable by its owner only."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DirectoryError(f"{path}: is not empty; give another directory with -o")
        path.chmod(0o700)
    except OSError as error:
        raise DirectoryError(
            f"{path}: cannot make the recording here: {error.strerror}; give another with -o"
        ) from error


def check_version(directory: Path) -> None:
    """Raise DirectoryError unless this version of the format is what was recorded there."""
    path = directory / RECORDING_FILE
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except FileNotFoundError as error:
        raise DirectoryError(
            f"{directory}: is not a recording: it has no {RECORDING_FILE}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DirectoryError(f"{path}: is damaged: {error!r}") from error
    if version != VERSION:
        raise DirectoryError(
            f"{directory}: has version {version} of the format and this is version {VERSION}: "
            "seal it with the sockrec that recorded it; reading does not need that"
        )


def iso_time(microseconds: int) -> str:
    """Return a UTC time as recording.json writes it."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
