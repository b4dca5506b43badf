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

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recorder.host.procfs import (
    GONE,
    ProcessDirectory,
    Stat,
    Table,
    list_directory,
    runs,
    same_pids,
    shows_sizes,
)
from recorder.owners.holders import (
    NO_SOCKETS,
    Holders,
    Index,
    Inodes,
    Process,
    Search,
    Slots,
    Sockets,
    distinct,
    without,
)

__all__ = ["Holders", "Owners", "OwnersStep", "Process"]

_ONE_TABLE = ("fd",)

# Numbers of descriptors that no table has, unlike each other.
_CHANGED, _NEVER = -1, -2

# A running thread's time is brought up to date by the scheduler's tick, 10 ms at most.
_TICK_SECONDS = 0.05

# Looking at whether a thread ran costs about as much as reading this many descriptors.
_DESCRIPTORS_PER_THREAD = 2


@dataclass(frozen=True)
class OwnersStep:
    """What one update did."""

    processes: int
    tables_read: int
    denied: int  # processes whose descriptors may not be seen
    unresolved: int  # distinct inodes of this sample without an owner
    appeared: list[Process]  # described, or described anew after an exec or a change of name
    ended: list[Process]  # gone, or described anew


@dataclass(slots=True)
class _Known:
    """What is known of one process, whether it holds a socket or not."""

    pid: int
    fd_path: str
    start_us: int | None = None
    directory: int = 0  # inode number of /proc/PID/fd
    directory_uid: int = -1
    tables: tuple[str, ...] = _ONE_TABLE
    counts: tuple[int, ...] = (_NEVER,)  # descriptors of each table, in this update
    read_counts: tuple[int, ...] = (_CHANGED,)  # and when they were read
    sockets: Sockets = NO_SOCKETS
    process: Process | None = None  # its description, once it holds a socket
    image: tuple[bytes, ...] = ()
    threads: int = 1
    ran: bytes | None = None  # `runs` before the tables were read
    ran_at: float = 0.0
    empty: bool = False  # it can have no descriptors
    denied: bool = False
    # Numbers of updates:
    changed: int = 0  # since when its tables are known to have changed, 0 if not
    doubted: int = 0  # since when they may have
    verified: int = 0  # when they were last known exact
    content_changed: int = -1_000_000_000  # when a table read again was last found different

    @property
    def weight(self) -> int:
        return 1 + sum(self.counts)


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
        self._proc = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._budget = budget
        self._sweep = sweep
        self._clock = clock
        self._sized = shows_sizes(self._proc)
        self._kcmp = same_pids(self._proc)
        self._known: dict[str, _Known] = {}
        self._slots = Slots(reuse_after=2 * sweep)
        self._index = Index.of([])
        self._index_is_current = True
        self._dumped = NO_SOCKETS.inodes
        self._search = Search.empty()
        self._effort = 1.0
        self._share = 0.0
        self._update = 0
        self._now_us = 0
        self._tables_read = 0
        self._appeared: list[Process] = []
        self._ended: list[Process] = []

    def close(self) -> None:
        """Let go of /proc."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

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
        self._now_us = now_us
        self._tables_read = 0
        self._appeared, self._ended = [], []
        self._slots.begin(self._update, pinned)

        dumped = distinct(inodes)
        same_dump = np.array_equal(dumped, self._dumped)
        self._look_at_processes()
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
            processes=len(self._known),
            tables_read=self._tables_read,
            denied=sum(known.denied for known in self._known.values()),
            unresolved=len(self._search.inodes),
            appeared=self._appeared,
            ended=self._ended,
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

    def _look_at_processes(self) -> None:
        known_by_name, update = self._known, self._update
        seen: set[str] = set()
        for name in list_directory(self._proc, "."):
            if not name.isdecimal():
                continue
            known = known_by_name.get(name)
            if known is None:
                known = known_by_name[name] = _Known(int(name), f"{name}/fd")
            try:
                self._look_at(known)
            except GONE:
                continue
            except PermissionError:  # hidepid
                self._deny(known)
            if known.counts != known.read_counts and not known.changed:
                known.changed = update
            seen.add(name)
        for name in known_by_name.keys() - seen:
            self._forget(known_by_name[name])

    def _look_at(self, known: "_Known") -> None:
        entry = os.stat(known.fd_path, dir_fd=self._proc)
        if entry.st_ino != known.directory:
            self._check_identity(known, entry.st_ino)
        if entry.st_uid != known.directory_uid:
            known.directory_uid = entry.st_uid
            if known.denied:
                known.read_counts = (_CHANGED,)
        if known.empty:
            return
        if self._sized and known.tables == _ONE_TABLE:
            # The tuple is only made anew when it differs: this is the path of every process.
            if known.counts[0] != entry.st_size or len(known.counts) > 1:
                known.counts = (entry.st_size,)
        elif self._sized or known.ran is None or self._has_run(known):
            known.counts = tuple(self._count(known.pid, table) for table in known.tables)

    def _check_identity(self, known: "_Known", directory: int) -> None:
        """Notice a pid that is in use again.

        The inode number of /proc/PID/fd is given anew to another process, but also to the same one
        when the kernel was short of memory, so only the start time decides.
        """
        if known.start_us is not None:
            with ProcessDirectory(self._proc, known.pid) as process:
                if process.stat().start_us != known.start_us:
                    self._reset(known)
        known.directory = directory

    def _count(self, pid: int, table: str) -> int:
        path = f"{pid}/{table}"
        try:
            if self._sized:
                return os.stat(path, dir_fd=self._proc).st_size
            return len(list_directory(self._proc, path))
        except GONE:
            return _NEVER  # a thread ended

    def _doubt_holders_of(self, left: Inodes) -> None:
        if not len(left):
            return
        slots = self._index.slots_of_holders(left)
        for known in self._known.values():
            if known.process is not None and known.process.slot in slots:
                known.doubted = known.doubted or self._update

    def _read_changed(self, deadline: float) -> None:
        """Read what is known or feared to have changed, what waits longest first."""
        waiting = [known for known in self._known.values() if known.changed or known.doubted]
        waiting.sort(key=lambda known: (known.changed or known.doubted, known.counts[0]))
        read = 0
        for known in waiting:
            if read and self._clock() >= deadline:
                return
            if known.changed or self._has_run(known):
                self._read(known)
                read += 1
            else:
                self._confirm(known)

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
            if not self._has_run(known):
                self._confirm(known)
                continue
            likely = self._update - known.content_changed <= self._sweep
            self._read(known)
            left = without(sought, known.sockets.inodes)
            if len(left) < len(sought):
                self._effort, in_vain = 1.0, False
            elif not likely:
                in_vain = True
            sought = left
        if in_vain:
            self._effort = max(self._effort / 2, 1 / 16)
        verified = min((known.verified for known in self._known.values()), default=self._update)
        search.settle(verified, self._update)

    def _candidates(self, since: int, wanted_uids: set[int]) -> "list[_Known]":
        candidates = [known for known in self._known.values() if known.verified < since]
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
        in_turn = sorted(self._known.values(), key=lambda known: known.verified)
        self._share += sum(known.weight for known in in_turn) / self._sweep
        for known in in_turn:
            if known.verified == self._update:
                self._share = 0.0
                return
            overdue = self._update - known.verified >= self._sweep
            if known.weight > self._share and not overdue:
                return
            self._share = max(self._share - known.weight, 0.0)
            if self._has_run(known) or known.changed:
                self._read(known)
            else:
                self._confirm(known)

    def _has_run(self, known: "_Known") -> bool:
        if known.empty:
            return False
        if known.ran is None or known.denied or self._clock() - known.ran_at < _TICK_SECONDS:
            return True
        return runs(self._proc, known.pid, known.threads) != known.ran

    def _confirm(self, known: "_Known") -> None:
        known.doubted = 0
        known.verified = self._update
        if known.process is not None:
            self._slots.verified_us[known.process.slot] = self._now_us

    def _read(self, known: "_Known") -> None:
        """Read the whole of what a process holds, and its description if that may be new."""
        try:
            with ProcessDirectory(self._proc, known.pid) as process:
                stat = process.stat()
                if known.start_us not in (None, stat.start_us):
                    self._reset(known)
                known.start_us = stat.start_us
                self._remember_run(known, stat)
                sockets = self._read_sockets(known, process, stat)
                if len(sockets.inodes):
                    self._describe(known, process, stat)
        except GONE:
            self._forget(known)
            return
        except PermissionError:
            self._deny(known)
            return
        first = not known.verified
        known.denied = False
        known.changed = 0
        self._confirm(known)
        if not (
            np.array_equal(sockets.inodes, known.sockets.inodes)
            and np.array_equal(sockets.fds, known.sockets.fds)
        ):
            known.sockets = sockets
            if not first:
                known.content_changed = self._update
            self._index_is_current = False
            if known.ran is not None and runs(self._proc, known.pid, known.threads) != known.ran:
                # A socket that moved from a descriptor not yet read to one already read was missed.
                known.doubted = self._update

    def _remember_run(self, known: "_Known", stat: Stat) -> None:
        known.threads = stat.threads
        known.ran = None
        if not stat.leader_dead and stat.threads * _DESCRIPTORS_PER_THREAD <= known.weight:
            known.ran, known.ran_at = runs(self._proc, known.pid, stat.threads), self._clock()

    def _read_sockets(self, known: "_Known", process: ProcessDirectory, stat: Stat) -> Sockets:
        known.empty = stat.empty
        if stat.empty:
            known.tables, known.read_counts = _ONE_TABLE, known.counts
            return NO_SOCKETS
        paths = process.tables(stat, sized=self._sized, kcmp=self._kcmp)
        tables = []
        for path in paths:
            try:
                tables.append(process.read_table(path, sized=self._sized))
            except GONE:
                if path in _ONE_TABLE:
                    raise
                tables.append(Table([], [], _CHANGED))
        self._tables_read += len(tables)
        counts = tuple(table.size for table in tables)
        if self._kcmp and known.pid == os.getpid() and paths == known.tables:
            # Among its own descriptors a process finds those that it reads them by.
            counts = known.counts
        known.tables, known.read_counts, known.counts = paths, counts, counts
        return Sockets.of(
            [inode for table in tables for inode in table.inodes],
            [fd for table in tables for fd in table.fds],
        )

    def _describe(self, known: "_Known", process: ProcessDirectory, stat: Stat) -> None:
        before = known.process
        same_image = known.image == stat.image or not stat.image
        if before is not None and before.comm == stat.comm and same_image:
            return
        if before is not None:
            self._end(known)
        known.image = stat.image
        known.process = self._slots.take(
            known.pid,
            stat.start_us,
            stat.comm,
            process.command_line(),
            process.executable(),
            process.uid(),
            process.descriptor_limit(),
            process.cgroup(),
        )
        self._appeared.append(known.process)
        self._index_is_current = False

    def _deny(self, known: "_Known") -> None:
        known.denied = True
        known.ran = None
        known.changed = 0
        known.read_counts = known.counts
        if len(known.sockets.inodes):
            known.sockets = NO_SOCKETS
            self._index_is_current = False
        self._confirm(known)

    def _reset(self, known: "_Known") -> None:
        """Forget a process whose pid belongs to another one now."""
        self._end(known)
        new = _Known(known.pid, known.fd_path)
        for name in _Known.__slots__:
            setattr(known, name, getattr(new, name))

    def _forget(self, known: "_Known") -> None:
        self._end(known)
        del self._known[str(known.pid)]

    def _end(self, known: "_Known") -> None:
        if known.process is not None:
            self._slots.give_back(known.process.slot)
            self._ended.append(known.process)
            known.process = None
            self._index_is_current = False

    def _refresh_index(self) -> bool:
        if self._index_is_current:
            return False
        holding = [
            (known.start_us or 0, known.pid, known.process.slot, known.sockets)
            for known in self._known.values()
            if known.process is not None and len(known.sockets.inodes)
        ]
        holding.sort(key=lambda held: held[:2])
        self._index = Index.of([held[2:] for held in holding])
        self._index_is_current = True
        return True
