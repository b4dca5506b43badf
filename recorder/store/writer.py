"""A recording being written: its directory, open journals, sealing child and recording.json."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from recorder.store.directory import Directory, open_list
from recorder.store.journal import Journals
from recorder.store.manifest import Manifest, iso_time
from recorder.store.sealer import Sealer


class Writer:
    """Makes a recording on the disk; ``end`` must be called, whatever happened before.

    With ``sync`` a committed sample is on the disk; a segment always is. Raises DirectoryError if
    the recording cannot be made there, OSError for what befalls it later.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, sync: bool = False) -> None:
        self._sync = sync
        self._told = 0  # of the sealer's events
        self._directory = Directory.make(path)
        self._listing = -1
        try:
            self._listing = open_list(self._directory)
            self.manifest = Manifest(self._directory, facts)
            self.manifest.save()
            self._sealer = Sealer(self._directory, self._listing)
        except BaseException:
            self._close()
            raise
        self._journals: Journals | None = None

    @property
    def _open(self) -> Journals:
        if self._journals is None:
            self._journals = Journals(self._directory, 1, sync=self._sync)
        return self._journals

    @property
    def rows(self) -> int:
        """Rows in the open journals."""
        return self._open.rows

    @property
    def size(self) -> int:
        """Bytes in the open journals."""
        return self._open.size

    @property
    def unsealed(self) -> dict[int, str]:
        """Return which numbers are still journals that should be segments by now, and why."""
        return self._sealer.failures

    @property
    def trouble(self) -> list[str]:
        """Return what befell the sealing child."""
        return self._sealer.events

    def cpu(self) -> float:
        """Return the CPU seconds that sealing has taken."""
        return self._sealer.cpu()

    def append(self, table: str, batch: pa.RecordBatch) -> None:
        """Write one batch; it counts once it is committed."""
        self._open.append(table, batch)

    def commit(self, sample: int) -> None:
        """Make what was appended part of the recording."""
        self._open.commit(sample)

    def tell(self, *, news: bool) -> None:
        """Write recording.json if there is news, or if something befell the sealing child."""
        self._sealer.poll()
        if self._note_events() or news:
            self.manifest.save()

    def rotate(self) -> None:
        """Have the open journals sealed and begin new ones."""
        journals = self._open
        self.manifest.save()
        journals.close()
        self._sealer.seal(journals.number)
        self._journals = Journals(self._directory, journals.number + 1, sync=self._sync)

    def end(self, reason: str) -> None:
        """Seal what is recorded, and say in recording.json how and when it ended."""
        try:
            if self._journals is not None:
                self._journals.close()
                self._sealer.seal(self._journals.number)
            self._sealer.finish()
            self._note_events()
            for number, why in self.unsealed.items():
                self.manifest.add_trouble(f"the journals {number} are not sealed: {why}")
            self.manifest.facts["exit"] = reason
            self.manifest.facts["ended"] = iso_time(time.time_ns() // 1000)
            self.manifest.save()
        finally:
            self.manifest.close()
            self._close()

    def _note_events(self) -> bool:
        new = self.trouble[self._told :]
        self._told += len(new)
        for event in new:
            self.manifest.add_trouble(event)
        return bool(new)

    def _close(self) -> None:
        if self._listing >= 0:
            os.close(self._listing)
        self._directory.close()
