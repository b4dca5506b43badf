"""What the processes that hold sockets were doing, told when it changed.

A look at a process costs one read of its /proc/PID/stat, some 10 µs, or half of that while it has
not run since the look before: then nothing of it can be different. The number of its descriptors is
known from the search for owners. Where its threads wait is only looked at while something waits
at a socket of it, and its threads are told apart only while they use most of a core: each thread
costs as much as a process. Looks end when the budget is spent; those that were left out come first
the next time.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recorder.host.activity import (
    Activity,
    read_activity,
    read_thread_name,
    read_thread_times,
    read_waits,
    read_wchan,
)
from recorder.host.procfs import GONE, ProcessDirectory, runs
from recorder.host.quotas import NO_QUOTA, Quotas
from recorder.owners.holders import Process

CPU_CHANGE_US = 50_000
"""CPU time that makes a row."""

MEMORY_CHANGE = 0.1
"""Share by which resident memory differs to make a row."""

BUSY = 0.7
"""Share of a core from which the threads of a process are told apart."""

DESCRIBE_EVERY = 30
"""Looks after which the limits and the cgroups of a process are read again."""

NEARLY_FULL = 0.8
"""Share of the limit of descriptors from which that limit is read at each look."""

_ASLEEP = frozenset("RSI")
"""States that follow each other all the time and tell nothing by themselves."""

_EXACT = (
    "comm",
    "threads",
    "fds",
    "fd_limit",
    "cpu_limit_us",
    "nr_throttled",
    "memory_limit_bytes",
    "memory_limit_hits",
    "oom_kills",
)
"""Columns of which any difference makes a row."""

_WAITS = ("running", "blocked", "syscall", "syscall_threads", "wchan")
"""Columns that say how threads wait: a difference between two that are known makes a row."""

Row = dict[str, Any]


@dataclass(frozen=True)
class ProcessesStep:
    """What one look at all of them did."""

    rows: list[Row]
    looked: int
    left_out: int
    denied: int


@dataclass(slots=True)
class _Seen:
    """What is known of a process from the looks before."""

    written: Row = field(default_factory=dict)
    waits: Row = field(default_factory=dict)
    look: int = 0
    looked_us: int = 0
    looked_at: float = 0.0
    cpu_us: int = 0
    quiet: bool = False
    """It may be enough to ask whether it ran: it has one thread, no quota, and little to do."""
    ran: bytes | None = None
    threads: Mapping[int, int] | None = None
    fd_limit: int | None = None
    cgroups: bytes = b""


class Processes:
    """Follows what processes do; a process is known by pid and start."""

    def __init__(
        self, proc: Path = Path("/proc"), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._clock = clock
        self._quotas = Quotas(proc)
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._look = 0

    def close(self) -> None:
        """Let go of /proc."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    def again(self) -> None:
        """Have the next look tell all, as if for the first time."""
        for seen in self._seen.values():
            seen.written = {}

    def look(
        self,
        held: Sequence[tuple[Process, int | None]],
        now_us: int,
        *,
        budget: float,
        waited_for: Collection[int] = (),
    ) -> ProcessesStep:
        """Look at processes, each given with the number of its descriptors.

        ``waited_for`` are the slots of those at whose sockets something waits. ``now_us`` is the
        wall clock, 0 of a look that no row may tell of; ``budget`` in seconds: at least one is
        looked at.
        """
        deadline = self._clock() + budget
        self._look += 1
        self._quotas.begin()
        before, self._seen = self._seen, {}
        in_turn = []
        for process, fds in held:
            key = process.pid, process.start_us
            seen = self._seen[key] = before.get(key) or _Seen()
            in_turn.append((seen, process, fds))
        in_turn.sort(key=lambda one: one[0].look)
        rows: list[Row] = []
        looked = denied = 0
        for seen, process, fds in in_turn:
            if looked and self._clock() >= deadline:
                break
            try:
                row = self._look_at(seen, process, fds, now_us, process.slot in waited_for)
            except GONE:
                row = None
            except PermissionError:  # hidepid
                denied += 1
                row = None
            looked += 1
            if row is not None:
                rows.append(row)
        return ProcessesStep(rows, looked - denied, len(held) - looked, denied)

    def _look_at(
        self, seen: _Seen, process: Process, fds: int | None, now_us: int, waited_for: bool
    ) -> Row | None:
        """Return the row of a process, None if nothing changed or it is another one now."""
        due = (self._look + process.pid) % DESCRIBE_EVERY == 0
        if seen.quiet and not due and not waited_for and seen.written.get("fds", -1) == fds:
            before, seen.ran = seen.ran, runs(self._proc, process.pid, 1)
            if seen.ran is not None and seen.ran == before:
                seen.look, seen.looked_us, seen.looked_at = self._look, now_us, self._clock()
                return None
        else:
            seen.ran = None
        self._describe(seen, process, fds, due)
        activity = read_activity(self._proc, process.pid)
        if activity.start_us != process.start_us:
            return None
        quota = self._quotas.of(seen.cgroups) if seen.cgroups else NO_QUOTA
        row: Row = {
            "pid": process.pid,
            "start_us": process.start_us,
            "comm": process.comm,
            "since": seen.looked_us or None,
            "state": activity.state,
            "threads": activity.threads,
            "utime_us": activity.utime_us,
            "stime_us": activity.stime_us,
            "rss_bytes": activity.rss_bytes,
            "fds": fds,
            "fd_limit": seen.fd_limit,
            "cpu_limit_us": quota.cpu_limit_us,
            "nr_periods": quota.nr_periods,
            "nr_throttled": quota.nr_throttled,
            "throttled_us": quota.throttled_us,
            "memory_limit_bytes": quota.memory_limit_bytes,
            "memory_limit_hits": quota.memory_limit_hits,
            "oom_kills": quota.oom_kills,
        }
        row |= self._busiest(seen, process.pid, activity)
        if waited_for:
            waits = read_waits(self._proc, process.pid, activity.threads)
            row |= dataclasses.asdict(waits) if waits is not None else {}
        elif activity.state == "D":
            row["wchan"] = read_wchan(self._proc, str(process.pid))
        seen.quiet = activity.threads == 1 and quota is NO_QUOTA and activity.cpu_us == seen.cpu_us
        seen.look, seen.looked_us, seen.cpu_us = self._look, now_us, activity.cpu_us
        if seen.written and not _differs(seen, row):
            return None
        seen.written = row
        seen.waits = _waits(row) or seen.waits
        return row

    def _describe(self, seen: _Seen, process: Process, fds: int | None, due: bool) -> None:
        """Read what seldom changes: the limit of descriptors and the cgroups."""
        full = fds is not None and seen.fd_limit is not None and fds >= NEARLY_FULL * seen.fd_limit
        if not due and not full and seen.look:
            return
        with ProcessDirectory(self._proc, process.pid) as directory:
            seen.fd_limit = directory.descriptor_limit()
            if due or not seen.look:
                seen.cgroups = directory.cgroup()

    def _busiest(self, seen: _Seen, pid: int, activity: Activity) -> Row:
        """Return which thread was the busiest since the look before, if that is known."""
        now = self._clock()
        elapsed_us, used_us = (now - seen.looked_at) * 1e6, activity.cpu_us - seen.cpu_us
        seen.looked_at = now
        before, seen.threads = seen.threads, None
        if not seen.look or activity.threads < 2 or used_us < BUSY * elapsed_us:
            return {}
        seen.threads = read_thread_times(self._proc, pid, activity.threads)
        if before is None or seen.threads is None:
            return {}
        used = {thread: us - before.get(thread, 0) for thread, us in seen.threads.items()}
        thread = max(used, key=lambda thread: used[thread])
        return {
            "busiest": thread,
            "busiest_comm": read_thread_name(self._proc, pid, thread),
            "busiest_us": used[thread],
        }


def _waits(row: Row) -> Row:
    return {name: row[name] for name in _WAITS if row.get(name) is not None}


def _differs(seen: _Seen, row: Row) -> bool:
    """Tell whether a row says more than that nothing happened."""
    before = seen.written
    if any(row[name] != before[name] for name in _EXACT):
        return True
    states = {row["state"], before["state"]}
    if len(states) > 1 and not states <= _ASLEEP:
        return True
    used = row["utime_us"] + row["stime_us"] - before["utime_us"] - before["stime_us"]
    if used >= CPU_CHANGE_US:
        return True
    if abs(row["rss_bytes"] - before["rss_bytes"]) > MEMORY_CHANGE * before["rss_bytes"]:
        return True
    waits = _waits(row)
    return bool(waits) and waits != seen.waits
