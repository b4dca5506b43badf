"""Samples that others took, written as a recording."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recorder.imports.rows import Row
from recorder.recording import SEAL_BYTES, SEAL_ROWS
from recorder.schema import TABLES
from recorder.store.journal import BatchMaker
from recorder.store.manifest import iso_time
from recorder.store.writer import Writer
from recorder.wire.columns import Arrays, Values

NETNS = 1
"""Number of the network namespace of all rows: nobody has printed which it was, and no namespace
of a kernel has this one."""

HOST = 0

_NOT_SEEN = (
    ("closes", "nobody listened for them"),
    ("counters", "the kernel's counters were not read"),
    ("settings", "the sysctls were not read"),
    ("limits of processes", "they were not read"),
    ("which network namespace it is", "it is not told; its number here, 1, is made up"),
)
"""What no log and no dump of sockets has."""


@dataclass(frozen=True, slots=True)
class Step:
    """One table of the kernel as a sample shows it."""

    name: str
    rows: int
    outcome: str = "ok"
    detail: str | None = None
    repeated: int = 0
    opened: int | None = None
    netns: int = NETNS
    bytes: int | None = None


@dataclass
class Imported:
    """What became of it, for who asked: counts, and sentences that must be read."""

    samples: int = 0
    rows: int = 0
    told: list[str] = field(default_factory=list)


class Recording:
    """The recording being made; ``end`` must be called, whatever happened before."""

    def __init__(
        self, path: Path, source: str, files: Sequence[str], first_us: int, host: str | None
    ) -> None:
        """``source`` is the word of ``samples.source``: log or dump."""
        self._source = source
        self._makers = {name: BatchMaker(table) for name, table in TABLES.items()}
        self._times: list[int] = []
        self._sealed_bytes = 0
        self.result = Imported()
        self._writer = Writer(path, self._facts(source, files, first_us, host))
        self._unseen = [{"what": what, "why": why} for what, why in _NOT_SEEN]
        self._steps: dict[str, None] = {}

    @staticmethod
    def _facts(
        source: str, files: Sequence[str], first_us: int, host: str | None
    ) -> dict[str, Any]:
        return {
            "sockrec": version("sockrec"),
            "imported": {"from": source, "files": list(files)},
            "started": iso_time(first_us),
            "ended": None,
            "exit": None,
            "interval_us": None,
            "tables": [],
            "owners": False,
            "command": None,
            "skipped": 0,
            "samples": 0,
            "socket_rows": 0,
            "unseen": [],
            "reading": [],
            "missing_sysctls": [],
            "unknown_attributes": {},
            "host": host,
            "machine": None,
            "kernel": None,
            "boot_id": None,
            "netns": NETNS,
        }

    @property
    def samples(self) -> int:
        """How many samples were written."""
        return len(self._times)

    def add_unseen(self, what: str, why: str) -> None:
        """Note what the evidence cannot tell."""
        self._unseen.append({"what": what, "why": why})

    def write(
        self, time_us: int, sockets: Iterable[tuple[int, Arrays]], steps: Sequence[Step]
    ) -> None:
        """Write a sample: batches of ``sockets`` as (rows, columns), and how each table was got."""
        number = len(self._times)
        for count, columns in sockets:
            if count:
                columns["netns"] = Values(np.full(count, NETNS, np.uint64))
                self._append("sockets", count, columns, number, time_us)
                self.result.rows += count
        self._rows("samples", [self._step_row(step, time_us) for step in steps], number, time_us)
        if not number:
            first: Row = {"netns": NETNS, "home": 1, "entered": 1, "valid_from": time_us}
            self._rows("namespaces", [first], number, time_us)
        self._writer.commit(number)
        self._times.append(time_us)
        self._steps.update(dict.fromkeys(step.name for step in steps if step.name != "owners"))
        self._writer.tell(news=False)
        if self._writer.rows >= SEAL_ROWS or self._writer.size >= SEAL_BYTES:
            self._writer.rotate()

    def end(self, reason: str = "imported") -> None:
        """Seal it, with what is known of it now."""
        facts = self._writer.manifest.facts
        gaps = [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
        self.result.samples = facts["samples"] = len(self._times)
        facts["socket_rows"] = self.result.rows
        facts["interval_us"] = round(statistics.median(gaps)) if gaps else None
        facts["tables"] = list(self._steps)
        facts["unseen"] = self._unseen
        facts["reading"] = [
            {"step": step, "source": self._source, "why": None, "namespaces": 1}
            for step in self._steps
        ]
        self._writer.end(reason)
        self.result.told += self._writer.unsealed.values()

    def _step_row(self, step: Step, time_us: int) -> Row:
        return {
            "netns": step.netns,
            "step": step.name,
            "source": self._source,
            "t0": time_us,
            "t1": time_us,
            "rows": step.rows,
            "bytes": step.bytes,
            "outcome": step.outcome,
            "detail": step.detail,
            "repeated": step.repeated,
            "opened": step.opened,
        }

    def _rows(self, table: str, rows: Sequence[Row], number: int, time_us: int) -> None:
        self._append(table, len(rows), columns_of(table, rows), number, time_us)

    def _append(self, table: str, count: int, columns: Arrays, number: int, time_us: int) -> None:
        sample = {
            "sample": Values(np.full(count, number, np.uint32)),
            "sample_time": Values(np.full(count, time_us, np.int64)),
        }
        self._writer.append(table, self._makers[table].make(count, columns | sample))


def columns_of(table: str, rows: Sequence[Mapping[str, object]]) -> Arrays:
    """Return rows as columns; a number that the column has no room for is NULL."""
    schema = BatchMaker(TABLES[table]).schema
    names = dict.fromkeys(name for row in rows for name in row)
    columns: Arrays = {}
    for name in names:
        kind = schema.field(name).type
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _array(values, kind)
        except (pa.ArrowInvalid, OverflowError):
            columns[name] = _array([_fitting(value, kind) for value in values], kind)
    return columns


def _array(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _fitting(value: object, kind: pa.DataType) -> object:
    try:
        pa.scalar(value, kind)
    except (pa.ArrowInvalid, OverflowError):
        return None
    return value
