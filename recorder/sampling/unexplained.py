"""Sockets that processes hold and no table showed: each is listed once, with its protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recorder.owners.holders import distinct, without
from recorder.owners.owners import Owners
from recorder.sampling.steplog import Row

MOST_A_SAMPLE = 1000
"""Sockets looked at in one sample; the rest is looked at in the next."""


class Unexplained:
    """Remembers what was in no table a sample ago, and what was listed."""

    def __init__(self, owners: Owners, proc: Path = Path("/proc")) -> None:
        self._owners = owners
        self._proc = proc
        self._missing = self._listed = np.zeros(0, np.uint32)
        self._since = np.zeros(0, np.int64)

    def again(self) -> None:
        """List anew, with the next update, what is still in no table."""
        self._listed = np.zeros(0, np.uint32)

    def update(self, dumped: npt.NDArray[np.uint32], sample: int, oldest: int) -> Iterator[Row]:
        """Return the rows of ``unexplained`` for sockets that no dump of two samples showed.

        One is not enough: a socket may be made between the dumps and the search for owners. Every
        namespace was dumped in sample ``oldest`` or later.
        """
        missing = self._owners.unexplained(dumped)
        since = np.full(missing.size, sample)
        _, now, before = np.intersect1d(
            missing, self._missing, assume_unique=True, return_indices=True
        )
        since[now] = self._since[before]
        self._missing, self._since = missing, since
        again = missing[since < oldest]
        self._listed = np.intersect1d(self._listed, missing, assume_unique=True)
        new = without(again, self._listed)[:MOST_A_SAMPLE]
        if not new.size:
            return
        self._listed = distinct(np.concatenate([self._listed, new]))
        held = self._owners.lookup(new)
        pids, starts, comms = self._owners.slots()
        for inode, slot, fd in zip(new.tolist(), held.slot.tolist(), held.fd.tolist(), strict=True):
            if pids[slot] == os.getpid():
                continue  # the recorder's own are in namespaces that were left out as empty
            yield {
                "inode": inode,
                "protocol": self._protocol(int(pids[slot]), fd, inode),
                "pid": int(pids[slot]),
                "start_us": int(starts[slot]),
                "comm": comms[slot],
                "fd": fd,
            }

    def _protocol(self, pid: int, fd: int, inode: int) -> str | None:
        path = self._proc / f"{pid}/fd/{fd}"
        try:
            name = os.getxattr(path, "system.sockprotoname")
            if os.readlink(path) != f"socket:[{inode}]":
                return None  # another descriptor meanwhile
        except OSError:
            return None
        return name.rstrip(b"\0").decode("utf-8", "backslashreplace")
