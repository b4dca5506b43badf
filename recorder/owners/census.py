"""What is known of every process: its descriptor tables as read last, and whether it ran since.

Decides nothing about when to read: recorder.owners.owners does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from recorder.owners.holders import NO_SOCKETS, Process, Slots, Sockets

_ONE_TABLE = ("fd",)

# Numbers of descriptors that no table has, unlike each other.
_CHANGED, _NEVER = -1, -2

# A running thread's time is brought up to date by the scheduler's tick, 10 ms at most.
_TICK_SECONDS = 0.05

# Looking at whether a thread ran costs about as much as reading this many descriptors.
_DESCRIPTORS_PER_THREAD = 2


@dataclass(slots=True)
class Known:
    """What is known of one process, whether it holds a socket or not."""

    pid: int
    fd_path: str
    start_us: int | None = None
    directory: int = 0  # inode number of /proc/PID/fd
    directory_uid: int = -1
    tables: tuple[str, ...] = _ONE_TABLE
    counts: tuple[int, ...] = (_NEVER,)  # descriptors of each table, in this update
    read_counts: tuple[int, ...] = (_CHANGED,)  # and when they were read
    open: int = _NEVER  # descriptors of the largest table, by the latest look that could tell
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


class Census:
    """The processes of one /proc, by the names of their directories there.

    ``appeared`` and ``ended`` are what an update found; ``changed`` says that what some process
    holds is not what it was when that was last set to False.
    """

    def __init__(self, proc: Path, slots: Slots, clock: Callable[[], float]) -> None:
        self.known: dict[str, Known] = {}
        self.slots = slots
        self.changed = False
        self.tables_read = 0
        self.appeared: list[Process] = []
        self.ended: list[Process] = []
        self._proc = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._clock = clock
        self._sized = shows_sizes(self._proc)
        self._kcmp = same_pids(self._proc)
        self._update = 0
        self._now_us = 0

    def close(self) -> None:
        """Let go of /proc."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    def begin(self, update: int, now_us: int) -> None:
        """Begin the update of that number, at a time of the wall clock."""
        self._update, self._now_us = update, now_us
        self.tables_read = 0
        self.appeared, self.ended = [], []

    def look(self) -> None:
        """Find processes that came, ended, or whose number of descriptors changed."""
        known_by_name, update = self.known, self._update
        seen: set[str] = set()
        for name in list_directory(self._proc, "."):
            if not name.isdecimal():
                continue
            known = known_by_name.get(name)
            if known is None:
                known = known_by_name[name] = Known(int(name), f"{name}/fd")
            try:
                self._look_at(known)
            except GONE:
                continue
            except PermissionError:  # hidepid
                self._deny(known)
            known.open = max(known.open if min(known.counts) < 0 else _NEVER, *known.counts)
            if known.counts != known.read_counts and not known.changed:
                known.changed = update
            seen.add(name)
        for name in known_by_name.keys() - seen:
            self._forget(known_by_name[name])

    def _look_at(self, known: Known) -> None:
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
        elif self._sized or known.ran is None or self.has_run(known):
            known.counts = tuple(self._count(known.pid, table) for table in known.tables)

    def _check_identity(self, known: Known, directory: int) -> None:
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

    def has_run(self, known: Known) -> bool:
        """Tell whether a process may have run since its tables were read."""
        if known.empty:
            return False
        if known.ran is None or known.denied or self._clock() - known.ran_at < _TICK_SECONDS:
            return True
        return runs(self._proc, known.pid, known.threads) != known.ran

    def confirm(self, known: Known) -> None:
        """Note that what was read of a process is still so."""
        known.doubted = 0
        known.verified = self._update
        if known.process is not None:
            self.slots.verified_us[known.process.slot] = self._now_us

    def read(self, known: Known) -> None:
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
        self.confirm(known)
        if not (
            np.array_equal(sockets.inodes, known.sockets.inodes)
            and np.array_equal(sockets.fds, known.sockets.fds)
        ):
            known.sockets = sockets
            if not first:
                known.content_changed = self._update
            self.changed = True
            if known.ran is not None and runs(self._proc, known.pid, known.threads) != known.ran:
                # A socket that moved from a descriptor not yet read to one already read was missed.
                known.doubted = self._update

    def _remember_run(self, known: Known, stat: Stat) -> None:
        known.threads = stat.threads
        known.ran = None
        if not stat.leader_dead and stat.threads * _DESCRIPTORS_PER_THREAD <= known.weight:
            known.ran, known.ran_at = runs(self._proc, known.pid, stat.threads), self._clock()

    def _read_sockets(self, known: Known, process: ProcessDirectory, stat: Stat) -> Sockets:
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
        self.tables_read += len(tables)
        counts = tuple(table.size for table in tables)
        if self._kcmp and known.pid == os.getpid() and paths == known.tables:
            # Among its own descriptors a process finds those that it reads them by.
            counts = known.counts
        known.tables, known.read_counts, known.counts = paths, counts, counts
        return Sockets.of(
            [inode for table in tables for inode in table.inodes],
            [fd for table in tables for fd in table.fds],
        )

    def _describe(self, known: Known, process: ProcessDirectory, stat: Stat) -> None:
        before = known.process
        same_image = known.image == stat.image or not stat.image
        if before is not None and before.comm == stat.comm and same_image:
            return
        if before is not None:
            self._end(known)
        known.image = stat.image
        known.process = self.slots.take(
            known.pid,
            stat.start_us,
            stat.comm,
            process.command_line(),
            process.executable(),
            process.uid(),
            process.descriptor_limit(),
            process.cgroup(),
        )
        self.appeared.append(known.process)
        self.changed = True

    def _deny(self, known: Known) -> None:
        known.denied = True
        known.ran = None
        known.changed = 0
        known.read_counts = known.counts
        if len(known.sockets.inodes):
            known.sockets = NO_SOCKETS
            self.changed = True
        self.confirm(known)

    def _reset(self, known: Known) -> None:
        """Forget a process whose pid belongs to another one now."""
        self._end(known)
        new = Known(known.pid, known.fd_path)
        for name in Known.__slots__:
            setattr(known, name, getattr(new, name))

    def _forget(self, known: Known) -> None:
        self._end(known)
        del self.known[str(known.pid)]

    def _end(self, known: Known) -> None:
        if known.process is not None:
            self.slots.give_back(known.process.slot)
            self.ended.append(known.process)
            known.process = None
            self.changed = True
