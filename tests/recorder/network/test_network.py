"""The network of real namespaces, beside what ip and tc say of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recorder.network import network, rtnetlink
from recorder.network.network import Network, NetworkStep, Row
from recorder.network.rtnetlink import STATISTICS
from tests.workloads.netns import entered, inode_of, lacking, namespace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(lacking("tc") is not None, reason=str(lacking("tc"))),
]

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


def ask(name: str, tool: str, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run([tool, "-n", name, "-j", *words], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    return found


def do(name: str, *lines: str) -> None:
    for line in lines:
        tool, *words = line.split()
        subprocess.run([tool, "-n", name, *words], check=True, capture_output=True)


def flood(name: str) -> None:
    """Send more to a neighbour on the link than a slow queue takes."""
    do(name, "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev left nud permanent")

    def send() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(20):
                with contextlib.suppress(OSError):  # ENOBUFS: the queue is full
                    sender.sendto(bytes(1000), ("10.9.0.2", 9))

    entered(name, send)


@pytest.fixture
def name() -> Iterator[str]:
    """A namespace with a pair of interfaces that lead to each other, where nobody sends."""
    with namespace() as name:
        ipv6(name, "all", False)
        do(name, "ip link add left type veth peer name right")
        do(name, "ip addr add 10.9.0.1/24 dev left", "ip link set left up", "ip link set right up")
        yield name


def ipv6(name: str, dev: str, there: bool) -> None:
    path = Path(f"/proc/thread-self/root/proc/sys/net/ipv6/conf/{dev}/disable_ipv6")
    entered(name, lambda: path.write_text(str(int(not there))))


class Looks:
    def __init__(self, *names: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.network = Network(clock=clock)
        self._names = {inode_of(name): name for name in names}
        self._number = 0

    def step(self, **how: Any) -> NetworkStep:
        self._number += 1
        return self.network.look(
            list(self._names), self._each, NOW + self._number * SECOND, **({"budget": 60} | how)
        )

    def __call__(self, table: str) -> list[Row]:
        return self.step().rows.get(table, [])

    def _each(self, some: Sequence[int], action: Callable[[int], Any]) -> list[Any]:
        return [entered(self._names[one], lambda one=one: action(one)) for one in some]  # type: ignore[misc]  # the loop's own


def test_interfaces_are_what_ip_says(name: str) -> None:
    do(name, "ip link add name bridge type bridge", "ip link set right master bridge mtu 1400")
    rows = {row["dev"]: row for row in Looks(name)("interfaces")}
    told = {link["ifname"]: link for link in ask(name, "ip", "-s", "-d", "link", "show")}
    assert rows.keys() == told.keys() == {"lo", "left", "right", "bridge"}
    for dev, link in told.items():
        row = rows[dev]
        assert row["ifindex"] == link["ifindex"]
        assert (row["state"], row["mtu"]) == (link["operstate"], link["mtu"])
        assert row["kind"] == link.get("linkinfo", {}).get("info_kind")
        assert row["up"] == ("UP" in link["flags"])
        way = link["stats64"]
        for column, (side, what) in {
            "rx_bytes": ("rx", "bytes"),
            "tx_packets": ("tx", "packets"),
            "rx_dropped": ("rx", "dropped"),
            "tx_errors": ("tx", "errors"),
        }.items():
            assert row[column] == way[side][what]
        assert set(STATISTICS) <= row.keys()
    assert rows["right"]["master"] == rows["bridge"]["ifindex"]
    assert rows["right"]["link"] == rows["left"]["ifindex"]


def test_only_what_changed_is_told_again(name: str) -> None:
    looks = Looks(name)
    first = looks.step()
    assert set(first.rows) == {"interfaces", "addresses", "routes", "rules"}
    assert [looks.step().rows for _ in range(6)] == [{}] * 6
    do(name, "ip link set right down")
    rows = {row["dev"]: row for row in looks("interfaces")}
    told = {link["ifname"]: link["operstate"] for link in ask(name, "ip", "link", "show")}
    assert {dev: row["state"] for dev, row in rows.items()} == {
        dev: told[dev] for dev in ("left", "right")
    }
    assert "DOWN" in told["left"]
    assert rows["left"]["carrier"] == 0
    assert rows["left"]["since"] == NOW + 7 * SECOND
    do(name, "ip link delete left")
    gone = looks("interfaces")
    assert {(row["dev"], row.get("state")) for row in gone} == {("left", None), ("right", None)}
    looks.network.again()
    (again,) = looks("interfaces")
    assert (again["dev"], again["netns"]) == ("lo", inode_of(name))


def test_qdiscs_count_what_tc_says(name: str) -> None:
    do(name, "tc qdisc add dev left root handle 7: tbf rate 8kbit burst 2kb limit 3000")
    looks = Looks(name)
    (first,) = looks("qdiscs")
    assert (first["dev"], first["handle"], first["parent"], first["kind"]) == (
        "left",
        "7:",
        "root",
        "tbf",
    )
    flood(name)
    limit = time.monotonic() + 30
    while True:
        before = ask(name, "tc", "-s", "qdisc", "show", "dev", "left")[0]
        rows = looks("qdiscs")
        after = ask(name, "tc", "-s", "qdisc", "show", "dev", "left")[0]
        if before == after and rows:
            break
        assert time.monotonic() < limit
        looks = Looks(name)
    (row,) = rows
    for column in ("bytes", "packets", "drops", "overlimits", "requeues", "backlog", "qlen"):
        assert row[column] == after[column], column
    assert row["drops"] > 0
    assert row["qlen"] > 0


def test_addresses_and_routes_come_and_go(name: str) -> None:
    looks = Looks(name)
    step = looks.step()
    held = {(row["dev"], row["address"], row["prefix_len"]) for row in step.rows["addresses"]}
    told = {
        (link["ifname"], info["local"], info["prefixlen"])
        for link in ask(name, "ip", "addr", "show")
        for info in link["addr_info"]
    }
    assert held == told
    routes = {(row["destination"], row["prefix_len"], row["dev"]) for row in step.rows["routes"]}
    assert ("10.9.0.0", 24, "left") in routes
    do(
        name,
        "ip route add 10.10.0.0/16 via 10.9.0.2 mtu 1300",
        "ip route add blackhole 10.11.0.0/16",
        "ip route add default nexthop via 10.9.0.3 nexthop via 10.9.0.4",
    )
    rows = looks("routes")
    shown = {(r["destination"], r["prefix_len"], r["gateway"], r["kind"], r["mtu"]) for r in rows}
    assert shown == {
        ("10.10.0.0", 16, "10.9.0.2", "unicast", 1300),
        ("10.11.0.0", 16, None, "blackhole", None),
        ("0.0.0.0", 0, "10.9.0.3", "unicast", None),
        ("0.0.0.0", 0, "10.9.0.4", "unicast", None),
    }
    do(name, "ip addr del 10.9.0.1/24 dev left")
    step = looks.step()
    (row,) = step.rows["addresses"]
    assert (row["address"], row["valid_from"], row["valid_to"]) == (
        "10.9.0.1",
        NOW + SECOND,
        NOW + 3 * SECOND,
    )
    lost = [row["destination"] for row in step.rows["routes"] if row["valid_to"]]
    assert sorted(lost) == ["0.0.0.0", "0.0.0.0", "10.10.0.0", "10.9.0.0"]


def test_an_address_that_another_has_is_told(name: str) -> None:
    for dev in ("all", "left", "right"):
        ipv6(name, dev, True)
    do(name, "ip addr add fd00::1/64 dev right nodad", "ip addr add fd00::1/64 dev left")
    looks = Looks(name)
    limit = time.monotonic() + 30
    while not any(row["duplicate"] for row in looks("addresses")):
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_neighbour_that_does_not_answer_fails(name: str) -> None:
    looks = Looks(name)
    looks.step()

    def call() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", ("10.9.0.77", 9))

    entered(name, call)
    limit = time.monotonic() + 30
    states: list[str] = []
    while "FAILED" not in states:
        assert time.monotonic() < limit, states
        for row in looks("neighbours"):
            assert row["address"] == "10.9.0.77"
            states += [row["state"]] if "valid_to" not in row else []
        time.sleep(0.1)
    assert states in (["INCOMPLETE", "FAILED"], ["FAILED"])


def test_what_the_budget_leaves_out_comes_first_the_next_time(name: str) -> None:
    with namespace() as other:
        looks = Looks(name, other)
        steps = [looks.step(budget=0) for _ in range(2)]
    assert [(step.looked, step.left_out) for step in steps] == [(1, 1), (1, 1)]
    assert [{row["netns"] for row in step.rows["interfaces"]} for step in steps] == [
        {inode_of(name)},
        {steps[1].rows["interfaces"][0]["netns"]},
    ]
    assert steps[0].rows["interfaces"][0]["netns"] != steps[1].rows["interfaces"][0]["netns"]


def test_too_many_routes_are_given_up_and_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtnetlink, "MOST_BYTES", 150)
    step = (looks := Looks(name)).step()
    assert ("interfaces of a network namespace", "there are too many") in step.unseen
    assert looks.step().unseen == []


def test_the_speed_of_an_interface_is_that_of_sys(name: str, tmp_path: Path) -> None:
    (tmp_path / "class/net/left").mkdir(parents=True)
    (tmp_path / "class/net/left/speed").write_text("25000\n")
    looks = Looks(name)
    looks.network = Network(tmp_path)
    rows = {row["dev"]: row for row in looks.step(home=inode_of(name)).rows["interfaces"]}
    assert {dev: row["speed_mbit"] for dev, row in rows.items()} == {
        "lo": None,
        "left": 25000,
        "right": None,
    }


def test_a_namespace_that_cannot_be_entered_is_left_alone() -> None:
    gone = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    step = network.Network().look([7], lambda some, action: [gone], NOW, budget=60)
    assert (step.rows, step.unseen) == ({}, [])


def test_rules_are_what_ip_says(name: str) -> None:
    looks = Looks(name)
    looks.step()
    do(
        name,
        "ip rule add from 10.9.0.0/24 lookup 100 pref 50",
        "ip rule add to 10.10.0.0/16 fwmark 0x10/0xf0 lookup 101 pref 60",
        "ip rule add not iif left oif right lookup 300 pref 70",
        "ip rule add uidrange 0-99 ipproto tcp dport 80-90 sport 5 blackhole pref 80",
        "ip rule add tos 0x10 goto 32766 pref 90",
        "ip rule add lookup main suppress_prefixlength 0 pref 95",
        "ip -6 rule add from fd00::/64 prohibit pref 50",
    )
    while not (rows := looks("rules")):
        pass
    told = ask(name, "ip", "-N", "-4", "rule", "show") + ask(name, "ip", "-N", "-6", "rule", "show")
    said = {rule["priority"]: rule for rule in told if rule["priority"] in range(1, 100)}
    assert {row["priority"] for row in rows} == set(said)
    (v6,) = (row for row in rows if row["family"] == "inet6")
    assert (v6["source"], v6["source_len"], v6["action"]) == ("fd00::", 64, "prohibit")
    rows = [row for row in rows if row["family"] == "inet"]
    said = {rule["priority"]: rule for rule in ask(name, "ip", "-N", "rule", "show")}
    for row in rows:
        rule = said[row["priority"]]
        assert (row["source"] or "all") == rule["src"]
        assert row["source_len"] == rule.get("srclen", 0)
        assert row["destination"] == rule.get("dst")
        assert row["destination_len"] == rule.get("dstlen", 0)
        assert bool(row["inverted"]) == ("not" in rule)
        assert (row["iif"], row["oif"]) == (rule.get("iif"), rule.get("oif"))
        if row["action"] == "lookup":
            assert str(row["routing_table"]) == rule["table"]
    by = {row["priority"]: row for row in rows}
    assert (by[60]["fwmark"], by[60]["fwmask"]) == (0x10, 0xF0)
    assert (by[80]["uid_from"], by[80]["uid_to"], by[80]["ip_proto"]) == (0, 99, 6)
    assert (by[80]["sports"], by[80]["dports"], by[80]["action"]) == ("5", "80-90", "blackhole")
    assert (by[90]["tos"], by[90]["action"], by[90]["goto"]) == (0x10, "goto", 32766)
    assert by[95]["suppress_prefix_len"] == 0
    do(name, "ip rule del pref 50")
    while not (rows := looks("rules")):
        pass
    assert [(row["priority"], row["valid_to"] is not None) for row in rows] == [(50, True)]


KINDS = {
    "vlan": "ip link add link left name made type vlan id 7",
    "macvlan": "ip link add link left name made type macvlan mode bridge",
    "dummy": "ip link add made type dummy",
    "bond": "ip link add made type bond",
    "vxlan": "ip link add made type vxlan id 7 remote 10.9.0.2 dstport 4789 dev left",
    "gre": "ip link add made type gre local 10.9.0.1 remote 10.9.0.2",
    "vrf": "ip link add made type vrf table 7",
    "wireguard": "ip link add made type wireguard",
}


def made_or_skipped(name: str, line: str) -> None:
    """Do what the kernel may not be able to."""
    try:
        do(name, line)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs a kernel that can: {line} ({error.stderr.decode().strip()})")


@pytest.mark.parametrize("kind", KINDS)
def test_a_virtual_interface_is_what_ip_says(kind: str, name: str) -> None:
    made_or_skipped(name, KINDS[kind])
    do(name, "ip link set made mtu 1280 up")
    rows = {row["dev"]: row for row in Looks(name)("interfaces")}
    told = {link["ifname"]: link for link in ask(name, "ip", "-s", "-d", "link", "show")}
    row, link = rows["made"], told["made"]
    assert row["kind"] == kind == link["linkinfo"]["info_kind"]
    assert (row["mtu"], row["state"], row["txqlen"]) == (
        1280,
        link["operstate"],
        link.get("txqlen", 0),
    )
    indices = {other["ifname"]: other["ifindex"] for other in told.values()}
    assert (row["link"] or None) == indices.get(link.get("link"))
    assert row["tx_bytes"] == link["stats64"]["tx"]["bytes"]


QUEUES = {
    "fq_codel": ["tc qdisc add dev left root handle 7: fq_codel limit 4"],
    "fq": ["tc qdisc add dev left root handle 7: fq"],
    "pfifo": ["tc qdisc add dev left root handle 7: pfifo limit 4"],
    "sfq": ["tc qdisc add dev left root handle 7: sfq"],
    "prio": [
        "tc qdisc add dev left root handle 7: prio",
        "tc qdisc add dev left parent 7:1 handle 8: pfifo limit 4",
    ],
    "htb": [
        "tc qdisc add dev left root handle 7: htb default 1",
        "tc class add dev left parent 7: classid 7:1 htb rate 8kbit",
        "tc qdisc add dev left parent 7:1 handle 8: pfifo limit 4",
    ],
    "netem": ["tc qdisc add dev left root handle 7: netem delay 1ms loss 50%"],
    "ingress": ["tc qdisc add dev left ingress"],
}


@pytest.mark.parametrize("kind", QUEUES)
def test_queues_of_every_kind_count_what_tc_says(kind: str, name: str) -> None:
    for line in QUEUES[kind]:
        made_or_skipped(name, line)
    flood(name)
    limit = time.monotonic() + 30
    while True:
        before = ask(name, "tc", "-s", "qdisc", "show", "dev", "left")
        rows = Looks(name)("qdiscs")
        after = ask(name, "tc", "-s", "qdisc", "show", "dev", "left")
        if before == after:
            break
        assert time.monotonic() < limit
    counted = ("bytes", "packets", "drops", "overlimits", "requeues", "backlog", "qlen")
    parents = {"ffff:fff1": "ingress"}

    def shown(queue: dict[str, Any]) -> tuple[Any, ...]:
        parent = "root" if queue.get("root") else queue["parent"]
        numbers = [queue[column] for column in counted]
        return queue["kind"], queue["handle"], parents.get(parent, parent), *numbers

    found = {
        (row["kind"], row["handle"], row["parent"], *(row[column] for column in counted))
        for row in rows
        if row["dev"] == "left"
    }
    assert found == {shown(queue) for queue in after if queue["kind"] != "noqueue"}
    assert kind in {row["kind"] for row in rows}


def test_a_lowered_mtu_and_an_address_taken_twice_are_told(name: str) -> None:
    looks = Looks(name)
    looks.step()
    do(name, "ip link set left mtu 1300", "ip addr add 10.9.0.1/16 dev left")
    step = looks.step()
    mtus = {row["dev"]: row["mtu"] for row in step.rows["interfaces"]}
    assert mtus["left"] == 1300 == ask(name, "ip", "link", "show", "dev", "left")[0]["mtu"]
    (row,) = step.rows["addresses"]
    assert (row["address"], row["prefix_len"], row["dev"]) == ("10.9.0.1", 16, "left")
