"""`sockrec record` of real namespaces: few descriptors, samples far apart, chosen namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import analyzer
from recorder.host.cgroups import describe
from recorder.host.facts import current_netns
from recorder.schema import TABLES
from tests.recorder.support.journals import committed
from tests.recorder.support.owners_child import Child
from tests.recorder.support.recorded import read, record
from tests.recorder.support.sampling import ALONE
from tests.workloads.netns import MOUNTS, inode_of, lacking, namespace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

PATIENCE_S = 30.0

ENTER = "assert not libc.setns(os.open({path!r}, os.O_RDONLY), 0x40000000)"

CONNECTIONS = 20
MEET = f"""
with socket.create_server(("127.0.0.1", 0)) as listener:
    for _ in range({CONNECTIONS}):
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()
"""

POPULATE = """
def live():
    libc.unshare(0x40000000)
    signal.pause()

def netns(pid):
    return os.stat(f"/proc/{{pid}}/ns/net").st_ino

pids = [fork(live) for _ in range({count})]
while any(netns(pid) == netns(os.getpid()) for pid in pids):
    time.sleep(0.01)
answer = [[pid, netns(pid)] for pid in pids]
"""
"""What a child is to run to have children in namespaces of their own; tells both numbers."""


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        child.run("")
        yield child


@contextlib.contextmanager
def recording(
    target: Path, *options: str, limit: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Record until the end of the context, with so many descriptors; the first sample is there."""
    command = record(target, *options)
    if limit is not None:
        command = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command]
    with subprocess.Popen(command) as recorder:
        try:
            wait_for(lambda: bool(committed(target, 1).commits), recorder)
            yield recorder
            if recorder.returncode is None:
                recorder.terminate()
                assert recorder.wait(PATIENCE_S) == 0
        finally:
            recorder.kill()


def wait_for(condition: Callable[[], bool], recorder: subprocess.Popen[bytes]) -> None:
    """Wait for what the recorder is to do by and by."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert recorder.poll() is None, f"the recorder ended with {recorder.returncode}"
        assert time.monotonic() < limit
        time.sleep(0.05)


def query(target: Path, sql: str) -> list[dict[str, Any]]:
    """Ask a recording, live or dead."""
    with analyzer.open(target) as opened:
        rows: list[dict[str, Any]] = opened.sql(sql).table().to_pylist()
    return rows


def facts(target: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((target / "recording.json").read_text())
    return result


def entered(target: Path, netns: set[int]) -> set[int]:
    """Return which namespaces are listed as entered."""
    rows = query(target, "SELECT netns FROM namespaces WHERE entered AND valid_to IS NULL")
    return {row["netns"] for row in rows} & netns


@pytest.mark.parametrize("count", [30, 55])
def test_namespaces_for_which_no_descriptor_is_left_are_told_and_entered_later(
    tmp_path: Path, child: Child, count: int
) -> None:
    target, home = tmp_path / "r", current_netns()
    pids = {netns: pid for pid, netns in child.run(POPULATE.format(count=count))}
    chosen = [word for pid in pids.values() for word in ("--netns", str(pid))]
    with recording(target, "-i", "200ms", "--netns", "current", *chosen, limit=140) as recorder:
        first = entered(target, {*pids, home})
        assert home in first
        assert 5 < len(first) < count
        ended = [pids[netns] for netns in first - {home}]
        child.run(f"for pid in {ended}: os.kill(pid, 9); os.waitpid(pid, 0)")
        wait_for(lambda: bool(entered(target, {*pids} - first)), recorder)
    assert facts(target)["exit"] == "signal"
    rows = [row for row in read(target, "namespaces").to_pylist() if row["valid_to"] is None]
    begun = rows[0]["valid_from"]
    waiting = {row["netns"] for row in rows if row["valid_from"] == begun and not row["entered"]}
    assert waiting == {*pids} - first
    later = {row["netns"] for row in rows if row["valid_from"] != begun and row["entered"]}
    assert {*read(target, "samples")["netns"].to_pylist()} == {0} | first | later
    whys = [item["why"] for item in facts(target)["unseen"]]
    assert any("descriptor" in why or "Too many open files" in why for why in whys)


@pytest.mark.parametrize("duration", [(), ("-d", "4s")], ids=["until a signal", "for a time"])
def test_what_closes_after_the_last_sample_due_is_recorded(
    tmp_path: Path, child: Child, duration: tuple[str, ...]
) -> None:
    target = tmp_path / "r"
    netns = child.run(ALONE)
    with recording(target, "-i", "1h", *duration, "--netns", str(child.pid)) as recorder:
        child.run(MEET)
        if duration:
            assert recorder.wait(PATIENCE_S) == 0
        else:
            # The kernel announces closes from a worker, when it has time.
            announced = "SELECT 1 FROM closes WHERE connection"
            wait_for(lambda: len(query(target, announced)) == 2 * CONNECTIONS, recorder)
    assert facts(target)["exit"] == ("duration" if duration else "signal")
    closes = [row for row in read(target, "closes").to_pylist() if row["connection"]]
    assert [row["netns"] for row in closes] == [netns] * 2 * CONNECTIONS
    # right after the first sample there is no need for another
    assert {*read(target, "samples")["sample"].to_pylist()} in ({0}, {0, 1})
    assert {row["sample"] for row in closes} == {1}


def test_what_closes_between_samples_far_apart_outlives_kill_9(
    tmp_path: Path, child: Child
) -> None:
    target = tmp_path / "r"
    child.run(ALONE)
    count = "SELECT count(*) AS number FROM closes WHERE connection"
    with recording(target, "-i", "1h", "--netns", str(child.pid)) as recorder:
        child.run(MEET)
        wait_for(lambda: query(target, count)[0]["number"] == 2 * CONNECTIONS, recorder)
        child.run(MEET)
        recorder.kill()
        recorder.wait(60)
        assert query(target, count)[0]["number"] >= 2 * CONNECTIONS
        assert query(target, "SELECT DISTINCT sample FROM samples") == [{"sample": 0}]
    assert [*target.glob("closes/*.arrows")] != []


@pytest.fixture(scope="module")
def one_namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, str]]:
    """Record a namespace by its name while the home namespace is busy, too.

    Yields the directory, the process in the namespace, and what /proc said of its cgroups.
    """
    if lacking() is not None:
        pytest.skip(str(lacking()))
    target = tmp_path_factory.mktemp("one") / "r"
    with namespace() as name, cgroup() as procs, Child() as child:
        procs.write_text(str(child.pid))
        child.run(ENTER.format(path=str(MOUNTS / name)))
        child.run("kept = socket.create_server(('127.0.0.1', 0))")
        with recording(target, "-i", "300ms", "--netns", name) as recorder, socket.socket():
            child.run(MEET)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                for _ in range(3):
                    socket.create_connection(listener.getsockname()).close()
                    listener.accept()[0].close()
            so_far = len(committed(target, 1).commits)
            wait_for(lambda: len(committed(target, 1).commits) > so_far + 2, recorder)
        assert {*read(target, "sockets")["netns"].to_pylist()} == {inode_of(name)}
        yield target, child.pid, Path(f"/proc/{child.pid}/cgroup").read_text()


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """Make a cgroup of v2 as systemd would for a unit; yield where processes are put into it."""
    mounts = Path("/proc/self/mountinfo").read_text()
    mount = re.search(r"^\d+ \d+ \S+ / (\S+) .*- cgroup2 ", mounts, re.MULTILINE)
    if mount is None or not os.access(mount[1], os.W_OK):
        pytest.skip("needs a mount of cgroup v2 that may be written to")
    part = Path(mount[1]) / f"sockrec{os.getpid()}.slice"
    unit = part / "sockrec-test.service"
    unit.mkdir(parents=True)
    try:
        yield unit / "cgroup.procs"
    finally:
        for directory in (unit, part):
            remove(directory)


def remove(directory: Path) -> None:
    """Remove a cgroup once the kernel has let go of the processes that ended in it."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            return directory.rmdir()
        time.sleep(0.01)
    directory.rmdir()
    return None


def test_of_one_namespace_nothing_of_home_is_recorded(
    one_namespace: tuple[Path, int, str],
) -> None:
    target, _, _ = one_namespace
    home = current_netns()
    for table in TABLES.values():
        if "netns" in table.names:
            assert home not in read(target, table.name)["netns"].to_pylist(), table.name
    closes = read(target, "closes")
    assert sum(closes["connection"].to_pylist()) == 2 * CONNECTIONS


def test_of_one_namespace_nothing_is_called_unexplained(
    one_namespace: tuple[Path, int, str],
) -> None:
    target, _, _ = one_namespace
    assert read(target, "unexplained").num_rows == 0
    (item,) = [item for item in facts(target)["unseen"] if "(unexplained)" in item["what"]]
    assert "--netns all" in item["why"]


def test_an_owner_is_described_by_its_cgroup(one_namespace: tuple[Path, int, str]) -> None:
    target, pid, told = one_namespace
    (path,) = re.findall(r"^0::(.*)$", told, re.MULTILINE)
    (owner,) = [row for row in read(target, "owners").to_pylist() if row["pid"] == pid]
    assert owner["cgroup"] == path
    assert owner["unit"] == "sockrec-test.service"
    assert owner["slice"] == f"sockrec{os.getpid()}.slice"
    origin = describe(path)
    assert (owner["runtime"], owner["container"], owner["pod"]) == (
        origin.runtime,
        origin.container,
        origin.pod,
    )


def test_tables_may_be_asked_for_one_by_one(tmp_path: Path, child: Child) -> None:
    target = tmp_path / "r"
    child.run(ALONE + MEET)
    child.run(
        """
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
"""
    )
    command = record(target, "-n", "1", "-A", "tcp", "-A", "udp", "--netns", str(child.pid))
    subprocess.run(command, check=True, timeout=60)
    assert facts(target)["tables"] == ["tcp", "udp"]
    rows = read(target, "sockets").to_pylist()
    assert {row["netid"] for row in rows} == {"tcp", "udp"}
    subflow = {(row["state"], row["subflow"]) for row in rows if row["netid"] == "tcp"}
    assert subflow == {("LISTEN", False), ("ESTAB", False), ("TIME-WAIT", None)}


def test_command_lines_and_names_of_unix_sockets_are_left_out_if_wanted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_INET) as other:
        named.bind(str(tmp_path / "own.sock"))
        named.listen()
        other.bind(("127.0.0.1", 0))
        other.listen()
        words = ("--netns", "current", "-n", "1", "--no-cmdline", "--no-unix-paths")
        command = record(tmp_path / "r", *words)
        subprocess.run(command, check=True, timeout=PATIENCE_S)
        mine = query(tmp_path / "r", f"SELECT * FROM sockets WHERE pid = {os.getpid()}")
        told = query(tmp_path / "r", f"SELECT * FROM owners WHERE pid = {os.getpid()}")
    by_family = {row["family"]: row for row in mine}
    assert by_family["unix"]["local_addr"] is None
    assert by_family["unix"]["inode"]
    assert by_family["inet"]["local_addr"] == "127.0.0.1"
    assert [(row["cmdline"], row["comm"] is None) for row in told] == [(None, False)]
    unseen = {item["what"]: item["why"] for item in facts(tmp_path / "r")["unseen"]}
    assert unseen["command lines"] == "not asked for (--no-cmdline)"
    assert unseen["names of unix sockets"] == "not asked for (--no-unix-paths)"
