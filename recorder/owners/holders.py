"""The arrays behind the owners of sockets: inode to holders, slot to process, and inodes sought."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recorder.host.cgroups import Origin, of_process

Inodes = npt.NDArray[np.uint32]

_LOW_HALF = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Process:
    """A process that held a socket, as it called itself when its description was read."""

    slot: int
    pid: int
    start_us: int  # since boot
    comm: str
    cmdline: str
    exe: str | None
    uid: int | None
    fd_limit: int | None
    cgroup: str | None = None
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class Holders:
    """Who holds each of the inodes asked for, as of the last update."""

    slot: npt.NDArray[np.int32]  # of the owner; -1 unknown
    fd: npt.NDArray[np.int32]  # the owner's lowest descriptor of the socket; -1 unknown
    holders: npt.NDArray[np.int32]  # processes that share the socket; 0 unknown
    verified_us: npt.NDArray[np.int64]  # when the owner's table was last known exact; 0 unknown


@dataclass(frozen=True, slots=True)
class Sockets:
    """The socket inodes that a process holds, ascending, each with its lowest fd."""

    inodes: Inodes
    fds: npt.NDArray[np.int32]

    @classmethod
    def of(cls, inodes: Sequence[int], fds: Sequence[int]) -> "Sockets":
        """Sort what was read from descriptor tables: the inode behind each descriptor."""
        pairs = np.array(inodes, np.uint64) << _HALF  # sock_diag has only 32 bits for an inode
        pairs |= np.array(fds, np.uint64)
        pairs.sort()
        ordered = (pairs >> _HALF).astype(np.uint32)
        first = _starts(ordered) & (ordered != 0)
        return cls(ordered[first], (pairs[first] & _LOW_HALF).astype(np.int32))


NO_SOCKETS = Sockets(np.empty(0, np.uint32), np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class Index:
    """Every held inode, ascending, with its owner.

    `slots`, `fds` and `holders` have one element more, so that row -1 says "unknown".
    """

    inodes: Inodes
    slots: npt.NDArray[np.int32]
    fds: npt.NDArray[np.int32]
    holders: npt.NDArray[np.int32]
    every_slot: npt.NDArray[np.int32]  # of each holder of each inode, in order of the inodes

    @classmethod
    def of(cls, held: Sequence[tuple[int, Sockets]]) -> "Index":
        """Merge the sockets of processes, given as (slot, sockets), the first being the owner."""
        sizes = [len(sockets.inodes) for _, sockets in held]
        inodes = np.concatenate([NO_SOCKETS.inodes, *(sockets.inodes for _, sockets in held)])
        fds = np.concatenate([NO_SOCKETS.fds, *(sockets.fds for _, sockets in held)])
        slots = np.repeat(np.array([slot for slot, _ in held], np.int32), sizes)
        ordered, place = sort_with_places(inodes)
        first = _starts(ordered)
        start = np.flatnonzero(first)
        owner = place[start]
        return cls(
            inodes=ordered[start],
            slots=np.append(slots[owner], np.int32(-1)),
            fds=np.append(fds[owner], np.int32(-1)),
            holders=np.append(np.diff(start, append=len(ordered)), 0).astype(np.int32),
            every_slot=slots[place],
        )

    def rows(self, inodes: Inodes) -> npt.NDArray[np.intp]:
        """Return the row of each inode, -1 where it is not held."""
        if not len(self.inodes):
            return np.full(len(inodes), -1, np.intp)
        # Searching in ascending order is four times as fast, sorting included.
        ordered, place = sort_with_places(inodes)
        found = np.searchsorted(self.inodes, ordered)
        found[found == len(self.inodes)] = 0
        found[self.inodes[found] != ordered] = -1
        rows = np.empty(len(inodes), np.intp)
        rows[place] = found
        return rows

    def slots_of_holders(self, inodes: Inodes) -> set[int]:
        """Return the slots of all processes that hold one of the inodes."""
        wanted = np.zeros(len(self.inodes) + 1, bool)
        wanted[self.rows(inodes)] = True
        of_each_holder = np.repeat(wanted[:-1], self.holders[:-1])
        return set(self.every_slot[of_each_holder].tolist())


class Slots:
    """The described processes by number, for dictionary columns.

    A slot given back keeps its content for `reuse_after` updates, and as long as it is pinned.
    """

    def __init__(self, reuse_after: int) -> None:
        self._reuse_after = reuse_after
        self._update = 0
        self._used = 0
        self._free: deque[tuple[int, int]] = deque()
        self._pinned: set[int] = set()
        self._pids = np.zeros(64, np.int32)
        self._starts = np.zeros(64, np.int64)
        self._comms: list[str] = []
        # One element more than slots, and 0 for ever, so that slot -1 was never verified.
        self.verified_us = np.zeros(65, np.int64)

    def begin(self, update: int, pinned: npt.NDArray[np.int32] | None = None) -> None:
        """Say which update comes, by number, and which slots stay as they are."""
        self._update = update
        self._pinned = set() if pinned is None else set(pinned.tolist())

    def take(
        self,
        pid: int,
        start_us: int,
        comm: str,
        cmdline: str,
        exe: str | None,
        uid: int | None,
        fd_limit: int | None,
        cgroup: bytes = b"",
    ) -> Process:
        """Give a process a slot of its own."""
        slot = self._free_slot()
        if slot is None:
            slot = self._used
            self._used += 1
            self._comms.append("")
            if self._used > len(self._pids):
                self._grow()
        self._pids[slot], self._starts[slot], self._comms[slot] = pid, start_us, comm
        self.verified_us[slot] = 0
        return Process(slot, pid, start_us, comm, cmdline, exe, uid, fd_limit, *of_process(cgroup))

    def _free_slot(self) -> int | None:
        while self._free and self._free[0][0] + self._reuse_after < self._update:
            slot = self._free.popleft()[1]
            if slot not in self._pinned:
                return slot
            self._free.append((self._update, slot))
        return None

    def give_back(self, slot: int) -> None:
        """Let another process have the slot, later."""
        self._free.append((self._update, slot))

    def columns(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], list[str]]:
        """Return copies of pid, start and comm of all slots."""
        used = self._used
        return self._pids[:used].copy(), self._starts[:used].copy(), self._comms.copy()

    def _grow(self) -> None:
        more = len(self._pids)
        self._pids = np.append(self._pids, np.zeros(more, np.int32))
        self._starts = np.append(self._starts, np.zeros(more, np.int64))
        self.verified_us = np.append(self.verified_us, np.zeros(more, np.int64))


RESTS = np.array([4, 1 << 40])
"""Updates for which an inode is not sought after each pass over all tables in vain."""


@dataclass(slots=True)
class Search:
    """The dumped inodes without an owner, ascending, and how far the search for each has come."""

    inodes: Inodes
    since: npt.NDArray[np.int64]  # tables read in or after this update need not be read again
    retry: npt.NDArray[np.int64]  # the update from which it is sought
    passes: npt.NDArray[np.int64]  # how often every table was read in vain

    @classmethod
    def empty(cls) -> "Search":
        """Return the search for nothing."""
        return cls(NO_SOCKETS.inodes, *(np.empty(0, np.int64) for _ in range(3)))

    def turn_to(self, inodes: Inodes, update: int) -> "Search":
        """Return the search for other inodes, going on with those that were sought before."""
        fresh = np.full(len(inodes), update)
        after = Search(inodes, fresh, fresh.copy(), np.zeros(len(inodes), np.int64))
        if len(inodes) and len(self.inodes):
            before = np.searchsorted(self.inodes, inodes)
            before[before == len(self.inodes)] = 0
            known = self.inodes[before] == inodes
            after.since[known] = self.since[before[known]]
            after.retry[known] = self.retry[before[known]]
            after.passes[known] = self.passes[before[known]]
        return after

    def settle(self, verified: int, update: int) -> None:
        """Let those rest that every table, each verified in or after an update, lacks.

        After the last of RESTS they are not sought any more: the sweep reads every table anyway.
        """
        over = (self.retry <= update) & (self.since <= verified)
        rest = RESTS[np.minimum(self.passes[over], len(RESTS) - 1)]
        self.passes[over] += 1
        self.retry[over] = self.since[over] = update + rest


def distinct(inodes: Inodes) -> Inodes:
    """Return the inodes but 0, ascending, each once."""
    ordered: Inodes = np.sort(inodes)
    once: Inodes = ordered[_starts(ordered) & (ordered != 0)]
    return once


def without(inodes: Inodes, others: Inodes) -> Inodes:
    """Return the inodes that are not among others, both ascending."""
    if not len(inodes) or not len(others):
        return inodes
    place = np.searchsorted(others, inodes)
    place[place == len(others)] = 0
    absent: Inodes = inodes[others[place] != inodes]
    return absent


def sort_with_places(inodes: Inodes) -> tuple[Inodes, npt.NDArray[np.intp]]:
    """Return the inodes in ascending order and where each stood; equal ones keep their order."""
    # Two numbers in one word: a plain sort is vectorised, an argsort is not.
    pairs = inodes.astype(np.uint64) << _HALF
    pairs |= np.arange(len(inodes), dtype=np.uint64)
    pairs.sort()
    return (pairs >> _HALF).astype(np.uint32), (pairs & _LOW_HALF).astype(np.intp)


def _starts(ordered: Inodes) -> npt.NDArray[np.bool_]:
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first
