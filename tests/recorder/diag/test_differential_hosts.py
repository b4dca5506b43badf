"""Two hosts with every kind of socket: what the command records of each, against ss inside it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import pyarrow.compute as pc
import pytest

from analyzer.ss.view import group_of
from tests.recorder.support.recorded import read, record
from tests.recorder.support.rows import Row
from tests.recorder.support.ss_oracle import SHOWN, Oracle, kernel_cookie
from tests.recorder.support.ss_words import SsRow, users
from tests.workloads.hosts import Host, two_hosts
from tests.workloads.keeper import Truth
from tests.workloads.netns import lacking
from tests.workloads.resident import FALLEN, MULTIHOMED

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        lacking("nginx", "redis-server") is not None, reason=str(lacking("nginx", "redis-server"))
    ),
]

Key: TypeAlias = tuple[str, ...]

ANSWERING: Key = ("nl", "tcpdiag", "0")
"""The kernel's end of every question for sockets."""

NEW = ("-A", "dccp,sctp,vsock,tipc,xdp", "-anpeimOH", "--tipcinfo", "exclude", "time-wait")
SHOWN_OF_NEW = dataclasses.replace(SHOWN, processes=True, tipcinfo=True)
"""The families that are compared by the words that our view prints of them, but for TIME-WAIT, of
which a word runs."""

NOT_OF_SS = ("ping", "udplite", "smc", "sctp", "dccp", "ti_st", "ti_sq", "ti_rd", "v_str", "xdp")
"""Kinds of socket that ss does not show or is not asked for; the workload itself knows them."""


@dataclass(frozen=True)
class Seen:
    """A host as it is, as ss saw it before and after, and as it was recorded in between."""

    host: Host
    before: dict[Key, SsRow]
    after: dict[Key, SsRow]
    rows: list[Row]
    elapsed_ms: float
    families: tuple[dict[Key, list[str]], dict[Key, list[str]]]
    """The words of ``NEW`` of ss before and after."""

    def found(self) -> dict[tuple[object, ...], list[Row]]:
        """Return the rows by what tells them from each other."""
        found: dict[tuple[object, ...], list[Row]] = {}
        for row in self.rows:
            found.setdefault(identity(row), []).append(row)
        return found


@dataclass(frozen=True)
class Recorded:
    """Both hosts, and the whole tables of the recording."""

    seen: tuple[Seen, Seen]
    directory: Path

    def table(self, name: str) -> list[Row]:
        rows: list[Row] = read(self.directory, name).to_pylist()
        return rows


@pytest.fixture(scope="module")
def recorded(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    directory = tmp_path_factory.mktemp("hosts")
    target = directory / "recording"
    run = directory / "run"
    run.mkdir()
    os.chmod(directory, 0o755)
    with two_hosts(run) as hosts:
        for host in hosts:
            printed(oracle, host)  # a first look gives every socket its cookie
        begun = time.monotonic()
        before = [(printed(oracle, host), families(oracle, host)) for host in hosts]
        options = ("-n", "4", "-i", "300ms", "--netns", "all", "-A", "all")
        subprocess.run(record(target, *options), check=True, timeout=120)
        after = [(printed(oracle, host), families(oracle, host)) for host in hosts]
        elapsed_ms = 1000 * (time.monotonic() - begun)
        left, right = (
            Seen(host, one, other, of_host(target, host), elapsed_ms, (first, last))
            for host, (one, first), (other, last) in zip(hosts, before, after, strict=True)
        )
        # yielded from within, because the processes are asked about while they live
        yield Recorded((left, right), target)


def of_host(recording: Path, host: Host) -> list[Row]:
    """Return the rows of the last whole sample of a host, without those of recorders.

    Where many namespaces are, or the machine is busy, each has its turn.
    """
    mine = pc.field("netns") == host.netns
    samples = read(recording, "samples").filter(mine)
    rotated = samples.filter(pc.field("outcome") == "rotated")["sample"].to_pylist()
    last = max(set(samples["sample"].to_pylist()) - set(rotated))
    sockets = read(recording, "sockets").filter(mine & (pc.field("sample") == last))
    return [row for row in sockets.to_pylist() if not of_a_watcher(key_of(row))]


def printed(oracle: Oracle, host: Host) -> dict[Key, SsRow]:
    """Return what ss prints inside a host, by socket, without its own socket.

    Numbers are wanted of internet sockets, and names of the others.
    """
    inside = ("-N", host.name)
    internet = oracle.run(*inside, "-A", "tcp,udp,mptcp,unix", "-anpeoim")
    others = oracle.run(*inside, "-A", "packet,netlink", "-apem")
    keyed = [(key_of_ss(row), row) for row in internet + others]
    # listed by diag, raw sockets are printed by their protocol, if ss is asked for more than these
    raw = oracle.run(*inside, "-A", "raw,packet", "-anpeoim")
    raw = [row for row in raw if row["family"] != "packet"]
    keyed += [(key_of_ss(row | {"netid": "raw"}), row) for row in raw]
    counts = Counter(key for key, _ in keyed)
    # the kernel gives netlink sockets with groups twice
    assert {key: count for key, count in counts.items() if count > 1 and key[0] != "nl"} == {}
    return {key: row for key, row in keyed if not of_a_watcher(key)}


def families(oracle: Oracle, host: Host) -> dict[Key, list[str]]:
    """Return what ss prints of the families of ``NEW`` inside a host."""
    return lines_of_ss(oracle.text("-N", host.name, *NEW))


def lines_of_ss(text: str) -> dict[Key, list[str]]:
    """Return the words of each line but its kind, by what tells it from the others.

    An association hangs below its endpoint, whose kind it has; it has its inode and cookie too.
    """
    found: dict[Key, list[str]] = {}
    netid = ""
    for line in text.splitlines():
        words = line.split()
        kind = words.pop(0)
        netid = netid if kind == "`-" else kind
        about = [word for word in words if word.startswith(("ino:", "sk:", "peers:"))]
        key = (netid, *(about or words[3:5]))
        assert key not in found, line
        found[key] = words
    return found


def of_a_watcher(key: Key) -> bool:
    """Tell whether a socket is one that asks the kernel for sockets."""
    return key[:2] == ("nl", "tcpdiag") and key[2] != "0"


def key_of_ss(row: SsRow) -> Key:
    """Return what tells a row of ss from the others in its namespace."""
    if row["netid"] == "nl":
        return "nl", row["local_addr"], row["local_id"]
    if row["netid"] == "raw" and "cookie" not in row:
        _, pid, fd = users(row)[0]
        return "raw", str(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    # an accepted MPTCP socket has the cookie of its listener
    return row["netid"], row["inode"], row.get("cookie", "")


def key_of(row: Row) -> Key:
    """Return the key ss's row of a recorded socket has."""
    netid, inode, cookie = str(row["netid"]), str(row["inode"]), kernel_cookie(row)
    if netid == "nl":
        return "nl", str(row["local_addr"]), str(row["local_id"])
    if netid == "sctp":
        return netid, inode, str(row["cookie"])
    if cookie < 0:
        return netid, inode
    return netid, inode, "" if row["family"] == "unix" else f"{cookie:x}"


def identity(row: Row | Truth) -> tuple[object, ...]:
    """Return what tells a socket of the workload from others: its inode, or its addresses."""
    if row["netid"] == "sctp":  # an association shares inode and cookie with its endpoint
        cookie = row.get("cookie")
        return row["netid"], row["inode"], isinstance(cookie, int) and cookie > 0
    if row["inode"]:
        return row["netid"], row["inode"]
    return tuple(row[name] for name in ("local_addr", "local_port", "peer_addr", "peer_port"))


def unknown_to_ss(row: Row, oracle: Oracle) -> bool:
    inactive = row["netid"] == "tcp" and row["state"] == "UNCONN" and oracle.release < (6, 8)
    return inactive or row["netid"] in NOT_OF_SS


def test_each_host_has_the_rows_that_ss_shows_and_those_it_cannot(
    recorded: Recorded, oracle: Oracle
) -> None:
    for seen in recorded.seen:
        rows = {key_of(row): row for row in seen.rows}
        assert len(rows) == len(seen.rows)
        assert seen.before.keys() == seen.after.keys()  # it stood still
        assert seen.before.keys() - rows.keys() == set()
        more = [rows[key] for key in rows.keys() - seen.before.keys()]
        assert [row for row in more if not unknown_to_ss(row, oracle)] == []
        known = {identity(truth) for truth in seen.host.truths}
        assert {identity(row) for row in more if row["owner_by"] != "kernel"} <= known
        assert {row["netid"] for row in rows.values()} >= EVERY_NETID - absent(seen.host)


def test_what_the_kernel_made_for_itself_is_told_as_that(recorded: Recorded) -> None:
    """TIPC's topology server, and below each socket of SMC one of TCP, which has its ends."""
    for seen in recorded.seen:
        own = [row for row in seen.rows if row["owner_by"] == "kernel"]
        made = Counter(str(truth["netid"]) for truth in seen.host.truths)
        assert Counter(row["netid"] for row in own) == +Counter(
            ti_sq=min(made["ti_sq"], 1), tcp=made["smc"]
        )
        ends = [(r["local_port"], r["peer_port"]) for r in seen.rows if r["netid"] == "smc"]
        carriers = [(r["local_port"], r["peer_port"]) for r in own if r["netid"] == "tcp"]
        assert sorted(carriers) == sorted(ends)


EVERY_NETID = {
    *("tcp", "udp", "raw", "mptcp", "udplite", "ping"),
    *("u_str", "u_seq", "u_dgr", "p_raw", "p_dgr", "nl"),
}


def absent(host: Host) -> set[str]:
    """Return the kinds that this kernel could not make."""
    made = {str(truth["netid"]) for truth in host.truths}
    assert host.missing or made >= EVERY_NETID
    return EVERY_NETID - made


def counted(against: str, rows: Counter[str], fields: Counter[str], wrong: int) -> str:
    """Say how much was compared, for the summary of a run."""
    each = ", ".join(f"{netid} {rows[netid]} rows {fields[netid]} fields" for netid in sorted(rows))
    compared = f"{rows.total()} rows and {fields.total()} fields compared with {against}"
    return f"{compared}, wrong {wrong} ({each})"


def test_every_field_that_ss_prints_of_each_host_agrees(
    recorded: Recorded,
    oracle: Oracle,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    # ss -N hides the mount of cgroup v2 from itself
    oracle = dataclasses.replace(oracle, cgroups={})
    wrong = []
    compared: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for seen in recorded.seen:
        for row in seen.rows:
            key = key_of(row)
            if key not in seen.before:
                continue
            before, after = seen.before[key], seen.after[key]
            if key == ANSWERING:  # its queue holds the request being answered
                idle = {"recv_q": "0", "rmem_alloc": "0"}
                before, after, row = before | idle, after | idle, row | dict.fromkeys(idle, 0)
            sentences = oracle.disagreements_between(before, after, row, elapsed_ms=seen.elapsed_ms)
            wrong += [f"{sentence}, of {before}" for sentence in sentences]
            compared[str(row["netid"])] += 1
            fields[str(row["netid"])] += len(before.keys() | after.keys())
    record_testsuite_property("ss", counted("ss", compared, fields, len(wrong)))
    assert wrong == []
    assert compared["tcp"] > 80
    assert compared["nl"] > 20


def test_every_line_that_ss_prints_of_newer_families_agrees(
    recorded: Recorded, oracle: Oracle, record_testsuite_property: Callable[[str, object], None]
) -> None:
    # ss -N hides the mount of cgroup v2 from itself
    oracle = dataclasses.replace(oracle, cgroups={})
    wrong = []
    compared: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for seen in recorded.seen:
        before, after = seen.families
        rows = [
            row
            for row in seen.rows
            if group_of(str(row["netid"])) in NEW[1].split(",")
            and row["state"] not in ("TIME-WAIT", "PARTOPEN")  # for the latter ss does not ask
        ]
        ours = lines_of_ss("\n".join(oracle.line(row, SHOWN_OF_NEW) for row in rows))
        assert ours.keys() == before.keys() == after.keys()
        for key, words in ours.items():
            if words not in (before[key], after[key]):
                ours_only = [word for word in words if word not in before[key]]
                its_only = [word for word in before[key] if word not in words]
                wrong.append(f"recorded {ours_only}, ss printed {its_only} of {key}")
            compared[key[0]] += 1
            fields[key[0]] += len(words)
    record_testsuite_property("newer", counted("ss by the view", compared, fields, len(wrong)))
    assert wrong == []


def test_an_association_of_several_addresses_has_them_all(recorded: Recorded) -> None:
    for seen, peer in (recorded.seen, recorded.seen[::-1]):
        rows = [row for row in seen.rows if MULTIHOMED in (row["local_port"], row["peer_port"])]
        associations = [json.loads(str(row["details"])) for row in rows if row["state"] == "ESTAB"]
        several = [one for one in associations if "peers" in one]
        assert len(several) == 2 * (("sctp", "LISTEN") in {(r["netid"], r["state"]) for r in rows})
        for one in several:
            assert set(one["locals"]) >= set(seen.host.addresses)
            assert set(one["peers"]) >= set(peer.host.addresses)


def test_what_fell_back_from_mptcp_says_so(recorded: Recorded) -> None:
    for seen in recorded.seen:
        rows = [row for row in seen.rows if row["netid"] == "mptcp" and row["state"] == "ESTAB"]
        fallen = [row for row in rows if json.loads(str(row["details"]))["flags"] & 1]
        assert [row["peer_port"] for row in fallen] == [FALLEN] * (rows != [])


def test_every_socket_of_the_residents_is_recorded_once_and_as_it_is(
    recorded: Recorded, record_testsuite_property: Callable[[str, object], None]
) -> None:
    wrong = []
    compared: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for seen in recorded.seen:
        found = seen.found()
        for truth in seen.host.truths:
            rows = found.get(identity(truth), [])
            if len(rows) != 1:
                wrong.append(f"{len(rows)} rows of {truth}")
                continue
            wrong += [
                f"{name}: recorded {rows[0][name]!r}, is {value!r}, of {truth}"
                for name, value in truth.items()
                if (kernel_cookie if name == "cookie" else itemgetter(name))(rows[0]) != value
            ]
            compared[str(truth["netid"])] += 1
            fields[str(truth["netid"])] += len(truth)
    record_testsuite_property("truth", counted("the truth", compared, fields, len(wrong)))
    assert wrong == []


def test_the_servers_hold_the_connections_that_their_clients_keep(recorded: Recorded) -> None:
    for seen in recorded.seen:
        mine = [row for row in seen.rows if row["comm"] == seen.host.server]
        kept = {
            (row["peer_addr"], row["peer_port"])
            for row in mine
            if row["state"] == "ESTAB" and row["owner_by"] == "fd" and row["family"] != "unix"
        }
        assert kept >= set(seen.host.served)
        assert [row for row in mine if row["state"] == "LISTEN"] != []
    nginx = recorded.seen[0].rows
    listening = [row for row in nginx if row["comm"] == "nginx" and row["state"] == "LISTEN"]
    assert {row["holders"] for row in listening} == {3}  # the master and two workers


def test_a_subflow_is_marked_and_shares_the_inode_of_its_connection(recorded: Recorded) -> None:
    for seen in recorded.seen:
        whole = {row["inode"] for row in seen.rows if row["netid"] == "mptcp"}
        subflows = {row["inode"] for row in seen.rows if row["subflow"]}
        assert subflows == whole
        assert {row["netid"] for row in seen.rows if row["subflow"]} <= {"tcp"}


def test_sockets_in_no_table_are_listed_as_unexplained(recorded: Recorded) -> None:
    listed = {row["inode"]: row for row in recorded.table("unexplained")}
    for seen in recorded.seen:
        for truth in seen.host.unexplained:
            row = listed[truth["inode"]]
            assert {name: row[name] for name in truth} == truth
        assert not listed.keys() & {row["inode"] for row in seen.rows}


def test_both_namespaces_are_listed_by_their_names(recorded: Recorded) -> None:
    listed = recorded.table("namespaces")
    for seen in recorded.seen:
        (row,) = (row for row in listed if row["netns"] == seen.host.netns)
        assert (row["name"], row["home"], row["entered"]) == (seen.host.name, False, True)
        assert row["valid_to"] is None
        assert os.stat(f"/proc/{row['pid']}/ns/net").st_ino == seen.host.netns


def test_the_cgroup_of_a_socket_is_named(recorded: Recorded, oracle: Oracle) -> None:
    if not oracle.cgroups:
        pytest.skip("needs a mount of cgroup v2")
    for seen in recorded.seen:
        found = {(row["cgroup_id"], row["cgroup"]) for row in seen.rows if row["cgroup_id"]}
        assert found != set()
        assert found <= set(oracle.cgroups.items())
