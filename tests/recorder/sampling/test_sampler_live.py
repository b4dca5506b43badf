"""Samples of real namespaces while namespaces, names, descriptors and processes go away."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from recorder.diag.inet_diag import InetDiag
from recorder.host.namespaces import Namespace, Namespaces
from recorder.kernel import places
from recorder.kernel.closes import Closes
from recorder.kernel.places import WHOLE_EVERY, Place, Places
from recorder.kernel.tables import Steps, parse_query
from recorder.kernel.transport import DiagSocket, connect_diag
from recorder.sampling import sampler
from recorder.schema import TABLES
from tests.recorder.support.fake_kernel import FakeKernel, done, message, row
from tests.recorder.support.owners_child import Child, ProcTree
from tests.recorder.support.rows import release
from tests.recorder.support.sampling import ALONE, await_closes, rows_of, sampler_of
from tests.workloads.keeper import lists_bound
from tests.workloads.netns import MOUNTS, inode_of, lacking, namespace

pytestmark = pytest.mark.live

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

UDP = """
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
answer = inode(udp)
"""


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        child.run("")
        yield child


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


@needs_root
def test_the_last_closes_of_a_namespace_that_vanished_have_the_names_of_their_interfaces(
    child: Child,
) -> None:
    netns = child.run(ALONE)
    child.run(f"{UDP}\nudp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')")
    events = Closes(release())
    with sampler_of(child.pid, tables="udp", closes=events) as live:
        (before,) = rows_of(live.take(0), "sockets")
        child.kill()
        await_closes(events, 1)
        # the kernel announces it in the sample after the end at the latest
        closes = rows_of(live.take(1), "closes")
        assert len(live.places) == 0
        closes += rows_of(live.take(2), "closes")
        assert rows_of(live.take(3), "closes") == []
    assert (before["netns"], before["dev"]) == (netns, "lo")
    (close,) = closes
    assert (close["netns"], close["dev"]) == (netns, "lo")
    assert close["cookie"] == before["cookie"]


@needs_root
def test_a_namespace_that_vanished_unseen_costs_its_closes_their_names_only(child: Child) -> None:
    netns = child.run(ALONE)
    events = Closes(release())
    with sampler_of(child.pid, tables="udp", closes=events) as live:
        live.take(0)
        child.run(f"{UDP}\nudp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')")
        child.kill()
        await_closes(events, 1)
        closes = [row for number in (1, 2) for row in rows_of(live.take(number), "closes")]
    (close,) = closes
    assert (close["netns"], close["interface"], close["dev"]) == (netns, 1, None)


@needs_root
def test_the_name_of_an_interface_need_not_be_text(child: Child) -> None:
    netns = child.run(
        r"""
import fcntl, struct
assert not libc.unshare(0x40000000)
name = b"\xff\xfe"
with socket.socket(socket.AF_UNIX) as some:
    fcntl.ioctl(some, 0x8923, struct.pack("16s16s", b"lo", name))  # SIOCSIFNAME
    fcntl.ioctl(some, 0x8914, struct.pack("16sH14x", name, 1))  # SIOCSIFFLAGS, IFF_UP
bound = [socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)]
for one in bound:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
bound[1].bind(("127.0.0.1", 0))
answer = os.stat("/proc/self/ns/net").st_ino
"""
    )
    events = Closes(release())
    with sampler_of(child.pid, closes=events) as live:
        sample = live.take(0)
        child.run("for one in bound: one.close()")
        await_closes(events, 2)
        closes = rows_of(live.take(1), "closes")
    found = [one for one in rows_of(sample, "sockets") if one["netid"] in ("tcp", "udp")]
    assert {one["netns"] for one in [*found, *closes]} == {netns}
    assert sorted((one["netid"], one["dev"]) for one in found) == [
        ("tcp", r"\xff\xfe"),
        ("udp", r"\xff\xfe"),
    ]
    assert [one["dev"] for one in closes] == [r"\xff\xfe"] * 2


@needs_root
def test_the_sockets_of_a_namespace_not_dumped_yet_are_not_unexplained(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "PLACES_SHARE", 0)
    with ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(3)]
        tree.show(*(child.pid for child in children))
        live = stack.enter_context(sampler_of("all", proc=tree.path))
        live.take(0)
        waiting = {child.run(ALONE) for child in children}
        inodes = {child.run(UDP) for child in children}
        samples = [live.take(number) for number in range(1, 6)]
    rotated = [one for one in rows_of(samples[1], "samples") if one["outcome"] == "rotated"]
    assert waiting & {one["netns"] for one in rotated}, "none waits for its second sample"
    listed = {one["inode"] for sample in samples for one in rows_of(sample, "unexplained")}
    assert not listed & inodes


@needs_root
def test_the_new_sockets_of_a_namespace_that_waits_for_its_turn_are_not_unexplained(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "PLACES_SHARE", 0)
    with ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(3)]
        tree.show(*(child.pid for child in children))
        for child in children:
            child.run(ALONE + UDP)
        live = stack.enter_context(sampler_of("all", proc=tree.path))
        live.warm_up()
        inodes = {child.run(UDP.replace("udp", "later")) for child in children}
        samples = [live.take(number) for number in range(5)]
    listed = {one["inode"] for sample in samples for one in rows_of(sample, "unexplained")}
    assert not listed & inodes


@needs_root
def test_the_recorders_own_sockets_are_not_unexplained(child: Child, tree: ProcTree) -> None:
    tree.show(os.getpid(), child.pid)
    child.run(ALONE)  # empty, so that nothing of it is dumped
    with Child() as other, sampler_of("all", proc=tree.path) as live:
        tree.show(other.pid)
        unbound = other.run("kept = socket.socket(); answer = inode(kept)")
        listed: dict[int, int] = {}
        for number in range(100):  # namespaces of others that come and go put it off
            listed |= {
                one["inode"]: one["pid"] for one in rows_of(live.take(number), "unexplained")
            }
            if unbound in listed:
                break
    assert listed == {unbound: other.pid}


@needs_root
@pytest.mark.parametrize(("interval_s", "samples"), [(0.25, 30), (1.0, 10), (5.0, 2), (60.0, 1)])
def test_a_setting_that_changes_is_seen_within_ten_seconds(
    child: Child, interval_s: float, samples: int
) -> None:
    child.run(ALONE)
    name = "net.ipv4.ip_local_port_range"
    change = f"open('/proc/sys/{name.replace('.', '/')}', 'w').write('40000 40499'); answer = 0"
    with sampler_of(child.pid, interval_s=interval_s) as live:
        live.take(0)
        child.run(change)
        seen = {number: rows_of(live.take(number), "settings") for number in range(1, 31)}
    changes = {number: [row["value"] for row in rows] for number, rows in seen.items() if rows}
    assert changes == {samples: ["40000 40499"]}


@needs_root
def test_a_namespace_without_a_socket_is_not_entered_until_there_is_one(child: Child) -> None:
    netns = child.run(ALONE)
    failing = [True]

    def connect() -> tuple[socket.socket, int]:
        if failing[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return connect_diag()

    def told(recorded: Places, now: int) -> list[tuple[object, ...]]:
        recorded.update()
        names = ("netns", "entered", "valid_from", "valid_to")
        return [tuple(map(one.get, names)) for one in recorded.rows(now)]

    recorded = Places(Namespaces(str(child.pid)), None, connect=connect)
    try:
        assert told(recorded, 1) == [(netns, 0, 1, None)]
        assert len(recorded) == 0
        assert recorded.take_unseen() != []
        assert told(recorded, 2) == []
        failing[0] = False
        assert told(recorded, 3) == [(netns, 0, 1, 3), (netns, 1, 3, None)]
        assert netns in recorded
        child.kill()
        assert told(recorded, 4) == [(netns, 1, 3, 4)]
    finally:
        recorded.close()


@needs_root
def test_a_namespace_that_never_had_a_socket_ends_as_it_began(child: Child) -> None:
    netns = child.run(ALONE)

    def connect() -> tuple[socket.socket, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    recorded = Places(Namespaces(str(child.pid)), None, connect=connect)
    try:
        recorded.update()
        (begun,) = recorded.rows(1)
        child.kill()
        recorded.update()
        (ended,) = recorded.rows(2)
    finally:
        recorded.close()
    assert ended == begun | {"valid_to": 2}
    assert (begun["netns"], begun["entered"]) == (netns, 0)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("every", [1, 2, 7])
def test_a_table_that_seems_empty_is_dumped_in_time_whichever_samples_dump_the_namespace(
    first: int, every: int
) -> None:
    place = Place(
        Namespace(1, (), None, None, None, home=False, entered=True, why=None),
        DiagSocket(FakeKernel().connect),
        run=lambda action: action(),
        own={},
        in_use={"UDP": 0},
    )
    (step,) = (step for step in Steps(parse_query("udp"), release()) if step.name == "udp")
    dumped = [place.whole]
    for sample in range(first, 4 * WHOLE_EVERY, every):
        if not place.skips(step, sample):
            dumped.append(sample)
            place.whole = sample
    place.diag.close()
    assert len(dumped) > 3
    assert np.diff(dumped).max() < WHOLE_EVERY + every
    assert np.diff(dumped).min() >= WHOLE_EVERY


@needs_root
def test_namespaces_that_take_turns_have_whole_dumps_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "PLACES_SHARE", 0)
    monkeypatch.setattr(places, "WHOLE_EVERY", 4)
    bound = "tcp = socket.socket(); tcp.bind(('127.0.0.1', 0))"  # which the kernel does not count
    with ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(2)]
        both = {child.run(ALONE) for child in children}
        for child in children:
            child.run(UDP + bound)
        live = stack.enter_context(sampler_of(*(one.pid for one in children), tables="tcp,udp"))
        samples = [live.take(number) for number in range(16)]
    whole: dict[int, list[int]] = {netns: [] for netns in both}
    for number, sample in enumerate(samples):
        for step in rows_of(sample, "samples"):
            if (step["step"], step["outcome"]) == ("tcp", "ok"):
                assert step["rows"] == lists_bound()
                whole[step["netns"]].append(number)
    for numbers in whole.values():
        assert len(numbers) >= 3
        assert np.diff(numbers).max() <= 6


@pytest.mark.skipif(lacking("umount") is not None, reason=str(lacking("umount")))
def test_a_name_whose_mount_went_names_no_foreign_file() -> None:
    with namespace() as name:
        netns = inode_of(name)
        with sampler_of(name) as live:
            samples = [live.take(0)]
            subprocess.run(["umount", "-l", str(MOUNTS / name)], check=True)
            foreign = inode_of(name)
            samples += [live.take(number) for number in (1, 2)]
    assert foreign != netns
    tables = [table.name for table in TABLES.values() if "netns" in table.names]
    seen = {
        one["netns"] for table in tables for sample in samples for one in rows_of(sample, table)
    }
    assert seen == {0, netns}
    assert [row["valid_to"] is not None for row in rows_of(samples[1], "namespaces")] == [True]
    assert rows_of(samples[2], "namespaces") == []


def test_a_dump_that_failed_without_a_descriptor_left_is_made_up_for() -> None:
    kernel = FakeKernel(
        lambda seq: [message(seq, 20, row(1))],  # and no end
        lambda seq: [message(seq, 20, row(2)) + done(seq)],
        lambda seq: [message(seq, 20, row(3)) + done(seq)],
    )
    failures = [None, OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def connect() -> tuple[socket.socket, int]:
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        return kernel.connect()

    diag, decoder = DiagSocket(connect), InetDiag("tcp", (6, 18))
    outcomes, cookies = [], []
    for _ in range(4):
        decoder.columns.clear()
        outcomes.append(diag.dump(20, b"", decoder.decode).outcome)
        cookies.append(np.asarray(decoder.columns["cookie"]).tolist())
    diag.close()
    assert [outcome.name for outcome in outcomes] == ["error", "error", "ok", "ok"]
    assert (outcomes[0].errno, failures) == (errno.ETIMEDOUT, [])
    assert cookies[1:] == [[], [2], [3]]


@needs_root
def test_who_listened_owns_what_a_server_that_ended_left_behind(
    child: Child, tree: ProcTree
) -> None:
    child.run(ALONE)
    with Child() as server, sampler_of(child.pid, tables="tcp", proc=tree.path) as live:
        tree.show(server.pid)
        port = server.run(
            f"""
assert not libc.setns(os.open("/proc/{child.pid}/ns/net", os.O_RDONLY), 0x40000000)
with open("/proc/self/comm", "w") as comm:
    comm.write("short-lived")
listener = socket.create_server(("127.0.0.1", 0))
answer = listener.getsockname()[1]
"""
        )
        live.take(0)
        server.run(
            """
for _ in range(5):
    with socket.create_connection(listener.getsockname()):
        listener.accept()[0].close()  # before the client does: TIME-WAIT is here
"""
        )
        samples = [live.take(1)]
        server.kill()
        samples += [live.take(number) for number in range(2, 5)]
    for sample in samples:
        rows = [one for one in rows_of(sample, "sockets") if one["state"] == "TIME-WAIT"]
        assert {one["local_port"] for one in rows} == {port}
        assert len(rows) == 5
        assert {one["owner_by"] for one in rows} == {"listener"}
        assert {(one["pid"], one["comm"]) for one in rows} == {(server.pid, "short-lived")}
    assert {one["state"] for one in rows_of(samples[-1], "sockets")} == {"TIME-WAIT"}
