"""What is remembered of each socket by its cookie: its last owner, and whether it was counted.

TIME-WAIT rows, orphans and connections waiting to be accepted have no inode, so nobody holds them
by a descriptor: their owner is the last one of their cookie or the process that listens on their
port. And a connection is counted once, whether a dump or its close event shows it first.

A socket that a peer has reset is in no dump, though its process may close it much later; so what
leaves the dumps is remembered until its close event comes. What was a minisocket (TIME-WAIT,
SYN-RECV) when last seen has no event still to come and is soon forgotten.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from recorder.owners.holders import Holders
from recorder.owners.listeners import Listeners, Places

BY = ("fd", "carried", "listener")
"""How an owner is known; the places in here are the codes."""

TCP = "tcp"
"""The step whose sockets can be connections, and have listeners."""

MOST_LEFT = 1 << 18
"""Sockets remembered that are in no dump and were not announced as closed."""

GENERATIONS = 2
"""Dumps for which a minisocket that left them is remembered: its event may be under way."""

_FD, _CARRIED, _LISTENER = (np.int8(code) for code in range(len(BY)))

# Linux, include/net/tcp_states.h
_SYN_RECV, _TIME_WAIT, _CLOSE, _LISTEN, _NEW_SYN_RECV, _BOUND_INACTIVE = 3, 6, 7, 10, 12, 13

_BRIEF = np.isin(np.arange(256), [_SYN_RECV, _TIME_WAIT, _NEW_SYN_RECV])
_UNCONNECTED = np.isin(np.arange(256), [_CLOSE, _LISTEN, _BOUND_INACTIVE])

_SPREAD = np.uint64(0x9E37_79B9_7F4A_7C15)

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Observed:
    """Who owns each of N rows, and which rows are connections seen for the first time.

    ``by`` has places in BY. What is unknown: slot, fd and by -1, holders and verified_us 0.
    """

    slot: npt.NDArray[np.int32]
    fd: npt.NDArray[np.int32]
    holders: npt.NDArray[np.int32]
    verified_us: npt.NDArray[np.int64]
    by: npt.NDArray[np.int8]
    opened: Flags


@dataclass(frozen=True)
class Closed(Observed):
    """The same of N close events; ``sampled`` says whether a dump had shown the socket."""

    sampled: Flags


@dataclass
class _Known:
    """N sockets: arrays of equal length."""

    key: Words
    netns: Words
    slot: npt.NDArray[np.int32]
    fd: npt.NDArray[np.int32]
    holders: npt.NDArray[np.int32]
    verified_us: npt.NDArray[np.int64]
    heard: Flags  # the owner is who listened on its port
    counted: Flags  # as a connection
    closed: Flags  # its close event was received
    brief: Flags  # a minisocket when last seen
    left: npt.NDArray[np.int64]  # of a minisocket: the generation that lacked it first

    @classmethod
    def new(cls, key: Words, netns: Words) -> _Known:
        count = key.size
        return cls(
            key,
            netns,
            np.full(count, -1, np.int32),
            np.full(count, -1, np.int32),
            np.zeros(count, np.int32),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
            np.zeros(count, np.int64),
        )

    def by(self) -> npt.NDArray[np.int8]:
        """Return how the owners are known if they are by no descriptor, as places in BY."""
        by = np.where(self.heard, _LISTENER, _CARRIED)
        by[self.slot < 0] = -1
        return by

    def take(self, rows: npt.NDArray[Any] | slice) -> _Known:
        return _Known(*(getattr(self, name)[rows] for name in _COLUMNS))

    def copy_to(self, other: _Known, rows: Rows, places: Rows) -> None:
        """Copy what is remembered, but not the identity, of rows to places of another."""
        for name in _REMEMBERED:
            getattr(other, name)[places] = getattr(self, name)[rows]

    def join(self, other: _Known) -> _Known:
        return _Known(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS)
        )


_COLUMNS = tuple(field.name for field in dataclasses.fields(_Known))
_OWNER = ("slot", "fd", "holders", "verified_us")
_REMEMBERED = (*_OWNER, "heard", "counted", "closed", "brief")


class _Index:
    """Where each of distinct keys stands.

    Each key has a bucket by its hash; those whose bucket another one took are sorted. For 100,000
    sockets that takes a quarter of the time of sorting all.
    """

    def __init__(self, keys: Words) -> None:
        self._keys = keys
        bits = max(8, int(8 * keys.size).bit_length())
        self._shift = np.uint64(64 - bits)
        self._buckets = np.full(1 << bits, -1, np.int32)
        bucket, row = self._bucket(keys), np.arange(keys.size, dtype=np.int32)
        self._buckets[bucket] = row
        crowded = np.flatnonzero(self._buckets[bucket] != row)
        self._crowded_rows = crowded[np.argsort(keys[crowded])]
        self._crowded_keys = keys[self._crowded_rows]

    def _bucket(self, keys: Words) -> npt.NDArray[np.int64]:
        return ((keys * _SPREAD) >> self._shift).astype(np.int64)

    def rows(self, keys: Words) -> Rows:
        """Return the row of each key, -1 where there is none."""
        if not self._keys.size:
            return np.full(keys.size, -1, np.int64)
        rows = self._buckets[self._bucket(keys)].astype(np.int64)
        rows[self._keys[rows] != keys] = -1
        if self._crowded_keys.size:
            missing = np.flatnonzero(rows < 0)
            place = np.searchsorted(self._crowded_keys, keys[missing])
            place[place == self._crowded_keys.size] = 0
            found = self._crowded_keys[place] == keys[missing]
            rows[missing[found]] = self._crowded_rows[place[found]]
        return rows


class _Table:
    """The sockets of one step's last dumps: those of the last one first, in its order."""

    def __init__(self, known: _Known) -> None:
        self.known = known

    @cached_property
    def index(self) -> _Index:
        return _Index(self.known.key)


_NOTHING = _Table(_Known.new(np.zeros(0, np.uint64), np.zeros(0, np.uint64)))


class _Left:
    """Sockets that left the dumps, in the order in which they did."""

    def __init__(self) -> None:
        self._table = _NOTHING

    def __len__(self) -> int:
        return self.known.key.size

    @property
    def known(self) -> _Known:
        return self._table.known

    def rows(self, keys: Words) -> Rows:
        if not len(self) or not keys.size:
            return np.full(keys.size, -1, np.int64)
        return self._table.index.rows(keys)

    def add(self, known: _Known) -> None:
        if known.key.size:
            self._table = _Table(self.known.join(known))

    def keep(self, rows: Flags | slice) -> None:
        known = self.known.take(rows)
        if known.key.size < len(self):
            self._table = _Table(known)

    def remove(self, rows: Rows) -> None:
        if rows.size:
            kept = np.ones(len(self), np.bool_)
            kept[rows] = False
            self.keep(kept)


class Carry:
    """Remembers the TCP and UDP sockets of all network namespaces.

    In a sample first ``observe`` what all dumps of a step gave together, then hand over to
    ``closed`` the events that were taken after these dumps. What a first call counts as opened
    was open before: whoever starts a recording leaves its result out.
    """

    def __init__(self, most_left: int = MOST_LEFT) -> None:
        self._most_left = most_left
        self._tables: dict[str, _Table] = {}
        self._generations: dict[str, int] = {}
        self._left = _Left()
        self._brief = _Left()
        self._listeners = Listeners.none()
        self._forgotten: dict[int, int] = {}

    def observe(
        self,
        step: str,
        *,
        netns: Words,
        cookies: Words,
        state: npt.NDArray[np.uint8],
        timewait: Flags,
        inode: npt.NDArray[np.uint32],
        family: npt.NDArray[np.uint8],
        local_port: npt.NDArray[np.uint16],
        local_addr: npt.NDArray[np.void],
        held: Holders,
        dumped: npt.NDArray[np.uint64],
    ) -> Observed:
        """Return the owners of the rows of a step, whose (netns, cookie) are distinct.

        ``timewait`` marks minisockets, whatever their state. ``local_addr`` is V16[N], as in
        inet_diag. ``held`` is who holds the inodes. Namespaces not among ``dumped`` stay as they
        were; of the others, what is not among the rows has left.
        """
        generation = self._generations[step] = self._generations.get(step, 0) + 1
        self._forget_for_good(dumped, generation)
        if step == TCP:
            self._brief.keep(self._brief.known.left > generation - GENERATIONS)
        keys = _keys(netns, cookies)
        count = keys.size
        table = self._tables.get(step, _NOTHING)
        if not np.array_equal(table.known.key, keys):
            table = self._tables[step] = self._turn(step, table, keys, netns, dumped)
        known = table.known.take(slice(count))
        by_fd = held.slot >= 0
        mask: Flags | np.bool_ = np.True_ if by_fd.all() else by_fd
        for name in _OWNER:
            np.copyto(getattr(known, name), getattr(held, name), where=mask)
        np.copyto(known.heard, False, where=mask)
        by = known.by()
        by[by_fd] = _FD
        opened = np.zeros(count, np.bool_)
        if step != TCP:
            return Observed(*_owners(known), by, opened)
        np.logical_or(timewait, _BRIEF[state], out=known.brief)
        connected = ~(known.brief | _UNCONNECTED[state])
        np.greater(connected, known.counted, out=opened)
        known.counted |= connected
        places = Places.of(netns, family, local_port, local_addr)
        owned, listening = (known.slot >= 0) & ~known.heard, state == _LISTEN
        rows = np.flatnonzero(listening & owned)
        self._listeners = self._listeners.without(dumped).behind(
            places.take(rows), known.slot[rows], known.verified_us[rows]
        )
        self._listen(known, by, places, (inode == 0) & ~owned & ~listening)
        return Observed(*_owners(known), by, opened)

    def closed(
        self,
        *,
        netns: Words,
        cookies: Words,
        connection: Flags,
        tcp: Flags,
        family: npt.NDArray[np.uint8],
        local_port: npt.NDArray[np.uint16],
        local_addr: npt.NDArray[np.void],
    ) -> Closed:
        """Return the owners of sockets that were announced as closed."""
        keys = _keys(netns, cookies)
        events = _Known.new(keys, netns)
        sampled = np.zeros(keys.size, np.bool_)
        for table in self._tables.values():
            rows = table.index.rows(keys)
            found = np.flatnonzero(rows >= 0)
            sampled[found] = True
            table.known.copy_to(events, rows[found], found)
            table.known.closed[rows[found]] = True
        for left in (self._left, self._brief):
            rows = left.rows(keys)
            found = np.flatnonzero(rows >= 0)
            sampled[found] = True
            left.known.copy_to(events, rows[found], found)
            left.remove(rows[found])
        opened = connection & ~events.counted
        by = events.by()
        places = Places.of(netns, family, local_port, local_addr)
        self._listen(events, by, places, connection & tcp & (by != _CARRIED))
        self._forget_now(list(self._forgotten))
        return Closed(*_owners(events), by, opened, sampled)

    def forget(self, netns: int) -> None:
        """Forget the sockets of a namespace that is gone, once its last events were handed over."""
        self._forgotten[netns] = max(self._generations.values(), default=0)

    def slots(self) -> npt.NDArray[np.int32]:
        """Return the slots of all processes remembered, ascending, each once."""
        known = [table.known.slot for table in self._tables.values()]
        known += [self._left.known.slot, self._brief.known.slot, self._listeners.slot]
        used = np.zeros(max((int(part.max(initial=-1)) for part in known), default=-1) + 2, bool)
        for part in known:
            used[part] = True
        return np.flatnonzero(used[:-1]).astype(np.int32)  # the last one is that of the unknown

    def _turn(self, step: str, before: _Table, keys: Words, netns: Words, dumped: Words) -> _Table:
        """Return the table of other rows, with what is remembered of them."""
        known = _Known.new(keys, netns)
        rows = before.index.rows(keys)
        found = np.flatnonzero(rows >= 0)
        before.known.copy_to(known, rows[found], found)
        fresh = np.flatnonzero(rows < 0)
        absent = np.ones(before.known.key.size, np.bool_)
        absent[rows[found]] = False
        others = before.known.take(np.flatnonzero(absent))
        for left in (self._left, self._brief):
            rows = left.rows(keys[fresh])
            found = np.flatnonzero(rows >= 0)
            left.known.copy_to(known, rows[found], fresh[found])
            left.remove(rows[found])
        gone = np.isin(others.netns, dumped)
        leaving = others.take(gone & ~others.closed)
        self._left.add(leaving.take(~leaving.brief))
        self._left.keep(slice(max(len(self._left) - self._most_left, 0), None))
        leaving.left[:] = self._generations[step]
        self._brief.add(leaving.take(leaving.brief))
        stay = others.take(~gone)
        return _Table(known.join(stay) if stay.key.size else known)

    def _listen(
        self, known: _Known, by: npt.NDArray[np.int8], places: Places, wanted: Flags
    ) -> None:
        """Make the listeners on their port the owners of the rows wanted.

        They are remembered: a server that crashes takes its listeners along, not its connections.
        """
        rows = np.flatnonzero(wanted)
        slot, verified_us = self._listeners.owners(places, rows)
        found = slot >= 0
        rows = rows[found]
        known.slot[rows], known.verified_us[rows] = slot[found], verified_us[found]
        known.heard[rows] = True
        by[rows] = _LISTENER

    def _forget_for_good(self, dumped: Words, generation: int) -> None:
        """Forget namespaces whose last events are not coming any more."""
        if self._forgotten:
            # another namespace may have the number now
            self._forget_now([netns for netns in dumped.tolist() if netns in self._forgotten])
            late = generation - GENERATIONS
            self._forget_now([netns for netns, when in self._forgotten.items() if when < late])

    def _forget_now(self, gone: list[int]) -> None:
        if not gone:
            return
        netns = np.array(gone, np.uint64)
        for step, table in self._tables.items():
            self._tables[step] = _Table(table.known.take(~np.isin(table.known.netns, netns)))
        for left in (self._left, self._brief):
            left.keep(~np.isin(left.known.netns, netns))
        self._listeners = self._listeners.without(netns)
        for number in gone:
            del self._forgotten[number]


def _owners(
    known: _Known,
) -> tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]
]:
    return known.slot.copy(), known.fd.copy(), known.holders.copy(), known.verified_us.copy()


def _keys(netns: Words, cookies: Words) -> Words:
    # Since Linux 5.4 cookies alone are unique; before, equal ones of two namespaces stay apart.
    return cookies + netns * _SPREAD
