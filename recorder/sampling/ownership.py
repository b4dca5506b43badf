"""Who holds the sockets of a sample: by descriptor, carried over, or through a listener."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.kernel.closes import Taken
from recorder.kernel.tables import NO_INODES, Gathered
from recorder.owners.carry import BY, MOST_LEFT, TCP, Carry, Observed
from recorder.owners.owners import Holders, Owners, OwnersStep, Process
from recorder.wire.columns import Arrays, Values, code_words

CARRIED = (TCP, "udp")
"""Tables whose sockets are announced when they are closed, or outlive their descriptors."""

MOST_ENDED = 10_000
"""Processes that ended after which those are let go of that no socket refers to."""

TIMER_TIMEWAIT = 3

Row = dict[str, Any]


class Ownership:
    """Brings the holders found in /proc together with what is remembered of each cookie.

    Without ``owners`` nobody is looked for, but connections are still counted.
    """

    def __init__(
        self,
        owners: Owners | None,
        user: Callable[[int | None], str | None],
        *,
        announced: bool,
        command_lines: bool = True,
    ) -> None:
        """``user`` returns the name of a user; ``announced`` says that closes are.

        ``command_lines`` says whether those of processes are recorded.
        """
        self._command_lines = command_lines
        self._owners = owners
        self._user = user
        # without announcements of closes nothing is to come of what left the dumps
        self._carry = Carry(MOST_LEFT if announced else 0)
        self._valid_from: dict[tuple[int, int], int] = {}
        self._news: list[tuple[bool, Process]] = []  # (appeared, process) in order
        self._ended: dict[int, Row] = {}  # by slot, as long as sockets may refer to it
        self.of_kernel = NO_INODES
        """Inodes of sockets that the kernel made for itself: no process can hold them."""
        self.waited_for: set[int] = set()
        """Slots of the processes at whose sockets something waited when they were observed."""

    def update(self, inodes: npt.NDArray[np.uint32], now_us: int, budget_s: float) -> OwnersStep:
        """Look at the processes; ``inodes`` are those of all dumps."""
        assert self._owners is not None
        self.waited_for = set()
        step = self._owners.update(inodes, now_us, budget=budget_s, pinned=self._carry.slots())
        # a process that is described anew has ended first
        self._news += [(False, process) for process in step.ended]
        self._news += [(True, process) for process in step.appeared]
        return step

    def again(self) -> list[Row]:
        """Return the rows of ``owners`` for all that sockets may still refer to.

        To be called when ``rows`` has told all news.
        """
        there = self._owners.processes() if self._owners is not None else []
        rows = []
        for process in there:
            since = self._valid_from.get((process.pid, process.start_us))
            if since is not None:
                rows.append(self._row(process) | {"valid_from": since})
        self._forget_ended()
        return rows + list(self._ended.values())

    def _forget_ended(self) -> None:
        """Let go of processes that ended and of which no socket is remembered."""
        slots = set(self._carry.slots().tolist())
        self._ended = {slot: row for slot, row in self._ended.items() if slot in slots}

    def unheld(self, inodes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Return those of some inodes that no process was found to hold, each once."""
        some = np.unique(inodes[inodes != 0])
        return some[self._held(some).slot < 0]

    def forget(self, netns: int) -> None:
        """Drop what is remembered of a namespace that is gone."""
        self._carry.forget(netns)

    def observe(
        self, table: str, gathered: Gathered
    ) -> tuple[Arrays, npt.NDArray[np.bool_] | None]:
        """Return the owner columns of a table's rows, and which rows are newly seen connections.

        The latter is None for tables whose connections are not counted.
        """
        columns = gathered.decoder.columns
        if not columns.rows and table not in CARRIED:
            return {}, None
        inodes = columns["inode"].astype(np.uint32, copy=False)
        held = self._held(inodes)
        if "recv_q" in columns:
            waiting = columns["recv_q"] > 0
            self.waited_for |= set(held.slot[waiting & (held.slot >= 0)].tolist())
        if table not in CARRIED:
            by = np.where(held.slot >= 0, np.int8(0), np.int8(-1))
            nothing = np.zeros(0, np.bool_)
            return self._columns(
                Observed(held.slot, held.fd, held.holders, held.verified_us, by, nothing), inodes
            ), None
        seen = self._carry.observe(
            table,
            netns=gathered.netns(),
            cookies=columns["cookie"],
            state=columns["_state"],
            timewait=columns["_timer"] == TIMER_TIMEWAIT,
            inode=columns["inode"],
            family=columns["_family"],
            local_port=columns["local_port"],
            local_addr=columns["_src"],
            held=held,
            dumped=gathered.places(),
        )
        return self._columns(seen, inodes), seen.opened if table == TCP else None

    def closed(self, taken: Taken) -> tuple[Arrays, npt.NDArray[np.bool_]]:
        """Return the owner columns of close events, and which connections no sample had shown."""
        columns = taken.decoder.columns
        seen = self._carry.closed(
            netns=taken.netns,
            cookies=columns["cookie"],
            connection=taken.connection,
            tcp=taken.tcp,
            family=columns["_family"],
            local_port=columns["local_port"],
            local_addr=columns["_src"],
        )
        result = self._columns(seen, NO_INODES) | {"sampled": Values(seen.sampled.view(np.uint8))}
        result.pop("holders", None)
        return result, seen.opened

    def rows(self, sample_us: int) -> Iterator[Row]:
        """Return the rows of ``owners`` for what appeared and ended since the last call."""
        for appeared, process in self._news:
            key = process.pid, process.start_us
            row = self._row(process)
            if appeared:
                self._valid_from[key] = sample_us
                self._ended.pop(process.slot, None)
                yield row | {"valid_from": sample_us}
            else:
                since = self._valid_from.pop(key, sample_us)
                row |= {"valid_from": since, "valid_to": sample_us}
                self._ended[process.slot] = row
                yield row
        self._news = []
        if len(self._ended) > MOST_ENDED:
            self._forget_ended()

    def _row(self, process: Process) -> Row:
        return {
            "pid": process.pid,
            "start_us": process.start_us,
            "comm": process.comm,
            "cmdline": process.cmdline if self._command_lines else None,
            "exe": process.exe,
            "uid": process.uid,
            "user": self._user(process.uid),
            "fd_limit": process.fd_limit,
            "cgroup": process.cgroup,
            **dataclasses.asdict(process.origin),
        }

    def _held(self, inodes: npt.NDArray[np.uint32]) -> Holders:
        if self._owners is not None:
            return self._owners.lookup(inodes)
        nobody = np.full(inodes.size, -1, np.int32)
        return Holders(nobody, nobody, np.zeros_like(nobody), np.zeros(inodes.size, np.int64))

    def _columns(self, seen: Observed, inodes: npt.NDArray[np.uint32]) -> Arrays:
        known = seen.slot >= 0
        told, by = known, seen.by
        if self.of_kernel.size and inodes.size:
            mine = np.isin(inodes, self.of_kernel) & ~known
            told, by = known | mine, np.where(mine, np.int8(len(BY)), by)
        if self._owners is None or not told.any():
            return {}
        codes = np.where(told, by, 0).astype(np.int8)
        owner_by = code_words(codes, [*BY, "kernel"], None if told.all() else told)
        if not known.any():
            return {"owner_by": owner_by}
        pids, starts, comms = self._owners.slots()
        slot = np.where(known, seen.slot, 0)
        valid = None if known.all() else known
        return {
            "pid": Values(pids[slot], valid),
            "start_us": Values(starts[slot], valid),
            "comm": pa.DictionaryArray.from_arrays(
                pa.array(slot.astype(np.int32), mask=None if valid is None else ~known),
                pa.array(comms, pa.string()),
            ),
            "fd": Values(seen.fd, seen.fd >= 0),
            "holders": Values(seen.holders, seen.holders > 0),
            "owner_time": Values(seen.verified_us, valid),
            "owner_by": owner_by,
        }
