"""Connections that live between two samples: each one seen, or known to be lost, and whose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.recorder.support.recorded import read, record
from tests.workloads.churn import CLIENT_FIRST, Truth
from tests.workloads.netns import inode_of, inside, lacking, namespace

pytestmark = [pytest.mark.live, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]

ROOT = Path(__file__).parents[3]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")

TINY = "2304"
"""Bytes of a buffer that holds a few of the kernel's announcements."""


@dataclass(frozen=True)
class Churned:
    """What was done in a namespace, and what was recorded of it."""

    truth: Truth
    closes: pa.Table
    sockets: pa.Table
    samples: pa.Table
    counters: pa.Table

    def steps(self, column: str, *names: str) -> int:
        """Return the sum of a column over all samples of these steps."""
        mine = self.samples.filter(pc.is_in(self.samples["step"], pa.array(names)))
        return int(pc.sum(mine[column]).as_py() or 0)

    def may_be_unowned(self, row: dict[str, object]) -> bool:
        """Tell whether no sample up to that of a close had found who listens on its port."""
        mine = pc.field("state") == "LISTEN"
        mine &= pc.field("local_port") == row["local_port"]
        return not self.sockets.filter(mine & (pc.field("sample") <= row["sample"])).num_rows

    @property
    def seen(self) -> int:
        return self.steps("opened", "tcp", "closes")

    @property
    def lost(self) -> int:
        return self.steps("lost", "closes")


def churned(directory: Path, options: list[str], work: list[str]) -> Churned:
    """Record with these options while a namespace of its own churns with those."""
    target, truth = directory / "recording", directory / "truth.json"
    with namespace() as name:
        # two intervals after the last connection, so that its close is still met with a listener
        command = inside(name, sys.executable, CHURN, "--truth", str(truth), "--linger", "1.2")
        options = ["-i", "500ms", "--netns", name, "-A", "tcp", *options]
        done = subprocess.run(
            record(target, *options, "--", *command, *work),
            cwd=ROOT,
            timeout=120,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        netns = inode_of(name)
    tables = {
        table: read(target, table).filter(pc.field("netns") == netns)
        for table in ("closes", "sockets", "samples", "counters")
    }
    return Churned(Truth(**json.loads(truth.read_text())), **tables)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Churned:
    work = ["--rate", "1000", "--seconds", "3", "--refused", "40"]
    return churned(tmp_path_factory.mktemp("churn"), [], work)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Churned:
    work = ["--rate", "1500", "--seconds", "1", "--refused", "20"]
    return churned(tmp_path_factory.mktemp("tiny"), ["--closes-buffer", TINY], work)


def test_the_kernel_counts_what_the_workload_counts(plain: Churned) -> None:
    truth = plain.truth
    assert truth.kernel["ActiveOpens"] == truth.connected + truth.refused
    assert truth.kernel["PassiveOpens"] == truth.connected
    assert truth.opens == 2 * 3000 + 40


def test_no_short_connection_goes_unseen_or_is_counted_twice(plain: Churned) -> None:
    assert plain.lost == 0
    assert plain.seen == plain.truth.opens


def test_every_end_of_every_connection_has_one_row_of_its_close(plain: Churned) -> None:
    truth = plain.truth
    rows = plain.closes.filter(pc.field("connection")).to_pylist()
    cookies = Counter(row["cookie"] for row in rows)
    assert set(cookies.values()) == {1}
    served = [row for row in rows if row["local_port"] in truth.server_ports]
    assert len(served) == truth.connected
    assert len(rows) == truth.opens
    assert {row["netid"] for row in rows} == {"tcp"}


def test_the_last_counters_of_the_connections_add_up_to_what_was_sent(plain: Churned) -> None:
    truth = plain.truth
    rows = plain.closes.filter(pc.field("connection")).to_pylist()
    sent: Counter[bool] = Counter()
    for row in rows:
        sent[row["local_port"] in truth.server_ports] += row["bytes_sent"] - row["bytes_retrans"]
    assert (sent[False], sent[True]) == (truth.client_bytes, truth.server_bytes)
    ports = truth.server_ports[CLIENT_FIRST::3]
    closed = [row["bytes_received"] for row in rows if row["local_port"] in ports]
    assert sum(closed) == truth.client_bytes + len(closed)  # a FIN received counts as a byte


def test_server_sides_have_their_owner_and_client_sides_theirs_or_none(plain: Churned) -> None:
    truth = plain.truth
    wrong = []
    by: Counter[str] = Counter()
    for row in plain.closes.filter(pc.field("connection")).to_pylist():
        if row["local_port"] in truth.server_ports:
            right = row["pid"] in truth.servers and str(row["comm"]).startswith("churn-server-")
            right = right or (row["pid"] is None and plain.may_be_unowned(row))
            by[str(row["owner_by"])] += 1
        else:
            right = row["pid"] in {None, *truth.clients}
            assert (row["pid"] is None) == (row["owner_by"] is None)
        if not right:
            wrong.append(row)
    assert wrong == []
    assert by.keys() <= {"fd", "carried", "listener", "None"}
    assert by["listener"] > 0


def test_the_pair_of_a_server_is_the_process_that_listens_on_the_port(plain: Churned) -> None:
    truth = plain.truth
    owners = {port: truth.servers[number // 3] for number, port in enumerate(truth.server_ports)}
    table = plain.closes.filter(pc.is_in(plain.closes["local_port"], pa.array(truth.server_ports)))
    pairs = {
        (row["local_port"], row["pid"])
        for row in table.to_pylist()
        if row["pid"] is not None or not plain.may_be_unowned(row)
    }
    assert pairs == set(owners.items())


def test_a_socket_that_a_sample_had_shown_is_marked_so(plain: Churned) -> None:
    shown: dict[int, int] = {}
    for row in plain.sockets.select(["cookie", "sample"]).to_pylist():
        shown[row["cookie"]] = min(row["sample"], shown.get(row["cookie"], row["sample"]))
    # the TIME-WAIT row of a later sample may have a cookie that a recorder of another test caused
    for row in plain.closes.select(["cookie", "sample", "sampled"]).to_pylist():
        assert row["sampled"] == (shown.get(row["cookie"], row["sample"] + 1) <= row["sample"]), row


def test_the_recorded_counters_grow_by_what_the_kernel_counted(plain: Churned) -> None:
    for name in ("ActiveOpens", "PassiveOpens"):
        mine = plain.counters.filter(
            (pc.field("source") == "snmp") & (pc.field("name") == f"Tcp.{name}")
        )
        values = mine["value"].to_pylist()
        assert max(values) - min(values) == plain.truth.kernel[name]


def test_with_a_tiny_buffer_the_lost_closes_are_counted_to_the_connection(tiny: Churned) -> None:
    truth = tiny.truth
    assert tiny.lost > 100
    assert tiny.seen < truth.opens
    # a lost announcement may be of a listener, or of a connection that a dump had shown
    others = len(truth.server_ports) + tiny.steps("opened", "tcp")
    assert 0 <= tiny.seen + tiny.lost - truth.opens <= others
    received = tiny.steps("rows", "closes")
    assert received == tiny.closes.num_rows
    outcomes = set(tiny.samples.filter(pc.field("step") == "closes")["outcome"].to_pylist())
    assert "partial" in outcomes
