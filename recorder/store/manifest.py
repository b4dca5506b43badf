"""recording.json: what a recording is, always whole on disk."""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime
from typing import Any

from recorder.format.files import TEMPORARY
from recorder.schema import RECORDING_FILE, VERSION
from recorder.store.directory import Directory

_RESERVED = 64 << 10
"""Bytes kept free on the disk, so that its being full can be said in recording.json."""


MOST_TROUBLE = 1000
"""What befell a recording of months is told of its latest part."""


class Manifest:
    """The facts of recording.json; ``save`` replaces the file if they changed."""

    def __init__(self, directory: Directory, facts: dict[str, Any]) -> None:
        self._directory = directory
        self.facts: dict[str, Any] = {"version": VERSION, "trouble": []} | facts
        self._saved = ""
        self._reserve = _reserve(directory)

    def add_trouble(self, what: str) -> None:
        """Note that something went wrong, and when."""
        self.facts["trouble"].append({"time": iso_time(time.time_ns() // 1000), "what": what})
        if len(self.facts["trouble"]) > MOST_TROUBLE:
            del self.facts["trouble"][0]

    def end(self, reason: str) -> None:
        """Note how and when the recording ended; ``save`` must follow."""
        told = {"exit": reason, "ended": iso_time(time.time_ns() // 1000)}
        self.facts |= told
        if self.facts.get("runs"):
            self.facts["runs"][-1] |= told

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
        try:
            self._write(text)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._reserve < 0:
                raise
            self.close()
            self._write(text)
        self._saved = text

    def close(self) -> None:
        """Give back the space that was kept."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _write(self, text: str) -> None:
        try:
            with os.fdopen(self._directory.create_temporary(RECORDING_FILE), "wb") as file:
                file.write(text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._directory.discard(RECORDING_FILE + TEMPORARY)
            raise
        self._directory.place(RECORDING_FILE)


def _reserve(directory: Directory) -> int:
    """Take space on the disk by a file without a name; return its descriptor, or -1."""
    try:
        file = os.open(
            ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory.descriptor
        )
    except OSError:  # a file system that has no such files
        return -1
    try:
        os.posix_fallocate(file, 0, _RESERVED)
    except OSError:  # full already, which the first sample will tell
        os.close(file)
        return -1
    return file


def iso_time(microseconds: int) -> str:
    """Return a UTC time as recording.json writes it."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
