"""A second, independent writer of the format of docs/recording.md, for recordings of known rows."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.schema import SOCKETS, TABLES, VERSION, journal_schema, public_schema, segment_schema

Row = dict[str, Any]

START = datetime(2026, 11, 22, 15, 4, 5)
NETNS = 4026531840
FACTS: dict[str, Any] = {
    "version": VERSION,
    "host": "web1",
    "machine": "x86_64",
    "kernel": "6.18.1",
    "boot_id": "6e0c4a5e-0000-4000-8000-000000000000",
    "started": "2026-11-22T15:04:05.000000Z",
    "ended": None,
    "interval_us": 1_000_000,
    "tables": ["tcp", "udp", "unix"],
    "owners": True,
    "command": None,
    "sockrec": "0.1.0",
    "clock": {"realtime_us": 0, "boottime_us": 0, "ticks_per_second": 100},
    "uid": 0,
    "netns": NETNS,
    "sysctl": {},
    "unseen": [],
    "unknown_attributes": {},
    "skipped": 0,
    "exit": None,
}
ADDED_IN_2 = {
    "sockets": set("local_id peer_id dev user owner_by cgroup subflow details".split()),
    "samples": {"source", "opened", "lost"},
    "owners": {"fd_limit"},
}
"""The tables of version 1, and which of their columns it lacked."""

STEPS = ("tcp", "udp", "udp6", "unix", "owners")


def time_of(sample: int) -> datetime:
    """Return when a sample was begun: one a second."""
    return START + timedelta(seconds=sample)


def micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )


def tcp(cookie: int, state: str = "ESTAB", **columns: Any) -> Row:
    """Return a TCP socket of process 100, nginx, unless columns say otherwise."""
    return {
        "family": "inet",
        "netid": "tcp",
        "state": state,
        "recv_q": 0,
        "send_q": 0,
        "local_addr": "127.0.0.1",
        "local_port": 80,
        "peer_addr": "127.0.0.1",
        "peer_port": 40000 + cookie % 20000,
        "uid": 0,
        "inode": 1000 + cookie,
        "cookie": cookie,
        "pid": 100,
        "start_us": 5_000_000,
        "comm": "nginx",
        "fd": 3,
        "holders": 1,
    } | columns


def unowned(cookie: int, state: str, *, inode: int = 0) -> Row:
    return tcp(cookie, state, inode=inode) | dict.fromkeys(
        ("pid", "start_us", "comm", "fd", "holders")
    )


def carried(cookie: int, state: str, by: str = "carried", **columns: Any) -> Row:
    """Return a socket without an inode whose owner is known otherwise."""
    return tcp(cookie, state, inode=0, fd=None, holders=None, owner_by=by, **columns)


def counter(name: str, value: int | None, **columns: Any) -> Row:
    """Return a changed value of this namespace, read before the sockets."""
    return {"phase": "before", "source": "snmp", "name": name, "value": value} | columns


def unix(cookie: int, **columns: Any) -> Row:
    return (
        tcp(cookie)
        | {"family": "unix", "netid": "u_str", "local_addr": "@/tmp/.X11-unix/X0"}
        | dict.fromkeys(("local_port", "peer_addr", "peer_port"))
        | columns
    )


def step(name: str, **columns: Any) -> Row:
    return {
        "step": name,
        "boottime_us": 0,
        "rows": 0,
        "bytes": 0,
        "outcome": "ok",
        "repeated": 0,
        "late_us": 100,
        "skipped": 0,
    } | columns


def _plain(value: object) -> object:
    """Return the value as a journal has it: flags are numbers."""
    return int(value) if isinstance(value, bool) else value


def _arrays(
    rows: Sequence[Row], schema: pa.Schema, plain: Callable[[object], object]
) -> list[pa.Array]:
    """Return the rows as columns; most of the 164 are in none of them."""
    given: set[str] = set().union(*rows)
    nulls = {kind: pa.nulls(len(rows), kind) for kind in set(schema.types)}
    return [
        pa.array([plain(row.get(f.name)) for row in rows], f.type)
        if f.name in given
        else nulls[f.type]
        for f in schema
    ]


@dataclass
class _Journal:
    """One journal as bytes, and the rows in it; ``written`` of the bytes are in its file."""

    table: str
    columns: tuple[str, ...]
    bytes: io.BytesIO = field(default_factory=io.BytesIO)
    rows: list[Row] = field(default_factory=list)
    start: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        known = journal_schema(TABLES[self.table])
        self.schema = pa.schema([known.field(name) for name in self.columns])
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self.writer = pa.ipc.new_stream(self.bytes, self.schema, options=options)

    def append(self, rows: Sequence[Row], metadata: Mapping[str, str] | None = None) -> None:
        self.rows += rows
        batch = pa.record_batch(_arrays(rows, self.schema, _plain), schema=self.schema)
        self.writer.write_batch(batch, custom_metadata=metadata)

    def take_range(self) -> tuple[int, int, int]:
        whole = self.bytes.getvalue()
        taken = (self.start, len(whole), zlib.crc32(whole[self.start :]))
        self.start = len(whole)
        return taken


class Writer:
    """Writes a recording: samples into journals of the current number, and segments.

    With ``version=1`` it has the tables and columns of that version only. Without ``journals`` it
    is nothing before it is sealed, and takes a fraction of the time.
    """

    def __init__(self, directory: Path, *, journals: bool = True, **facts: Any) -> None:
        self.directory = directory
        self.journals = journals
        self.facts = FACTS | facts
        added = ADDED_IN_2 if self.facts["version"] == 1 else {}
        self.columns = {
            table: tuple(name for name in TABLES[table].names if name not in added.get(table, ()))
            for table in (added or TABLES)
        }
        self.number = 1
        self.ends: list[dict[str, int]] = []
        """After each sample of this number: where each journal's committed bytes end."""
        self._sample = 0
        directory.mkdir(exist_ok=True)
        for table in self.columns:
            (directory / table).mkdir(exist_ok=True)
        self.write_facts()
        self._open()

    def write_facts(self, **facts: Any) -> None:
        self.facts |= facts
        (self.directory / "recording.json").write_text(json.dumps(self.facts))

    def sample(
        self,
        sockets: Sequence[Row] = (),
        *,
        steps: Sequence[Row] | None = None,
        owners: Sequence[Row] = (),
        number: int | None = None,
        **tables: Sequence[Row],
    ) -> None:
        """Append one committed sample; every step is ok unless ``steps`` says otherwise."""
        sample = self._sample if number is None else number
        self._sample = sample + 1
        common = {"sample": sample, "sample_time": time_of(sample)}
        steps = [step(name) for name in STEPS] if steps is None else steps
        given = {"sockets": sockets, "owners": owners, "samples": steps} | tables
        for table, rows in given.items():
            names = TABLES[table].names
            times = {"netns": NETNS, "t0": time_of(sample), "t1": time_of(sample)} | common
            if table == "closes":
                times["time"] = time_of(sample)
            here = {name: value for name, value in times.items() if name in names}
            if rows and self.journals:
                self._journals[table].append([here | row for row in rows])
            else:
                self._journals[table].rows += [here | row for row in rows]
        if not self.journals:
            return
        ranges = {name: journal.take_range() for name, journal in self._journals.items()}
        text = json.dumps({"sample": sample, "tables": ranges})
        samples = self._journals["samples"]
        samples.append([], {"sockrec.commit": text, "sockrec.crc": str(zlib.crc32(text.encode()))})
        samples.start = len(samples.bytes.getvalue())
        self.ends.append({name: journal.start for name, journal in self._journals.items()})
        self.flush()

    def flush(self) -> None:
        for table, journal in self._journals.items():
            whole = journal.bytes.getvalue()
            if len(whole) != journal.written:
                self.path(table, ".arrows").write_bytes(whole)
                journal.written = len(whole)

    def path(self, table: str, suffix: str) -> Path:
        return self.directory / table / f"{self.number:06d}{suffix}"

    def write_segment(self, table: str) -> None:
        contract = TABLES[table]
        rows = sorted(
            self._journals[table].rows,
            key=lambda row: [(row.get(key) is not None, row.get(key)) for key in contract.order],
        )
        write_segment(
            self.path(table, ".parquet"),
            table,
            rows,
            self.facts,
            columns=self.columns[table],
            moments=self.facts["version"] > 1,
        )

    def seal(self, *, keep_journals: bool = False) -> None:
        """Make segments of the current number, only of tables with rows, and begin the next."""
        for table in (*self._journals.keys() - {"samples"}, "samples"):
            if self._journals[table].rows or table == "samples" or self.facts["version"] == 1:
                self.write_segment(table)
        if not keep_journals:
            for table in self.columns:
                self.path(table, ".arrows").unlink(missing_ok=True)
        self.number += 1
        self._open()

    def _open(self) -> None:
        self._journals = {table: _Journal(table, names) for table, names in self.columns.items()}
        self.ends = []


def write_segment(
    path: Path,
    table: str,
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    /,
    columns: Collection[str] | None = None,
    moments: bool = False,
    **replaced: str,
) -> None:
    """Write a Parquet file of a table; ``replaced`` overrides its sockrec.* metadata.

    Ages are in it as recordings of before had them, or as the ``moments`` that they count from.
    """
    metadata = {
        "version": str(facts["version"]),
        "table": table,
        "recording": json.dumps(dict(facts)),
    } | replaced
    contract = TABLES[table]
    fields = [f for f in public_schema(contract) if columns is None or f.name in columns]
    if moments:
        fields = list(segment_schema(contract))
        rows = [_with_moments(row) for row in rows] if contract == SOCKETS else rows
    schema = pa.schema(fields, {f"sockrec.{key}": value for key, value in metadata.items()})
    arrays = _arrays(rows, schema, lambda value: value)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, write_page_checksum=True)


def _with_moments(row: Row) -> Row:
    """Return a row of sockets with the moments that its ages count from."""
    age, left = row.get("last_ack_recv_ms"), row.get("expires_ms")
    sample_time = row.get("sample_time")
    read = 7 * row.get("cookie", 0) % 1000 if (age, left) != (None, None) else None
    made: Row = {"read_ms": read}
    if read is not None:
        since = datetime(1970, 1, 1) if sample_time is None else sample_time
        now = (since - datetime(1970, 1, 1)) // timedelta(milliseconds=1) + read
        made["ack_recv_at_ms"] = None if age is None else now - age
        made["expires_at_ms"] = None if left is None else now + left
    for what in ("data_sent", "data_recv"):
        other = row.get(f"last_{what}_ms")
        made[f"{what}_to_ack_ms"] = None if other is None else other - (age or 0)
    return row | made


def play(
    directory: Path,
    samples: Iterable[Mapping[str, Any]],
    steps: Sequence[Row] | None = None,
    **facts: Any,
) -> Path:
    """Write a sealed recording of these samples, whose steps are these unless they say others."""
    writer = Writer(directory, journals=False, **facts)
    for sample in samples:
        writer.sample(**{"steps": steps} | dict(sample))
    writer.seal()
    return directory


def every_table(directory: Path) -> Writer:
    """Write four samples in which every table gains rows, not all of them in each sample."""
    writer = Writer(directory)
    for sample in range(4):
        others: dict[str, Any] = {
            "closes": [{"cookie": 10 + sample, "netid": "tcp", "comm": "nginx"}],
            "counters": [counter("Tcp.ActiveOpens", 5 * sample)],
        }
        if sample % 2 == 0:
            others |= {
                "owners": [{"pid": 100 + sample, "valid_from": time_of(sample)}],
                "settings": [{"name": "net.core.somaxconn", "value": str(sample)}],
                "namespaces": [{"home": True, "valid_from": time_of(sample)}],
                "cgroups": [{"cgroup_id": sample, "path": "/system.slice"}],
                "unexplained": [{"inode": 1000 + sample, "protocol": "TCP"}],
                "processes": [{"pid": 100 + sample, "state": "S", "fds": 9}],
                "marks": [{"time": time_of(sample), "kind": "mark", "name": f"mark {sample}"}],
                "interfaces": [{"ifindex": 2, "dev": "eth0", "rx_packets": sample}],
                "qdiscs": [{"ifindex": 2, "dev": "eth0", "handle": "1:", "drops": sample}],
                "addresses": [{"address": f"10.0.0.{sample}", "valid_from": time_of(sample)}],
                "routes": [{"destination": f"10.{sample}.0.0", "valid_from": time_of(sample)}],
                "rules": [{"priority": 32766, "valid_from": time_of(sample)}],
                "neighbours": [{"address": f"10.0.0.{sample}", "valid_from": time_of(sample)}],
                "conntrack": [{"protocol": "tcp", "source": "10.0.0.1", "entries": sample}],
            }
        writer.sample([tcp(1), tcp(10 + sample)], **others)
    return writer


def small(directory: Path, **facts: Any) -> Writer:
    """Write four samples: a listener, a growing number of connections, one TIME-WAIT."""
    writer = Writer(directory, **facts)
    for sample in range(4):
        writer.sample(
            [
                tcp(1, "LISTEN", send_q=128),
                *(tcp(10 + n, recv_q=n, bytes_acked=100 * sample) for n in range(sample + 1)),
                *([unowned(50, "TIME-WAIT")] if sample == 3 else []),
            ],
            owners=[{"pid": 100, "start_us": 5_000_000, "comm": "nginx", "valid_from": time_of(0)}]
            if sample == 0
            else [],
        )
    return writer
