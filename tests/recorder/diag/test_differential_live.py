"""What is recorded of a workload that stands still, against what ss prints before and after."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from recorder.host.namespaces import CURRENT, Namespaces
from recorder.kernel.places import Places
from recorder.kernel.tables import parse_query
from recorder.owners.owners import Owners
from recorder.sampling.sampler import Sampler
from recorder.schema import SOCKETS
from tests.recorder.support.poison import poisoned
from tests.recorder.support.recorded import sealed
from tests.recorder.support.rows import Row, public, release
from tests.recorder.support.ss_oracle import Oracle
from tests.recorder.support.ss_words import SsRow, parse
from tests.workloads.held import MD5_KEY, held_by_child
from tests.workloads.keeper import Truth

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: marks, keys, all owners"),
]

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """The workload as it is, as ss saw it before and after, and as it was recorded in between."""

    truths: list[Truth]
    before: dict[Key, SsRow]
    after: dict[Key, SsRow]
    rows: list[Row]
    elapsed_ms: float

    def recorded(self) -> dict[tuple[object, ...], list[Row]]:
        """Return the rows by their identity."""
        found: dict[tuple[object, ...], list[Row]] = {}
        for row in self.rows:
            found.setdefault(identity(row), []).append(row)
        return found


def by_sampler(_: Path) -> pa.Table:
    """Take one sample in this process."""
    sampler = Sampler(
        parse_query("tcp,udp,unix"),
        release=release(),
        places=Places(Namespaces(CURRENT), None),
        owners=Owners(),
        closes=None,
        interval_s=100.0,
    )
    try:
        sampler.warm_up()
        batches = [batch for name, batch in sampler.take(0).batches if name == "sockets"]
        return pa.concat_tables(public(batch) for batch in batches)
    finally:
        sampler.close()


def by_poisoned_sampler(directory: Path) -> pa.Table:
    """Take one sample in which nothing that was not written is 0."""
    with poisoned(0xA5):
        return by_sampler(directory)


def by_command(directory: Path) -> pa.Table:
    """Record two samples with the command and read the second one from the sealed segment."""
    target = directory / "recording"
    command = [sys.executable, "-m", "sockrec", "record", "-n", "2", "-i", "300ms", "-q"]
    subprocess.run([*command, "-o", str(target)], check=True, timeout=120)
    (segment,) = sorted((target / "sockets").glob("*.parquet"))
    return sealed(segment, SOCKETS).filter(pc.field("sample") == 1)


def of_workload(table: pa.Table, truths: list[Truth]) -> list[Row]:
    """Return the rows that may be the workload's, out of those of a busy machine."""
    inodes = pa.array({truth["inode"] for truth in truths} - {0}, pa.int64())
    ports = pa.array({truth["local_port"] for truth in truths if truth["family"] != "unix"})
    mine = pc.is_in(table["inode"], inodes)
    nobodys = pc.and_(pc.equal(table["inode"], 0), pc.is_in(table["local_port"], ports))
    rows: list[Row] = table.filter(pc.or_(mine, pc.fill_null(nobodys, False))).to_pylist()
    return rows


@pytest.fixture(scope="module", params=[by_sampler, by_poisoned_sampler, by_command])
def seen(
    request: pytest.FixtureRequest, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seen]:
    record: Callable[[Path], pa.Table] = request.param
    with held_by_child(500) as (truths, _):
        printed(oracle)  # a first look gives every socket its cookie
        begun = time.monotonic()
        before = printed(oracle)
        table = record(tmp_path_factory.mktemp("live"))
        after = printed(oracle)
        elapsed_ms = 1000 * (time.monotonic() - begun)
        # yielded from within, because the processes are asked about while they live
        yield Seen(truths, before, after, of_workload(table, truths), elapsed_ms)


def printed(oracle: Oracle) -> dict[Key, SsRow]:
    """Return what ss prints, by socket."""
    # before 6.8 ss printed keys past its own buffer, in front of everything else
    text = oracle.text("-tuxanpeiom").replace(MD5_KEY, "")
    return {
        (row["netid"], row["cookie"] if "cookie" in row else row["inode"]): row
        for row in parse(text)
    }


def key_of(row: Row) -> Key:
    identity = str(row["inode"]) if row["family"] == "unix" else f"{row['cookie']:x}"
    return str(row["netid"]), identity


def identity(row: Row | Truth) -> tuple[object, ...]:
    """Return what tells a socket of the workload from others: its inode, addresses if it has none.

    An MPTCP subflow shares its inode with the socket it belongs to.
    """
    if row["inode"] and row["ulp" if "ulp" in row else "netid"] != "mptcp":
        return row["netid"], row["inode"]
    return tuple(row[name] for name in ("local_addr", "local_port", "peer_addr", "peer_port"))


def test_every_socket_of_the_workload_is_recorded_once_and_as_it_is(seen: Seen) -> None:
    wrong = []
    found = seen.recorded()
    # what has no inode is its listener's: a connection to be accepted, and one half open, whose
    # listener is none of the truths
    main = seen.truths[0]["pid"]
    listening = {
        truth.get("local_port"): truth["pid"]
        for truth in seen.truths
        if truth["netid"] == "tcp" and truth["state"] == "LISTEN"
    }
    for truth in seen.truths:
        rows = found.get(identity(truth), [])
        if len(rows) != 1:
            wrong.append(f"{len(rows)} rows of {truth}")
            continue
        known = dict(truth)
        if truth["inode"] == 0:
            listener = listening.get(truth["local_port"])
            known["pid"] = main if truth["state"] == "SYN-RECV" else listener
        wrong += [
            f"{name}: recorded {rows[0][name]!r}, is {value!r}, of {truth}"
            for name, value in known.items()
            if rows[0][name] != value
        ]
    assert wrong == []
    assert len(seen.truths) > 1100


def test_every_field_that_ss_prints_agrees(seen: Seen, oracle: Oracle) -> None:
    wrong = []
    compared = 0
    words: set[str] = set()
    found = seen.recorded()
    for truth in seen.truths:
        (row,) = found[identity(truth)]
        key = key_of(row)
        if truth["netid"] == "tcp" and truth["state"] == "UNCONN" and oracle.release < (6, 8):
            assert key not in seen.before  # ss does not ask for sockets bound and not listening
            continue
        before, after = seen.before[key], seen.after[key]
        wrong += [
            f"{sentence}, of {truth}"
            for sentence in oracle.disagreements_between(
                before, after, row, elapsed_ms=seen.elapsed_ms
            )
            # the timer of a deferred connection starts again and again, which retrans does not tell
            if truth.get("state") != "SYN-RECV" or not sentence.startswith("expires_ms")
        ]
        words |= before.keys()
        compared += 1
    assert wrong == []
    assert compared >= len(seen.truths) - 1
    assert words >= LIVE_WORDS


LIVE_WORDS = {
    *("recv_q", "send_q", "timer", "expires_ms", "inode", "cookie", "mark", "cgroup_id", "v6only"),
    *("shutdown", "tos", "tclass", "class_id", "sockopt", "rmem_alloc", "drops", "users"),
    *("cong", "bbr_bw", "rto_us", "rtt_us", "ato_us", "snd_mss", "pmtu", "snd_cwnd", "ulp"),
    *("bytes_acked", "bytes_received", "segs_in", "segs_out", "send", "pacing_rate", "backoff"),
    *("delivery_rate", "delivered", "busy_time_us", "rwnd_limited_us", "unacked", "min_rtt_us"),
    *("rcv_space", "rcv_ssthresh", "snd_wnd", "notsent_bytes", "ts", "sack", "snd_wscale"),
    *("peer_inode", "vfs_inode", "vfs_dev", "icons", "interface", "retrans", "md5_keys"),
}
"""Words the workload makes ss print, so that a workload that shrank does not pass unnoticed."""


def test_a_socket_that_two_processes_hold_belongs_to_the_older_one(seen: Seen) -> None:
    shared = [truth for truth in seen.truths if truth.get("holders") == 2]
    assert len(shared) > 10
    found = seen.recorded()
    for truth in shared:
        (row,) = found[identity(truth)]
        assert (row["holders"], row["pid"], row["fd"]) == (2, truth["pid"], truth["fd"])


def test_the_md5_key_of_the_workload_is_in_no_row(seen: Seen) -> None:
    assert [row for row in seen.rows if row["md5_keys"] == 1] != []
    assert MD5_KEY not in repr(seen.rows)
