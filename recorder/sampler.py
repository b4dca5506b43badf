"""A sample: the kernel's tables one after the other, their owners, and how each step went."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.columns import Columns, Values
from recorder.inet_diag import TCPDIAG_GETSOCK, InetDiag, request_tcp_both, request_v2
from recorder.journal import BatchMaker
from recorder.netlink import Dump, Framing, Outcome, Words
from recorder.owners import Owners, OwnersStep, Process
from recorder.schema import OWNERS, SAMPLES, SOCKETS
from recorder.sock_diag import SOCK_DIAG_BY_FAMILY
from recorder.transport import DiagSocket
from recorder.unix_diag import UnixDiag, request_all

TABLES = ("tcp", "udp", "unix")
"""What ``-A`` may name."""

MERGED_ROWS = 10_000
"""A sample of fewer sockets is one batch: a batch of 156 columns costs 15 kB, rows or none."""

WARM_UP_BUDGET_S = 60.0
"""Before the first sample every process is read, however long it takes."""


class Decoder(Protocol):
    """A decoder of one kind of socket."""

    columns: Columns

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None: ...

    def keep(self, rows: npt.NDArray[np.int64]) -> None: ...

    def rows(self) -> dict[str, Values | pa.Array]: ...


Request = tuple[int, bytes]


@dataclass
class Step:
    """A kernel table: the dumps that read it and what decodes them.

    ``fallback`` takes over for good if ``requests`` are not understood.
    """

    name: str
    decoder: Decoder
    requests: Sequence[Request]
    fallback: Sequence[Request] = ()

    def read(self, diag: DiagSocket) -> Dump:
        """Read the table into the decoder's columns."""
        dump = self._dump(diag)
        if dump.outcome.name in ("error", "unavailable") and self.fallback:
            requests, self.requests, self.fallback = self.requests, self.fallback, ()
            dump = self._dump(diag)
            if dump.outcome.name != "ok":
                self.requests, self.fallback = requests, self.requests
        return dump

    def _dump(self, diag: DiagSocket) -> Dump:
        self.decoder.columns.clear()
        whole = Dump()
        for kind, body in self.requests:
            part = diag.dump(kind, body, self.decoder.decode)
            whole.bytes += part.bytes
            whole.bad += part.bad
            whole.count_unknown(part.unknown)
            if whole.outcome.name == "ok":
                whole.outcome = part.outcome
        whole.repeated = _drop_repeated(self.decoder)
        return whole


def _drop_repeated(decoder: Decoder) -> int:
    """Leave out sockets the kernel gave again, as it may while its tables change."""
    cookies = decoder.columns["cookie"]
    ordered = np.sort(cookies)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    _, first = np.unique(cookies, return_index=True)
    first.sort()
    decoder.keep(first)
    return int(cookies.size - first.size)


def steps_for(tables: Sequence[str], release: tuple[int, int]) -> list[Step]:
    """Return the steps that read these tables, in the order of a sample."""
    both = (socket.AF_INET, socket.AF_INET6)
    steps: list[Step] = []
    if "tcp" in tables:
        one_walk = [(TCPDIAG_GETSOCK, request_tcp_both())]
        each = [(SOCK_DIAG_BY_FAMILY, request_v2(f, socket.IPPROTO_TCP)) for f in both]
        steps.append(Step("tcp", InetDiag("tcp", release), one_walk, each))
    if "udp" in tables:
        for name, family in zip(("udp", "udp6"), both, strict=True):
            request = (SOCK_DIAG_BY_FAMILY, request_v2(family, socket.IPPROTO_UDP))
            steps.append(Step(name, InetDiag("udp", release), [request]))
    if "unix" in tables:
        steps.append(Step("unix", UnixDiag(), [(SOCK_DIAG_BY_FAMILY, request_all())]))
    return steps


@dataclass
class Sample:
    """A sample ready to be written: batches by table, in the order of writing, and its facts."""

    number: int
    time_us: int
    sockets: int = 0
    batches: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)
    unknown: dict[str, dict[str, int]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    denied: int = 0


class Sampler:
    """Takes samples of one network namespace. The arrays of a sample are used again by the next."""

    def __init__(
        self,
        tables: Sequence[str],
        *,
        netns: int,
        release: tuple[int, int],
        owners: Owners | None,
        owners_budget_s: float,
        diag: DiagSocket | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._netns = netns
        self.diag = diag or DiagSocket()
        self.steps = steps_for(tables, release)
        self._owners = owners
        self._budget = owners_budget_s
        self._now_us = now_us
        self._makers = {table.name: BatchMaker(table) for table in (SOCKETS, SAMPLES, OWNERS)}
        self._valid_from: dict[tuple[int, int], int] = {}
        self._appeared_early: list[Process] = []

    def close(self) -> None:
        self.diag.close()
        if self._owners is not None:
            self._owners.close()

    def warm_up(self) -> None:
        """Read everything once, unrecorded: the first look at every process is no sample's cost."""
        for step in self.steps:
            step.read(self.diag)
        if self._owners is not None:
            found = self._owners.update(self._inodes(), self._now_us(), budget=WARM_UP_BUDGET_S)
            self._appeared_early = found.appeared

    def _inodes(self) -> npt.NDArray[np.uint32]:
        inodes = [step.decoder.columns["inode"] for step in self.steps]
        every = np.concatenate(inodes or [np.zeros(0, np.uint32)])
        return every.astype(np.uint32, copy=False)

    def take(self, number: int, *, late_us: int = 0, skipped: int = 0) -> Sample:
        """Take a sample; it must be written before the next is taken."""
        sample = Sample(number, self._now_us())
        boottime_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        log: list[dict[str, Any]] = []
        for step in self.steps:
            with self._timed(log, step.name) as row:
                dump = step.read(self.diag)
                row |= {
                    "rows": step.decoder.columns.rows,
                    "bytes": dump.bytes,
                    "outcome": dump.outcome.name,
                    "errno": dump.outcome.errno,
                    "detail": dump.outcome.detail,
                    "repeated": dump.repeated,
                }
            sample.outcomes[step.name] = dump.outcome
            if dump.unknown:
                sample.unknown[step.name] = dump.unknown
        processes: OwnersStep | None = None
        if self._owners is not None:
            with self._timed(log, "owners") as row:
                processes = self._read_owners(self._owners, sample, row)
        sockets = [batch for step in self.steps for batch in self._socket_batches(sample, step)]
        if sample.sockets < MERGED_ROWS and len(sockets) > 1:
            sockets = [pa.concat_batches(sockets)]
        sample.batches += [("sockets", batch) for batch in sockets]
        if processes is not None:
            self._add_owners(sample, processes)
        for row in log:
            row |= {"late_us": late_us, "skipped": skipped, "boottime_us": boottime_us}
        self._add_samples(sample, log)
        return sample

    def _timed(self, log: list[dict[str, Any]], name: str) -> _Timed:
        return _Timed(log, name, self._now_us)

    def _read_owners(self, owners: Owners, sample: Sample, row: dict[str, Any]) -> OwnersStep:
        step = owners.update(self._inodes(), sample.time_us, budget=self._budget)
        sample.denied = step.denied
        detail = []
        if step.unresolved:
            detail.append(f"{step.unresolved} inodes without a process")
        if step.denied:
            detail.append(f"{step.denied} processes whose descriptors may not be read")
        row |= {
            "rows": step.processes,
            "bytes": 0,
            "outcome": "partial" if detail else "ok",
            "detail": ", ".join(detail) or None,
            "unresolved": step.unresolved,
            "denied": step.denied,
            "tables_read": step.tables_read,
        }
        return step

    def _socket_batches(self, sample: Sample, step: Step) -> Iterator[pa.RecordBatch]:
        count = step.decoder.columns.rows
        sample.sockets += count
        if not count:
            return
        columns = step.decoder.rows()
        columns |= self._sample_columns(sample, count)
        if self._owners is not None:
            inodes = step.decoder.columns["inode"].astype(np.uint32, copy=False)
            columns |= _owner_columns(self._owners, inodes)
        yield self._makers["sockets"].make(count, columns)

    def _sample_columns(self, sample: Sample, count: int) -> dict[str, Values | pa.Array]:
        return {
            "sample": Values(np.full(count, sample.number, np.uint32)),
            "sample_time": Values(np.full(count, sample.time_us, np.int64)),
            "netns": Values(np.full(count, self._netns, np.uint64)),
        }

    def _add_owners(self, sample: Sample, step: OwnersStep) -> None:
        appeared = [*self._appeared_early, *step.appeared]
        self._appeared_early = []
        rows = [*self._ended(step.ended, sample), *self._appeared(appeared, sample)]
        if rows:
            sample.batches.append(("owners", self._from_rows("owners", rows)))

    def _ended(self, processes: Sequence[Process], sample: Sample) -> Iterator[dict[str, Any]]:
        for process in processes:
            since = self._valid_from.pop((process.pid, process.start_us), sample.time_us)
            yield _owner_row(process, sample, since) | {"valid_to": sample.time_us}

    def _appeared(self, processes: Sequence[Process], sample: Sample) -> Iterator[dict[str, Any]]:
        for process in processes:
            self._valid_from[process.pid, process.start_us] = sample.time_us
            yield _owner_row(process, sample, sample.time_us) | {"valid_to": None}

    def _add_samples(self, sample: Sample, log: list[dict[str, Any]]) -> None:
        for row in log:
            row |= {
                "sample": sample.number,
                "sample_time": sample.time_us,
                "netns": self._netns,
            }
        sample.batches.append(("samples", self._from_rows("samples", log)))

    def _from_rows(self, table: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        schema = self._makers[table].schema
        columns = {
            name: pa.array([row.get(name) for row in rows], schema.field(name).type)
            for name in schema.names
        }
        return self._makers[table].make(len(rows), columns)


class _Timed:
    """Adds a row with the times of a step to the log."""

    def __init__(self, log: list[dict[str, Any]], name: str, now_us: Callable[[], int]) -> None:
        self._row: dict[str, Any] = {"step": name}
        self._now_us = now_us
        log.append(self._row)

    def __enter__(self) -> dict[str, Any]:
        self._cpu = time.process_time_ns()
        self._row["t0"] = self._now_us()
        return self._row

    def __exit__(self, *_: object) -> None:
        self._row["t1"] = self._now_us()
        self._row["cpu_us"] = (time.process_time_ns() - self._cpu) // 1000


def _owner_row(process: Process, sample: Sample, valid_from: int) -> dict[str, Any]:
    return {
        "sample": sample.number,
        "sample_time": sample.time_us,
        "pid": process.pid,
        "start_us": process.start_us,
        "comm": process.comm,
        "cmdline": process.cmdline,
        "exe": process.exe,
        "uid": process.uid,
        "valid_from": valid_from,
    }


def _owner_columns(owners: Owners, inodes: npt.NDArray[np.uint32]) -> dict[str, Values | pa.Array]:
    held = owners.lookup(inodes)
    pids, starts, comms = owners.slots()
    known = held.slot >= 0
    if not known.any():
        return {}
    slot = np.where(known, held.slot, 0)
    return {
        "pid": Values(pids[slot], known),
        "start_us": Values(starts[slot], known),
        "comm": pa.DictionaryArray.from_arrays(
            pa.array(slot.astype(np.int32), mask=~known), pa.array(comms, pa.string())
        ),
        "fd": Values(held.fd, known),
        "holders": Values(held.holders, known),
        "owner_time": Values(held.verified_us, known),
    }
