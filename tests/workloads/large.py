#!/usr/bin/env python3
"""A recording of any size whose counters hardly compress, for queries that memory does not hold.

    python -m tests.workloads.large DIR --mib 1024 --sockets 100000

writes a sealed recording of at least that many MiB by pyarrow alone, with the contract's schema.
Most sockets are there in every sample, and of the others each lives for a tenth of the recording;
some have queues that grow, some retransmit, some wait to be closed. Nothing depends on the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recorder.schema import SOCKETS, public_schema
from tests.analyzer.support.recordings import NETNS, Row, Writer, counter, micros, step, time_of

Numbers = npt.NDArray[np.int64]

SEGMENT_ROWS = 1_000_000
ROW_GROUP_ROWS = 80_000
RANDOM_BITS = 32
VALUE_BYTES = 4.7
"""Of each value of the columns below, of which the files consist; zstd leaves 4.9 bytes of it."""

GROWING = (
    "bytes_acked bytes_received bytes_sent segs_out segs_in data_segs_in data_segs_out delivered "
    "busy_time_us rwnd_limited_us sndbuf_limited_us mptcp_map_seq mptcp_map_sfseq "
    "delivered_e0_bytes delivered_e1_bytes received_e0_bytes received_e1_bytes"
).split()
MOVING = (
    "rmem wmem fmem rmem_alloc wmem_alloc fwd_alloc wmem_queued rto_us ato_us rtt_us rttvar_us "
    "rcv_rtt_us min_rtt_us snd_cwnd snd_ssthresh rcv_ssthresh rcv_space pacing_rate delivery_rate "
    "snd_wnd rcv_wnd last_data_sent_ms last_data_recv_ms last_ack_recv_ms bbr_bw bbr_min_rtt_us"
).split()

PROCESSES = ("nginx", "postgres", "redis-server", "envoy", "java", "worker", "sshd", "report-job")
STATES = ("LISTEN", "ESTAB", "CLOSE-WAIT", "FIN-WAIT-2", "TIME-WAIT")
LISTENERS = 64
QUEUE_STEP = 1000


@dataclass(frozen=True)
class Crowd:
    """Sockets 1 to ``count``, of which the first are listeners, in so many samples."""

    count: int
    samples: int

    def born(self, cookies: Numbers) -> Numbers:
        """Return the first sample of each socket: every fourth comes some time, and goes again."""
        come = (cookies * 7919) % self.samples
        return np.where(self._passing(cookies), come, 0)

    def gone(self, cookies: Numbers) -> Numbers:
        """Return the first sample that does not show it."""
        life = max(1, self.samples // 10)
        return np.where(self._passing(cookies), self.born(cookies) + life, self.samples)

    @property
    def queue_peak(self) -> int:
        """Return the bytes that wait at most in a queue that grows."""
        return QUEUE_STEP * (self.samples - 1)

    @property
    def closed(self) -> int:
        """Return how many connections are gone, or in TIME-WAIT."""
        cookies = np.arange(1, self.count + 1, dtype=np.int64)
        gone = self.gone(cookies) < self.samples
        return int((gone | (self._states(cookies) == STATES.index("TIME-WAIT"))).sum())

    def _states(self, cookies: Numbers) -> Numbers:
        """Return the place in STATES, the same all its life, of each socket."""
        connections = np.where(cookies % 100 < 3, 2 + cookies % 3, 1)
        return np.where(cookies <= LISTENERS, 0, connections)

    def _passing(self, cookies: Numbers) -> npt.NDArray[np.bool_]:
        passing: npt.NDArray[np.bool_] = (cookies % 4 == 0) & (cookies > LISTENERS)
        return passing

    def rows(self, first: int, last: int) -> Iterator[pa.Table]:
        """Yield the rows of samples first to last as row groups, in the order of a segment."""
        span = np.arange(first, last, dtype=np.int64)
        at_once = max(1, ROW_GROUP_ROWS // len(span))
        for begin in range(1, self.count + 1, at_once):
            cookies = np.arange(begin, min(begin + at_once, self.count + 1), dtype=np.int64)
            cookie, sample = np.repeat(cookies, len(span)), np.tile(span, len(cookies))
            there = (sample >= self.born(cookie)) & (sample < self.gone(cookie))
            yield self._table(cookie[there], sample[there])

    def _table(self, cookie: Numbers, sample: Numbers) -> pa.Table:
        random = np.random.default_rng(int(cookie[0]) * self.samples + int(sample[0]))
        rows = len(cookie)
        columns: dict[str, Any] = {}
        for name in (*GROWING, *MOVING):
            values = random.integers(0, 1 << RANDOM_BITS, rows, dtype=np.int64)
            columns[name] = values + (sample << RANDOM_BITS) if name in GROWING else values
        age = sample - self.born(cookie)
        listens = cookie <= LISTENERS
        columns |= {
            "sample": sample,
            "sample_time": micros(time_of(0)) + 1_000_000 * sample,
            "owner_time": micros(time_of(0)) + 1_000_000 * sample,
            "netns": np.full(rows, NETNS),
            "cookie": cookie,
            "inode": cookie + 1000,
            "local_port": np.where(listens, 1000 + cookie, 1001 + cookie % LISTENERS),
            "peer_port": np.where(listens, 0, 20_000 + cookie % 40_000),
            "recv_q": np.where(cookie % 50 == 1, age * QUEUE_STEP, 0),
            "send_q": np.where(listens, 128, np.where(cookie % 50 == 2, age * QUEUE_STEP, 0)),
            "total_retrans": np.where(cookie % 50 == 3, age, 0),
            "bytes_retrans": np.where(cookie % 50 == 3, age * 1000, 0),
            "pid": 100 + cookie % len(PROCESSES),
            "start_us": np.full(rows, 5_000_000),
            "uid": np.zeros(rows, np.int64),
            "fd": cookie % 1000,
            "holders": np.ones(rows, np.int64),
            "family": _words(["inet"], np.zeros(rows, np.int64)),
            "netid": _words(["tcp"], np.zeros(rows, np.int64)),
            "cong": _words(["cubic"], np.zeros(rows, np.int64)),
            "owner_by": _words(["fd"], np.zeros(rows, np.int64)),
            "comm": _words(PROCESSES, cookie % len(PROCESSES)),
            "local_addr": _words(["10.0.0.1"], np.zeros(rows, np.int64)),
            "peer_addr": _words([f"10.1.{n >> 8}.{n & 255}" for n in range(5000)], cookie % 5000),
            "state": _words(STATES, self._states(cookie)),
        }
        fields = public_schema(SOCKETS)
        arrays = [
            pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(rows, f.type)
            for f in fields
        ]
        return pa.Table.from_arrays(arrays, schema=fields)

    def closes(self, sample: int) -> list[Row]:
        """Return the closes of the sockets that this sample no longer shows."""
        cookies = np.arange(1, self.count + 1, dtype=np.int64)
        return [
            {
                "cookie": cookie,
                "family": "inet",
                "netid": "tcp",
                "local_addr": "10.0.0.1",
                "local_port": 1001 + cookie % LISTENERS,
                "peer_addr": f"10.1.{cookie % 5000 >> 8}.{cookie % 5000 & 255}",
                "peer_port": 20_000 + cookie % 40_000,
                "pid": 100 + cookie % len(PROCESSES),
                "start_us": 5_000_000,
                "comm": PROCESSES[cookie % len(PROCESSES)],
                "bytes_sent": sample << RANDOM_BITS,
                "bytes_received": sample << RANDOM_BITS,
            }
            for cookie in cookies[self.gone(cookies) == sample].tolist()
        ]


@dataclass(frozen=True)
class Written:
    """A recording, what it is of, and its rows of sockets."""

    directory: Path
    crowd: Crowd
    rows: int


def _words(words: list[str] | tuple[str, ...], places: Numbers) -> pa.Array:
    return pa.DictionaryArray.from_arrays(places.astype(np.int32), pa.array(words))


def write_large(directory: Path, size: int, sockets: int) -> Written:
    """Write a recording of at least ``size`` bytes of sockets into a directory to be made."""
    row_bytes = len((*GROWING, *MOVING)) * VALUE_BYTES
    kept = sockets * 0.75 + sockets * 0.25 / 10
    crowd = Crowd(sockets, -int(-size // (row_bytes * kept)))
    writer = Writer(directory)
    at_once = max(1, int(SEGMENT_ROWS / kept))
    rows = 0
    for first in range(0, crowd.samples, at_once):
        last = min(first + at_once, crowd.samples)
        rows += _write_sockets(writer, crowd, first, last)
        for sample in range(first, last):
            writer.sample(
                steps=[step(name) for name in ("tcp", "udp", "unix", "owners", "closes")],
                closes=crowd.closes(sample),
                owners=_owners() if sample == 0 else (),
                counters=_counters(sample),
                settings=_settings() if sample == 0 else (),
            )
        writer.seal()
    writer.write_facts(ended="2026-11-22T16:00:00.000000Z")
    for path in directory.glob("*/*.arrows"):
        path.unlink()
    return Written(directory, crowd, rows)


def _write_sockets(writer: Writer, crowd: Crowd, first: int, last: int) -> int:
    metadata = {
        "version": str(writer.facts["version"]),
        "table": SOCKETS.name,
        "recording": json.dumps(writer.facts),
    }
    schema = public_schema(SOCKETS).with_metadata(
        {f"sockrec.{key}": value for key, value in metadata.items()}
    )
    random = {*GROWING, *MOVING}
    rows = 0
    with pq.ParquetWriter(
        writer.path(SOCKETS.name, ".parquet"),
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in SOCKETS.names if name not in random],
        write_statistics=[name for name in SOCKETS.names if name not in random],
        write_page_checksum=True,
    ) as file:
        for table in crowd.rows(first, last):
            file.write_table(table.replace_schema_metadata(schema.metadata), ROW_GROUP_ROWS)
            rows += table.num_rows
    return rows


def _owners() -> list[Row]:
    return [
        {"pid": 100 + n, "start_us": 5_000_000, "comm": comm, "valid_from": time_of(0)}
        for n, comm in enumerate(PROCESSES)
    ]


def _counters(sample: int) -> list[Row]:
    return [
        counter("Tcp.ActiveOpens", 10 * sample),
        counter("Tcp.PassiveOpens", 20 * sample),
        counter("TcpExt.ListenOverflows", sample, source="netstat"),
    ]


def _settings() -> list[Row]:
    return [{"name": "net.ipv4.ip_local_port_range", "value": "32768\t60999"}]


def main() -> int:
    """Write the recording that the command line describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--sockets", type=int, default=100_000)
    options = parser.parse_args()
    written = write_large(options.directory, options.mib << 20, options.sockets)
    print(f"{written.rows:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
