"""A recording being written: its directory, open journals, sealing child and recording.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from recorder.format.runs import COUNTS, boot_numbers
from recorder.host.limits import lack
from recorder.schema import VERSION
from recorder.store.append import (
    AppendError,
    continued,
    count,
    is_recording,
    lock_list,
    read_earlier,
)
from recorder.store.directory import Directory, open_list
from recorder.store.journal import Journals, numbers
from recorder.store.manifest import Manifest
from recorder.store.ring import LONG_LIST, Keep, Ring
from recorder.store.salvage import free_number
from recorder.store.sealer import Sealer

EVERYTHING = Keep()

SEALING_PATIENCE_S = 60.0
"""How long the oldest number is waited for that is to be dropped and is being sealed."""


class Writer:
    """Makes a recording on the disk; ``end`` must be called, whatever happened before.

    With ``sync`` a committed sample is on the disk; a segment always is. ``keep`` are bounds
    to stay within by dropping the oldest; ``tell`` is told what befalls the recording, and a word
    for what kind of thing that is.
    With ``append`` it goes on in a recording that is there. ``sample`` is the number of the first
    sample to be written. Raises DirectoryError if the recording cannot be made there, AppendError
    if it cannot be gone on in, OSError for what befalls it later, RingError if a bound cannot be
    kept.
    """

    def __init__(
        self,
        path: Path,
        facts: dict[str, Any],
        *,
        sync: bool = False,
        keep: Keep = EVERYTHING,
        tell: Callable[[str, str], None] = lambda text, event: None,
        append: bool = False,
    ) -> None:
        self._sync = sync
        self._tell = tell
        self._told = 0  # of the sealer's events
        self._said = False
        before = append and is_recording(path)
        self._directory = Directory.open(path) if before else Directory.make(path)
        self._listing = -1
        self._ring: Ring | None = None
        self._keep = keep
        self._number = 1
        self.sample = 0
        self.counted: dict[str, int | None] = dict.fromkeys(COUNTS, 0)
        try:
            self._listing = lock_list(self._directory) if before else open_list(self._directory)
            earlier = read_earlier(self._directory, facts) if before else None
            self.manifest = Manifest(self._directory, earlier or facts)
            if earlier is not None:
                self._sealer = Sealer(self._directory, self._listing)
                self._seal_left(earlier)
                self._number = free_number(self._directory)
                self.sample, self.counted = count(self._directory, earlier)
                made = continued(earlier, facts, self._number, self.counted)
                self.manifest.facts = {"version": VERSION} | made
            self.manifest.save()
            self._ring = self._make_ring(self.manifest.facts)
            if earlier is None:
                self._sealer = Sealer(self._directory, self._listing)
        except BaseException:
            self._close()
            raise
        self._journals: Journals | None = None

    def _make_ring(self, facts: Mapping[str, Any]) -> Ring:
        return Ring(
            self._directory,
            self._listing,
            self._keep,
            settle=self._settle,
            tell=self.say,
            boots=boot_numbers(facts),
        )

    def _seal_left(self, earlier: Mapping[str, Any]) -> None:
        """Seal what an earlier run left in journals, in its name."""
        # a full disk may have to be made room on first
        self._ring = self._make_ring(earlier)
        for number in numbers(self._directory):
            self._sealer.seal(number)
        self._finish()
        if self.unsealed:
            number, why = next(iter(self.unsealed.items()))
            raise AppendError(
                f"{self._directory.path}: cannot be gone on in, as segment {number} cannot be "
                f"sealed: {why}; free the cause, or record to another directory"
            )

    @property
    def ring(self) -> Ring:
        assert self._ring is not None
        return self._ring

    @property
    def _open(self) -> Journals:
        if self._journals is None:
            self._journals = self._begin(self._number)
        return self._journals

    def _begin(self, number: int) -> Journals:
        made: list[Journals] = []

        def begin() -> None:
            made.append(Journals(self._directory, number, sync=self._sync, room=self.ring))

        self.ring.retry(begin)
        return made[0]

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
        """Write recording.json if there is news, or if something befell the recording."""
        self._poll()
        if self._note_events() or news or self._said:
            self._said = False
            self._save()

    def say(self, text: str, event: str = "degradation") -> None:
        """Tell what befell the recording, and note it in recording.json when that is saved.

        ``event`` is what kind of thing that is, in a word.
        """
        self.manifest.add_trouble(text)
        self._said = True
        self._tell(text, event)

    def keep_up(self) -> bool:
        """Drop what is past the bounds; tell whether there is room for a sample."""
        self._poll()
        return self.ring.keep_up()

    def rotate(self) -> None:
        """Have the open journals sealed and begin new ones."""
        journals = self._open
        self._save()
        self._shorten_list()
        self._hand_over(journals)
        self._journals = self._begin(journals.number + 1)

    def end(self, reason: str) -> None:
        """Seal what is recorded, and say in recording.json how and when it ended."""
        try:
            if self._journals is not None:
                try:
                    self._hand_over(self._journals)
                except (MemoryError, OSError) as error:
                    self.unsealed[self._journals.number] = lack(error) or str(error)
                    raise
            self._finish()
            self._note_events()
            for number, why in self.unsealed.items():
                self.manifest.add_trouble(f"the journals {number} are not sealed: {why}")
            self.manifest.end(reason)
            self._save()
        finally:
            self.manifest.close()
            self._close()

    def _hand_over(self, journals: Journals) -> None:
        """Have closed journals sealed."""
        journals.close()
        self.ring.closed(
            journals.number,
            size=journals.size,
            samples=journals.samples,
            socket_rows=journals.socket_rows,
            span=journals.span,
            boottime=journals.boottime,
        )
        self._sealer.seal(journals.number)

    def _shorten_list(self) -> None:
        """Write a list anew that got long, which takes a child of its own."""
        if not self._sealer.idle or os.fstat(self._listing).st_size < LONG_LIST:
            return
        self._sealer.finish()
        listing = self.ring.shorten()
        if listing is not None:
            os.close(self._listing)
            self._listing = listing
        self._sealer.use(self._listing)

    def _finish(self) -> None:
        """Wait until all is sealed, with room made for what a full disk keeps from it."""
        while True:
            self._sealer.finish()
            if not self._poll():
                return

    def _poll(self) -> bool:
        """Take what became of sealing; tell whether something is tried again."""
        self._sealer.poll()
        while self._sealer.done:
            self.ring.sealed(self._sealer.done.pop())
        again = False
        while self._sealer.full:
            number, reason = self._sealer.full.pop()
            if self.ring.full(OSError(reason, os.strerror(reason))):
                self._sealer.again(number)
                again = True
        return again

    def _settle(self, number: int) -> None:
        """Wait until a number is sealed, or is not: then it is not tried any more."""
        self._sealer.settle(number, SEALING_PATIENCE_S)
        while self._sealer.done:
            self.ring.sealed(self._sealer.done.pop())
        self._sealer.forget(number)

    def _save(self) -> None:
        self.ring.retry(self.manifest.save)
        self.ring.count_rest()

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
