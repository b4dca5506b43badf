"""Real networks with a fault, recorded: findings name it, and reports show it."""

from __future__ import annotations

import json
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
from tests.workloads.gateway import LACKING, gateway
from tests.workloads.netns import MOUNTS, inode_of, ip, lacking, namespace

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
link add twin type veth peer name double
link set twin up
link set double up
addr add fd00:7::1/64 dev double nodad
addr add fd00:7::1/64 dev twin
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
            for name in ("duplicate_address", "interface_faults", "interface_queue", "next_hop")
        }


def test_a_link_that_goes_down_is_told_and_no_other(found: dict[str, list[str]]) -> None:
    assert sorted(found["interface_faults"]) == [
        "interface calm was set down and stayed down",
        "interface quiet went down and stayed down",
    ]


def test_an_address_that_is_held_twice_is_named(found: dict[str, list[str]]) -> None:
    assert found["duplicate_address"] == [
        "address fd00:7::1 of interface twin is that of another host on the link too, and not used"
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


ROUTED = """
link set lo up
link add left type veth peer name right
link add wan type veth peer name isp
addr add 10.9.0.1/24 dev left
addr add 10.8.0.1/24 dev wan
link set left up
link set right up
link set wan up
link set isp up
route add default via 10.8.0.2
route add 10.20.0.0/16 via 10.9.0.2 mtu 1300
route add 10.21.0.0/16 nexthop via 10.9.0.2 nexthop via 10.8.0.2
route add default via 10.9.0.3 table 100
route add 10.30.0.0/16 via 10.9.0.4 table 101
rule add from 10.9.0.1 lookup 100 pref 50
rule add to 10.30.0.0/16 lookup 101 pref 60
rule add to 10.31.0.0/16 fwmark 1 lookup 100 pref 70
rule add to 10.32.0.0/16 lookup 102 pref 80
neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev wan nud permanent
neigh add 10.8.0.7 lladdr 02:00:00:00:00:02 dev wan nud permanent
neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev left nud permanent
neigh add 10.9.0.3 lladdr 02:00:00:00:00:02 dev left nud permanent
neigh add 10.9.0.4 lladdr 02:00:00:00:00:02 dev left nud permanent
neigh add 10.9.0.7 lladdr 02:00:00:00:00:02 dev left nud permanent
"""
"""Neighbours that do not answer would end the connections in three seconds."""

PAIRS = [
    (source, f"10.{network}.0.7")
    for source in ("10.8.0.1", "10.9.0.1")
    for network in (8, 9, 20, 30, 31, 32, 33)
]

CALLS_ALONE = """
assert not libc.setns(os.open({path!r}, os.O_RDONLY), 0x40000000)
calls = []
for source, peer in {pairs!r}:
    one = socket.socket()
    one.setblocking(False)
    one.bind((source, 0))
    one.connect_ex((peer, 80))
    calls.append(one)
"""

CALLS = (
    CALLS_ALONE
    + """
own = socket.create_server(("10.9.0.1", 0))
calls.append(socket.create_connection(own.getsockname(), source_address=("10.8.0.1", 0)))
"""
)


def test_the_interface_and_next_hop_are_those_that_ip_gives(tmp_path: Path) -> None:
    with namespace() as name, Child() as child:
        for line in ROUTED.strip().splitlines():
            ip("-n", name, *line.split())
        pairs = [*PAIRS, ("10.8.0.1", "10.21.0.7")]
        child.run(CALLS.format(path=str(MOUNTS / name), pairs=pairs))
        options = ("-i", "500ms", "-d", "1s", "--netns", name, "--no-closes")
        subprocess.run(record(tmp_path / "r", *options), check=True, timeout=60)
        told = {}
        for source, peer in PAIRS:
            words = ["ip", "-n", name, "-j", "route", "get", peer, "from", source]
            (way,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
            told[source, peer] = (way["dev"], way.get("gateway", peer))
    # what a mark may lead elsewhere is not told, but where an earlier rule decides
    told["10.8.0.1", "10.31.0.7"] = (None, None)
    told["10.8.0.1", "10.21.0.7"] = (None, None)  # by a hash
    told["10.8.0.1", "10.9.0.1"] = ("lo", None)
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.report("connections", top=0).table().to_pylist()
        by = opened.report("peers", by="interface", top=0).table().to_pylist()
    found = {}
    for row in rows:
        ends = row["local"].rpartition(":")[0], row["peer"].rpartition(":")[0]
        found[ends] = row["dev"], row["next_hop"]
    assert found.pop(("10.9.0.1", "10.8.0.1")) == ("lo", None)  # the accepted end
    assert found == told
    assert len({dev for dev, _ in told.values()}) == 4
    counts = {row["dev"]: row["connections"] + row["failed"] + row["open"] for row in by}
    assert counts.keys() == {dev for dev, _ in told.values()}
    assert all(row["peer_addr"] is None and row["port"] is None for row in by)


TUNNELLED = """
link add wan type veth peer name isp
addr add 10.8.0.1/24 dev wan
link set wan up
link set isp up
neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev wan nud permanent
route add default via 10.8.0.2
tuntap add mode tun tunnel
addr add 10.50.0.1/24 dev tunnel
link set tunnel up
route add 10.60.0.0/16 dev tunnel
route add 10.61.0.0/16 via 10.50.0.2
"""


def test_the_hop_through_a_tunnel_is_that_of_ip(tmp_path: Path) -> None:
    peers = ("10.60.0.7", "10.61.0.7", "10.33.0.7")
    with namespace() as name, Child() as child:
        for line in TUNNELLED.strip().splitlines():
            ip("-n", name, *line.split())
        told = {}
        for peer in peers:
            words = ["ip", "-n", name, "-j", "route", "get", peer]
            (way,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
            told[peer] = (way["prefsrc"], way["dev"], way.get("gateway", peer))
        pairs = [(told[peer][0], peer) for peer in peers]
        child.run(CALLS_ALONE.format(path=str(MOUNTS / name), pairs=pairs))
        options = ("-i", "500ms", "-d", "1s", "--netns", name, "--no-closes")
        subprocess.run(record(tmp_path / "r", *options), check=True, timeout=60)
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.report("connections", top=0).table().to_pylist()
    found = {
        row["peer"].rpartition(":")[0]: (
            row["local"].rpartition(":")[0],
            row["dev"],
            row["next_hop"],
        )
        for row in rows
    }
    assert found == told
    assert [dev for _, dev, _ in told.values()] == ["tunnel", "tunnel", "wan"]


HOLE = [
    (0, "link add eth0 type veth peer name left netns {1}"),
    (2, "link add eth0 type veth peer name right netns {1}"),
    (1, "link add switch type bridge"),
    (1, "link set left master switch"),
    (1, "link set right master switch mtu 1300"),
    *((1, f"link set {dev} up") for dev in ("left", "right", "switch")),
    (0, "addr add 10.9.0.1/24 dev eth0"),
    (2, "addr add 10.9.0.2/24 dev eth0"),
    # what is cut by the interface is taken whole by the next one, however narrow that is
    (0, "link set eth0 gso_max_segs 1 up"),
    (2, "link set eth0 up"),
]

ENDS = """
names = {paths!r}
def inside(number, life):
    def be():
        assert not libc.setns(os.open(names[number], os.O_RDONLY), 0x40000000)
        life()
    return fork(be)
def serve():
    one = socket.create_server(("10.9.0.2", 80)).accept()[0]
    while one.recv(1 << 16): pass
def send():
    libc.prctl(15, b"sender")
    while True:
        try: one = socket.create_connection(("10.9.0.2", 80)); break
        except OSError: time.sleep(0.05)
    one.send(bytes(100)); time.sleep(0.5); one.send(bytes(5200)); signal.pause()
def hold():
    one = socket.create_server(("", 0)); signal.pause()
inside(1, hold), inside(2, serve), inside(0, send)
"""


def test_a_black_hole_of_the_mtu_is_named_by_its_interface(tmp_path: Path) -> None:
    with namespace() as client, namespace() as host, namespace() as server, Child() as child:
        names = client, host, server
        for at, line in HOLE:
            ip("-n", names[at], *line.format(*names).split())
        child.run(ENDS.format(paths=[str(MOUNTS / name) for name in names]))
        inodes = [inode_of(name) for name in names]
        options = [word for name in names for word in ("--netns", name)]
        options += ["-i", "500ms", "-d", f"{LASTS_S + 2}s"]
        subprocess.run(record(tmp_path / "r", *options), check=True, timeout=60)
    finding = read_findings()["network_stall"]
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.engine.table(finding.sql, Scope(), finding.values({})).to_pylist()
        lines = opened.report("interfaces").table().to_pylist()
    (row,) = rows
    assert row["comm"] == "sender"
    assert "small segments pass and full ones (1,4" in row["sentence"]
    told = f"never do: interface right of {host} takes packets of 1,300 bytes only, and nobody says"
    assert told in row["sentence"]
    assert {(line["netns"], line["dev"]): line["leads_to"] for line in lines} == {
        (inodes[0], "eth0"): f"left of {host}",
        (inodes[2], "eth0"): f"right of {host}",
        (inodes[1], "left"): f"eth0 of {client}",
        (inodes[1], "right"): f"eth0 of {server}",
        (inodes[1], "switch"): None,
        **{(inode, "lo"): None for inode in inodes},
    }


@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
def test_who_fills_the_connection_tracking_table_is_named(tmp_path: Path) -> None:
    with gateway(tmp_path / "done") as names:
        inode = inode_of(names[1])
        options = [word for name in names for word in ("--netns", name)]
        options += ["-i", "500ms", "-d", "1s", "--conntrack"]
        subprocess.run(record(tmp_path / "r", *options), check=True, timeout=60)
    finding = read_findings()["conntrack"]
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.report("conntrack").table().to_pylist()
        values = finding.values({"percent": "0.0000001"})
        said = opened.engine.table(finding.sql, Scope(), values).to_pylist()
        looked = opened.sql("SELECT DISTINCT outcome FROM samples WHERE step = 'conntrack'")
        assert looked.table().to_pylist() == [{"outcome": "ok"}]
    first, second = rows[:2]
    assert [row["entries"] for row in (first, second)] == [4, 3]
    told = ("netns", "protocol", "state", "source", "destination", "port", "comm", "role")
    assert [first[name] for name in told] == [
        *(inode, "tcp", "ESTABLISHED", "10.1.0.2", "10.1.0.1", 80, "caller", "connects"),
    ]
    behind = ("nat_source", "nat_destination", "nat_port")
    assert [first[name] for name in behind] == ["10.2.0.1", "10.2.0.2", 8080]
    assert [second[name] for name in behind] == ["10.2.0.1", None, None]
    assert sum(row["share_percent"] for row in rows) == pytest.approx(100, abs=1)
    (sentence,) = [row["sentence"] for row in said if str(inode) in row["sentence"]]
    every = sum(row["entries"] for row in rows)
    assert f"; of {every} entries 4 are tcp ESTABLISHED from 10.1.0.2 to 10.1.0.1:80" in sentence
    assert ", of caller (pid " in sentence
