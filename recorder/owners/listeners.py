"""Who listens where: the owner of a connection that nobody holds yet, or any more."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

_SPREAD = np.uint64(0x9E37_79B9_7F4A_7C15)
_SPREAD_MORE = np.uint64(0xC2B2_AE3D_27D4_EB4F)
_LOW_HALF = np.uint64(0xFFFF_FFFF)

_ANY = np.uint64(0)
_MAPPED = np.uint64(0xFFFF_0000)
"""Bytes 8 to 15 of ::ffff:0.0.0.0 as they lie in memory."""

BLOCK_ROWS = 4096
"""Places looked at together: what stays in a cache takes a third of the time."""

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Local ends of N sockets; the address as two words, those of IPv4 its number and 0."""

    netns: Words
    family: npt.NDArray[np.uint8]
    port: npt.NDArray[np.uint16]
    low: Words
    high: Words

    @classmethod
    def of(
        cls,
        netns: Words,
        family: npt.NDArray[np.uint8],
        port: npt.NDArray[np.uint16],
        address: npt.NDArray[np.void],
    ) -> Places:
        """Take the columns of a dump, addresses as V16[N]."""
        words = np.ascontiguousarray(address).view(np.uint64).reshape(-1, 2)
        return cls(netns, family, port, words[:, 0], words[:, 1])

    def take(self, rows: npt.NDArray[Any]) -> Places:
        """Return some of them, as native numbers."""
        family = self.family[rows]
        v6 = family != socket.AF_INET
        low = self.low[rows] & np.where(v6, ~_ANY, _LOW_HALF)
        high = self.high[rows] * v6
        return Places(self.netns[rows], family, self.port[rows].astype(np.uint16), low, high)

    def at(self, high: np.uint64) -> Places:
        """Return the same with another address, whose first half is zero."""
        return dataclasses.replace(
            self, low=np.zeros_like(self.low), high=np.full_like(self.high, high)
        )

    def join(self, other: Places) -> Places:
        """Return these and those of another."""
        return Places(
            *(
                np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                for field in dataclasses.fields(self)
            )
        )

    def hashes(self) -> Words:
        """Return a number for each, equal for equal places."""
        small = self.port.astype(np.uint64) << np.uint64(8) | self.family
        hashes: Words = (self.netns ^ small * _SPREAD_MORE) * _SPREAD
        hashes ^= self.low * _SPREAD_MORE ^ (self.high + _SPREAD) * _SPREAD
        return hashes

    def equal(self, other: Places) -> npt.NDArray[np.bool_]:
        """Return which are the same as those of another, row by row."""
        same = np.ones(self.port.size, np.bool_)
        for field in dataclasses.fields(self):
            same &= getattr(self, field.name) == getattr(other, field.name)
        return same


@dataclass(frozen=True)
class Listeners:
    """Listeners and their processes, in the order of the dumps."""

    places: Places
    slot: npt.NDArray[np.int32]
    verified_us: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> Listeners:
        """Return no listeners."""
        words = np.zeros(0, np.uint64)
        places = Places(words, np.zeros(0, np.uint8), np.zeros(0, np.uint16), words, words)
        return cls(places, np.zeros(0, np.int32), np.zeros(0, np.int64))

    def without(self, netns: Words) -> Listeners:
        """Return those of other namespaces."""
        rows = np.flatnonzero(~np.isin(self.places.netns, netns))
        return Listeners(self.places.take(rows), self.slot[rows], self.verified_us[rows])

    def behind(
        self, places: Places, slot: npt.NDArray[np.int32], verified_us: npt.NDArray[np.int64]
    ) -> Listeners:
        """Return these behind others."""
        return Listeners(
            places.join(self.places),
            np.concatenate([slot, self.slot]),
            np.concatenate([verified_us, self.verified_us]),
        )

    def owners(
        self, places: Places, rows: Rows
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return slot and verified_us of who listens at the places of some rows; slot -1 is nobody.

        Of several listeners (SO_REUSEPORT) it is the first, and one on the very address before one
        on all addresses. A dual-stack listener has the connections of mapped IPv4 addresses.
        """
        slot, verified_us = np.full(rows.size, -1, np.int32), np.zeros(rows.size, np.int64)
        if not self.slot.size:
            return slot, verified_us
        likely = np.flatnonzero(self._ports[places.port[rows]])
        for first in range(0, likely.size, BLOCK_ROWS):
            block = likely[first : first + BLOCK_ROWS]
            found = self._listener(places.take(rows[block]))
            block, found = block[found >= 0], found[found >= 0]
            slot[block], verified_us[block] = self.slot[found], self.verified_us[found]
        return slot, verified_us

    def _listener(self, places: Places) -> Rows:
        """Return the row of the listener at each place, -1 where there is none."""
        found = np.full(places.port.size, -1, np.int64)
        if not self._on_every_address.all():
            found = self._find(places)
        if self._on_every_address.any():
            mapped = (places.low == 0) & (places.high & _LOW_HALF == _MAPPED)
            for address, where in ((_MAPPED, mapped), (_ANY, np.True_)):
                missing = np.flatnonzero((found < 0) & where)
                if missing.size:
                    found[missing] = self._find(places.take(missing).at(address))
        return found

    @cached_property
    def _on_every_address(self) -> npt.NDArray[np.bool_]:
        high = self.places.high
        every: npt.NDArray[np.bool_] = (self.places.low == 0) & ((high == _ANY) | (high == _MAPPED))
        return every

    @cached_property
    def _ports(self) -> npt.NDArray[np.bool_]:
        ports = np.zeros(1 << 16, np.bool_)
        ports[self.places.port] = True
        return ports

    @cached_property
    def _ordered(self) -> tuple[Words, Rows]:
        hashes = self.places.hashes()
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _find(self, places: Places) -> Rows:
        """Return the first listener at each very place, -1 where there is none."""
        hashes, order = self._ordered
        at = np.searchsorted(hashes, places.hashes())
        at[at == hashes.size] = 0
        rows = order[at]
        rows[~self.places.take(rows).equal(places)] = -1
        return rows
