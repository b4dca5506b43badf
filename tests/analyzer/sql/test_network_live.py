"""Real networks with a fault, recorded: findings name it, and reports show it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer.sql.catalog import read_findings
from analyzer.sql.views import Scope
from tests.recorder.support.journals import committed
from tests.recorder.support.owners_child import Child
from tests.recorder.support.recorded import record
from tests.workloads.netns import MOUNTS, ip, lacking, namespace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(lacking("tc") is not None, reason=str(lacking("tc"))),
]

LASTS_S = 7

LINKS = """
link add left type veth peer name right
addr add 10.9.0.1/24 dev left
link set left up
link set right up
neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev left nud permanent
link add wan type veth peer name isp
link set wan up
link set isp up
addr add 10.8.0.1/24 dev wan
neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev wan nud permanent
route add 10.20.0.0/16 via 10.8.0.2
link add quiet type veth peer name calm
link set quiet up
link set calm up
"""

TRAFFIC = """
assert not libc.setns(os.open({path!r}, os.O_RDONLY), 0x40000000)
def flood():
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        while True:
            try: sender.sendto(bytes(1000), ("10.9.0.2", 9))
            except OSError: pass
            time.sleep(0.01)
def call():
    libc.prctl(15, b"caller")
    while True:
        try: socket.create_connection(("10.8.0.77", 80))
        except OSError: pass
def lost():
    libc.prctl(15, b"lost")
    while True:
        try: socket.create_connection(("10.20.0.5", 80))
        except OSError: time.sleep(0.1)
fork(flood), fork(call), fork(lost)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "r"
    with namespace() as name, Child() as child:
        for line in LINKS.strip().splitlines():
            ip("-n", name, *line.split())
        tc = "qdisc add dev left root handle 7: tbf rate 200kbit burst 2kb limit 30kb"
        subprocess.run(["tc", "-n", name, *tc.split()], check=True)
        child.run(TRAFFIC.format(path=str(MOUNTS / name)))
        options = ("-i", "500ms", "-d", f"{LASTS_S}s", "--netns", name)
        with subprocess.Popen(record(path, *options)) as recorder:
            limit = time.monotonic() + 60
            while not committed(path, 1).commits:
                assert time.monotonic() < limit
                time.sleep(0.1)
            child.run("time.sleep(2.5)")
            ip("-n", name, "route", "del", "10.20.0.0/16")
            ip("-n", name, "link", "set", "calm", "down")
            assert recorder.wait(60) == 0
    return path


@pytest.fixture(scope="module")
def found(recorded: Path) -> dict[str, list[str]]:
    with analyzer.open(recorded) as opened:
        return {
            name: [
                str(row["sentence"])
                for row in opened.engine.table(
                    read_findings()[name].sql, Scope(), read_findings()[name].values({})
                ).to_pylist()
            ]
            for name in ("interface_faults", "interface_queue", "next_hop")
        }


def test_a_link_that_goes_down_is_told_and_no_other(found: dict[str, list[str]]) -> None:
    assert sorted(found["interface_faults"]) == [
        "interface calm was set down and stayed down",
        "interface quiet went down and stayed down",
    ]


def test_a_queue_that_stands_and_drops_is_named(found: dict[str, list[str]]) -> None:
    (said,) = found["interface_queue"]
    assert said.startswith("the queue (tbf 7:) of interface left was never empty for ")
    assert "Mbit/s that it sends" in said
    assert "; it dropped " in said


def test_a_next_hop_that_does_not_answer_and_a_route_that_is_lost(
    found: dict[str, list[str]],
) -> None:
    lost, silent = sorted(found["next_hop"], reverse=True)
    assert lost.startswith("there is no route to 10.20.0.5: a connection of lost (pid ")
    assert silent.startswith("10.8.0.77 does not answer on wan, the link that it should be on (")
    assert "of caller (pid " in silent


def test_reports_show_it(recorded: Path) -> None:
    with analyzer.open(recorded) as opened:
        lines: list[dict[str, Any]] = opened.report("interfaces").table().to_pylist()
        held = opened.report("network").table().to_pylist()
    assert lines[0]["dev"] == "left"
    left = lines[0]
    assert (left["state"], left["qdisc"], left["kind"], left["mtu"]) == ("UP", "tbf", "veth", 1500)
    assert 0.1 < left["tx_mbit"] < 0.3
    assert left["qdisc_drops"] > 0
    assert {line["dev"]: line["state"] for line in lines}["calm"] == "DOWN"
    gone = [(row["what"], row["address"], row["via"]) for row in held if row["until"] is not None]
    assert ("route", "10.20.0.0/16", "10.8.0.2") in gone
