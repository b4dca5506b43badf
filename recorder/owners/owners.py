"""Which process holds which socket, kept current by re-reading only the processes that changed.

The unit is the process. An update costs one stat per process, because the size of /proc/PID/fd is
the number of descriptors (Linux 6.2). A whole descriptor table is read again when

* the process is new, or its number of descriptors changed;
* it holds an inode that was in the previous dumps and left them;
* dumped inodes stay without an owner: then those processes come first that were seen to change
  lately, then those of the sockets' users, then those whose table was read longest ago;
* its turn has come: within `sweep` updates every table is verified, so that what changes neither
  the number nor the dump is found too (dup2, a file replaced by a socket, SCM_RIGHTS and a close).

For the last three a process that has not run since its table was read needs no reading: only its
own threads change the table. (Not so if it shares the table with another process, by clone(2) with
CLONE_FILES, and only that other one ran: that is noticed once the number changes or it runs.)

The first three are bounded by the time budget, the last by the number of descriptors. So the owner
of every inode is exact within the budget, or counted as unresolved, and all that changes behind an
unchanged number is exact within one sweep.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recorder.owners.census import Census, Known
from recorder.owners.holders import (
    NO_SOCKETS,
    Holders,
    Index,
    Inodes,
    Process,
    Search,
    Slots,
    distinct,
    without,
)

__all__ = ["Holders", "Owners", "OwnersStep", "Process"]


@dataclass(frozen=True)
class OwnersStep:
    """What one update did."""

    processes: int
    tables_read: int
    denied: int  # processes whose descriptors may not be seen
    unresolved: int  # distinct inodes of this sample without an owner
    appeared: list[Process]  # described, or described anew after an exec or a change of name
    ended: list[Process]  # gone, or described anew


class Owners:
    """Follow the processes of one /proc and the sockets they hold.

    The owner of a shared socket is the holder that started first, by (start_us, pid).

    `budget` is the time in seconds that one update may spend on reading tables; a table once begun
    is read whole, and at least one is. `sweep` is the number of updates within which every table
    is verified.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        *,
        budget: float = 0.2,
        sweep: int = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.proc = proc
        self._slots = Slots(reuse_after=2 * sweep)
        self._census = Census(proc, self._slots, clock)
        self._budget = budget
        self._sweep = sweep
        self._clock = clock
        self._index = Index.of([])
        self._dumped = NO_SOCKETS.inodes
        self._search = Search.empty()
        self._effort = 1.0
        self._share = 0.0
        self._update = 0

    def close(self) -> None:
        """Let go of /proc."""
        self._census.close()

    def update(
        self,
        inodes: Inodes,
        now_us: int,
        *,
        uids: npt.NDArray[np.uint32] | None = None,
        budget: float | None = None,
        pinned: npt.NDArray[np.int32] | None = None,
    ) -> OwnersStep:
        """Bring the owners up to date with the inodes of a sample's dumps.

        Zeros and duplicates are allowed. The inodes of a dump that was skipped in this sample
        belong in as well, as they were last seen: one that is left out has left. `uids`, aligned
        with the inodes, only helps to find owners sooner. `now_us` is the wall clock. `pinned` are
        slots still referred to, which stay as they are though their processes have ended.
        """
        started = self._clock()
        seconds = self._budget if budget is None else budget
        deadline = started + seconds
        self._update += 1
        self._census.begin(self._update, now_us)
        self._slots.begin(self._update, pinned)

        dumped = distinct(inodes)
        same_dump = np.array_equal(dumped, self._dumped)
        self._census.look()
        if not same_dump:
            self._doubt_holders_of(without(self._dumped, dumped))
        self._read_changed(deadline)
        if self._refresh_index() or not same_dump:
            missing = without(dumped, self._index.inodes)
        else:
            missing = self._search.inodes
        self._dumped = dumped
        self._search = self._search.turn_to(missing, self._update)
        self._find_missing(deadline, seconds, inodes, uids)
        self._verify_in_turn()
        if self._refresh_index():
            missing = without(dumped, self._index.inodes)
            self._search = self._search.turn_to(missing, self._update)
        return OwnersStep(
            processes=len(self._census.known),
            tables_read=self._census.tables_read,
            denied=sum(known.denied for known in self._census.known.values()),
            unresolved=len(self._search.inodes),
            appeared=self._census.appeared,
            ended=self._census.ended,
        )

    def lookup(self, inodes: Inodes) -> Holders:
        """Return who holds each inode, as of the last update."""
        row = self._index.rows(inodes)
        slot = self._index.slots[row]
        return Holders(
            slot=slot,
            fd=self._index.fds[row],
            holders=self._index.holders[row],
            verified_us=self._slots.verified_us[slot],
        )

    def processes(self) -> list[Process]:
        """Return the processes that were described and have not ended."""
        return [one.process for one in self._census.known.values() if one.process is not None]

    def descriptors(self) -> list[tuple[Process, int | None]]:
        """Return the same processes with the number of all descriptors of each, None if denied.

        Of several tables in one process the largest counts: each has the limit to itself.
        """
        return [
            (one.process, None if one.denied or one.open < 0 else one.open)
            for one in self._census.known.values()
            if one.process is not None
        ]

    def unexplained(self, dumped: Inodes) -> Inodes:
        """Return the inodes that processes hold and that are not among those dumped, ascending.

        Zeros and duplicates are allowed. `lookup` tells their holders.
        """
        return without(self._index.inodes, distinct(dumped))

    def slots(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], list[str]]:
        """Return pid, start (microseconds since boot) and name of every slot.

        A slot stays as it is for at least two sweeps after its process was reported as ended, and
        as long as it is pinned.
        """
        return self._slots.columns()

    def _doubt_holders_of(self, left: Inodes) -> None:
        if not len(left):
            return
        slots = self._index.slots_of_holders(left)
        for known in self._census.known.values():
            if known.process is not None and known.process.slot in slots:
                known.doubted = known.doubted or self._update

    def _read_changed(self, deadline: float) -> None:
        """Read what is known or feared to have changed, what waits longest first."""
        waiting = [known for known in self._census.known.values() if known.changed or known.doubted]
        waiting.sort(key=lambda known: (known.changed or known.doubted, known.counts[0]))
        read = 0
        for known in waiting:
            if read and self._clock() >= deadline:
                return
            if known.changed or self._census.has_run(known):
                self._census.read(known)
                read += 1
            else:
                self._census.confirm(known)

    def _find_missing(
        self,
        deadline: float,
        seconds: float,
        inodes: Inodes,
        uids: npt.NDArray[np.uint32] | None,
    ) -> None:
        """Look for the owners of inodes that no known table explains.

        A process whose table was read since such an inode was first dumped does not hold it. So
        one pass over all others, over several updates if time is short, settles an inode; after
        one more it is left to the sweep, for it may belong to the kernel, to another pid namespace
        or to a process that may not be read.

        Many are closed between their dump and this search. What was dumped once only therefore
        gets a share of the time that shrinks while searching among unlikely processes is in vain.
        """
        search = self._search
        due = search.retry <= self._update
        if not due.any():
            return
        sought, since = search.inodes[due], int(search.since[due].max())
        now = self._clock()
        if (search.since[due] == self._update).all():
            deadline = min(deadline, now + seconds * self._effort)
        wanted_uids: set[int] = set()
        if uids is not None:
            wanted_uids = set(np.unique(uids[np.isin(inodes, sought)]).tolist())
        in_vain = False
        for known in self._candidates(since, wanted_uids):
            if not len(sought) or self._clock() >= deadline:
                break
            if not self._census.has_run(known):
                self._census.confirm(known)
                continue
            likely = self._update - known.content_changed <= self._sweep
            self._census.read(known)
            left = without(sought, known.sockets.inodes)
            if len(left) < len(sought):
                self._effort, in_vain = 1.0, False
            elif not likely:
                in_vain = True
            sought = left
        if in_vain:
            self._effort = max(self._effort / 2, 1 / 16)
        verified = min(
            (known.verified for known in self._census.known.values()), default=self._update
        )
        search.settle(verified, self._update)

    def _candidates(self, since: int, wanted_uids: set[int]) -> list[Known]:
        candidates = [known for known in self._census.known.values() if known.verified < since]
        candidates.sort(
            key=lambda known: (
                self._update - known.content_changed > self._sweep,
                known.directory_uid not in wanted_uids,
                known.verified,
                known.counts[0],
            )
        )
        return candidates

    def _verify_in_turn(self) -> None:
        """Verify the tables that were read longest ago, one sweep's share of all descriptors.

        For a table larger than one share, the shares of several updates are saved up.
        """
        in_turn = sorted(self._census.known.values(), key=lambda known: known.verified)
        self._share += sum(known.weight for known in in_turn) / self._sweep
        for known in in_turn:
            if known.verified == self._update:
                self._share = 0.0
                return
            overdue = self._update - known.verified >= self._sweep
            if known.weight > self._share and not overdue:
                return
            self._share = max(self._share - known.weight, 0.0)
            if self._census.has_run(known) or known.changed:
                self._census.read(known)
            else:
                self._census.confirm(known)

    def _refresh_index(self) -> bool:
        if not self._census.changed:
            return False
        holding = [
            (known.start_us or 0, known.pid, known.process.slot, known.sockets)
            for known in self._census.known.values()
            if known.process is not None and len(known.sockets.inodes)
        ]
        holding.sort(key=lambda held: held[:2])
        self._index = Index.of([held[2:] for held in holding])
        self._census.changed = False
        return True
