"""What real processes do, as looks at them tell, beside /proc and what they were told to do."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recorder.host.activity import read_activity
from recorder.owners.holders import Process
from recorder.owners.owners import Owners
from recorder.owners.processes import Processes
from tests.recorder.support.owners_child import PATIENCE_S, Child, ProcTree, inodes
from tests.recorder.support.sampling import ALONE, rows_of, sampler_of

pytestmark = pytest.mark.live

PROC = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
NOW = 1_700_000_000_000_000
SECOND = 1_000_000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SPIN = """
def spin():
    while True: pass
"""


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        child.run("")
        yield child


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def described(pid: int, slot: int = 0) -> Process:
    start_us = read_activity(PROC, pid).start_us
    return Process(slot, pid, start_us, "child", cmdline="", exe=None, uid=None, fd_limit=None)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Looks:
    """Looks at one process, a second apart by the wall clock that it tells."""

    def __init__(self, processes: Processes, pid: int) -> None:
        self._processes, self._pid, self._number = processes, pid, 0
        self._process = described(pid)

    def __call__(self, *, waited_for: bool = False) -> dict[str, Any] | None:
        self._number += 1
        step = self._processes.look(
            [(self._process, descriptors(self._pid))],
            NOW + self._number * SECOND,
            budget=60,
            waited_for={0} if waited_for else (),
        )
        assert (step.looked, step.left_out, step.denied) == (1, 0, 0)
        return step.rows[0] if step.rows else None

    def until(self, there: Callable[[dict[str, Any]], bool], **how: bool) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE_S
        while (row := self(**how)) is None or not there(row):
            assert time.monotonic() < limit, f"it does not come to that: {row}"
            time.sleep(0.01)
        return row


def test_an_idle_process_is_told_once(processes: Processes, child: Child) -> None:
    child.wait_until_idle()
    look = Looks(processes, child.pid)
    row = look()
    assert row is not None
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    assert (row["pid"], row["comm"], row["state"], row["threads"]) == (child.pid, "child", "S", 1)
    assert row["since"] is None
    assert row["rss_bytes"] == int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
    assert row["fds"] == descriptors(child.pid)
    assert [look() for _ in range(3)] == [None] * 3


def test_a_change_says_until_when_all_was_as_before(processes: Processes, child: Child) -> None:
    look = Looks(processes, child.pid)
    look()
    look()
    child.run("more = socket.socket()")
    child.wait_until_idle()
    row = look()
    assert row is not None
    assert row["since"] == NOW + 2 * SECOND
    assert row["fds"] == descriptors(child.pid)
    processes.again()
    assert look() == row | {"since": NOW + 3 * SECOND}


def test_a_stopped_process_is_stopped_until_it_goes_on(processes: Processes, child: Child) -> None:
    look = Looks(processes, child.pid)
    look()
    os.kill(child.pid, signal.SIGSTOP)
    assert look.until(lambda row: row["state"] == "T")
    assert look() is None
    os.kill(child.pid, signal.SIGCONT)
    assert look.until(lambda row: row["state"] in ("R", "S"))


def test_uninterruptible_sleep_names_where_in_the_kernel(
    processes: Processes, child: Child
) -> None:
    look = Looks(processes, child.pid)
    look()
    # The parent of a vfork sleeps so until its child, here with a memory of its own, ends or execs.
    clone = {"x86_64": 56, "aarch64": 220, "riscv64": 220}.get(os.uname().machine)
    if clone is None:
        pytest.skip("needs the number of clone(2) on this machine")
    child.begin(f"libc.syscall({clone}, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) or signal.pause()")
    row = look.until(lambda row: row["state"] == "D")
    if os.geteuid() == 0:
        assert row["wchan"] == Path(f"/proc/{child.pid}/wchan").read_text() != "0"


def test_the_busiest_of_several_threads_is_named(processes: Processes, child: Child) -> None:
    look = Looks(processes, child.pid)
    thread = child.run(
        SPIN
        + "for _ in range(2): threading.Thread(target=idle, daemon=True).start()\n"
        + "busy = threading.Thread(target=spin, daemon=True); busy.start(); answer = busy.native_id"
    )
    look()
    time.sleep(0.1)
    look()
    began = time.monotonic()
    time.sleep(0.2)
    row = look.until(lambda row: row.get("busiest") is not None)
    elapsed_us = (time.monotonic() - began) * 1e6
    assert (row["busiest"], row["threads"]) == (thread, 4)
    assert row["busiest_comm"] == Path(f"/proc/{child.pid}/task/{thread}/comm").read_text().strip()
    assert 0 < row["busiest_us"] <= elapsed_us + 150_000


def test_all_descriptors_count_and_the_limit_is_that_of_the_moment(
    processes: Processes, child: Child
) -> None:
    look = Looks(processes, child.pid)
    child.run(
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
files = []
try:
    while True: files.append(os.open("/dev/null", 0))
except OSError: pass
"""
    )
    row = look()
    assert row is not None
    assert (row["fds"], row["fd_limit"]) == (256, 256)
    child.run("resource.setrlimit(resource.RLIMIT_NOFILE, (250, 256))")
    row = look()
    assert row is not None
    assert (row["fds"], row["fd_limit"]) == (256, 250)


@needs_root
def test_where_threads_wait_is_told_while_something_waits_for_them(
    processes: Processes, child: Child
) -> None:
    child.run(
        """
lock = threading.Lock(); lock.acquire()
for _ in range(5): threading.Thread(target=lock.acquire, daemon=True).start()
"""
    )
    child.wait_until_idle()
    look = Looks(processes, child.pid)
    row = look()
    assert row is not None
    assert row.get("syscall") is row.get("running") is None
    row = look.until(lambda row: row["running"] == 0, waited_for=True)
    assert (row["syscall"], row["syscall_threads"], row["blocked"]) == ("futex", 5, 0)
    assert str(row["wchan"]).startswith("futex_")
    assert look(waited_for=True) is None
    assert look() is None, "that nobody waits any more is no change of the process"


def test_what_the_budget_leaves_out_comes_first_the_next_time(processes: Processes) -> None:
    with Child() as first, Child() as second:
        held = [(described(one.pid, slot), 3) for slot, one in enumerate((first, second))]
        steps = [processes.look(held, NOW + n * SECOND, budget=0) for n in range(2)]
    assert [(step.looked, step.left_out) for step in steps] == [(1, 1), (1, 1)]
    assert [row["pid"] for step in steps for row in step.rows] == [first.pid, second.pid]


def test_another_process_of_the_same_number_is_none_of_its_business(
    processes: Processes, child: Child
) -> None:
    before = dataclasses.replace(described(child.pid), start_us=5)
    step = processes.look([(before, 3)], NOW, budget=60)
    assert (step.rows, step.looked) == ([], 1)
    child.kill()
    assert processes.look([(before, 3)], NOW, budget=60).rows == []


def test_the_search_for_owners_counts_every_descriptor(tmp_path: Path, child: Child) -> None:
    tree = ProcTree(tmp_path)
    tree.show(child.pid)
    owners = Owners(tree.path, budget=60)
    inode = child.run("held = socket.socket(); pipe = os.pipe(); answer = inode(held)")
    child.wait_until_idle()
    owners.update(inodes(inode), NOW)
    ((process, count),) = owners.descriptors()
    owners.close()
    assert (process.pid, count) == (child.pid, descriptors(child.pid))


def test_a_descriptor_that_accept_waits_to_fill_is_taken(tmp_path: Path, child: Child) -> None:
    """The kernel reserves it before there is a connection: it is in no list, and nobody gets it."""
    tree = ProcTree(tmp_path)
    tree.show(child.pid)
    owners = Owners(tree.path, budget=60)
    child.run("listener = socket.create_server(('127.0.0.1', 0))")
    listed, inode = descriptors(child.pid), child.run("answer = inode(listener)")
    child.begin("listener.accept()")
    path = Path(f"/proc/{child.pid}/fd")
    sized = path.stat().st_size > 0  # not before Linux 6.2
    limit = time.monotonic() + PATIENCE_S
    while sized and path.stat().st_size == listed:
        assert time.monotonic() < limit
        time.sleep(0.01)
    for _ in range(3):
        owners.update(inodes(inode), NOW)
        ((_, count),) = owners.descriptors()
        assert count == listed + sized
    owners.close()


@needs_root
def test_a_sample_tells_what_processes_with_sockets_do(tmp_path: Path, child: Child) -> None:
    tree = ProcTree(tmp_path)
    tree.show(child.pid)
    child.run(ALONE)
    child.run("listener = socket.create_server(('127.0.0.1', 0)); at = listener.getsockname()")
    child.wait_until_idle()
    with sampler_of(child.pid, tables="tcp", proc=tree.path) as live:
        live.warm_up()
        (first,) = rows_of(live.take(0), "processes")
        assert (first["pid"], first["since"], first["syscall"]) == (child.pid, None, None)
        child.run("client = socket.create_connection(at)")
        child.wait_until_idle()
        sample = live.take(1)
        (second,) = rows_of(sample, "processes")
        (step,) = [row for row in rows_of(sample, "samples") if row["step"] == "processes"]
        live.take(2)
        assert rows_of(live.take(3), "processes") == []
        live.begin_journal()
        (again,) = rows_of(live.take(4), "processes")
    assert (second["fds"], second["syscall"]) == (first["fds"] + 1, "read")
    assert (second["since"], second["syscall_threads"]) == (first["sample_time"], 1)
    assert (step["rows"], step["left_out"], step["outcome"]) == (1, 0, "ok")
    assert again["fds"] == second["fds"]
