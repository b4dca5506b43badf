"""Owners as arrays, and the order in which they are looked for, on a /proc written by hand."""

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.host.procfs import GONE, ProcessDirectory, parse_stat
from recorder.owners.holders import Index, Slots, Sockets, distinct, without
from recorder.owners.owners import Owners, Process
from tests.recorder.support.owners_child import Child, inodes
from tests.recorder.support.owners_fake_proc import FakeProc, socket_of

SOME_INODES = st.lists(st.integers(0, 40) | st.integers(0, 2**32 - 1), max_size=60)
TABLES = st.lists(
    st.dictionaries(st.integers(0, 2**31 - 1), st.integers(0, 40), max_size=30), max_size=6
)


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def owners(proc: FakeProc) -> Iterator[Owners]:
    owners = Owners(proc.path, budget=math.inf, sweep=1000)
    yield owners
    owners.close()


@given(tables=TABLES, asked=SOME_INODES)
def test_the_index_agrees_with_a_plain_loop(tables: list[dict[int, int]], asked: list[int]) -> None:
    held = [Sockets.of(list(table.values()), list(table)) for table in tables]
    index = Index.of(list(enumerate(held)))
    rows = index.rows(inodes(*asked))
    for inode, row in zip(asked, rows, strict=True):
        holders = [slot for slot, table in enumerate(tables) if inode and inode in table.values()]
        assert index.holders[row] == len(holders)
        assert index.slots[row] == (holders[0] if holders else -1)
        assert index.fds[row] == (
            min(fd for fd, held in tables[holders[0]].items() if held == inode) if holders else -1
        )
        assert index.slots_of_holders(inodes(inode)) == set(holders)


@given(first=SOME_INODES, second=SOME_INODES)
def test_sets_of_inodes_are_ascending_and_without_zero(first: list[int], second: list[int]) -> None:
    once, others = distinct(inodes(*first)), distinct(inodes(*second))
    assert once.tolist() == sorted(set(first) - {0})
    assert without(once, others).tolist() == sorted(set(first) - set(second) - {0})


@given(comm=st.binary(max_size=15))
def test_a_stat_line_is_read_whatever_the_name(comm: bytes) -> None:
    fields = b"S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 3 0 4711 0 0 0 7 8 9" + b" 0" * 24
    stat = parse_stat(b"12 (" + comm + b") " + fields + b"\n")
    assert stat.comm == comm.decode("utf-8", "backslashreplace")
    assert (stat.threads, stat.start_us) == (3, 4711 * 1_000_000 // os.sysconf("SC_CLK_TCK"))
    assert not stat.leader_dead
    assert not stat.empty


def test_a_slot_keeps_its_process_for_some_updates_after_its_end() -> None:
    slots = Slots(reuse_after=3)
    slots.begin(1)
    assert slots.take(10, 1, "first", "", None, None, None).slot == 0
    slots.give_back(0)
    for update in (2, 3, 4):
        slots.begin(update)
        assert slots.take(update, 1, "other", "", None, None, None).slot == update - 1
        assert slots.columns()[2][0] == "first"
    slots.begin(5)
    assert slots.take(11, 1, "last", "", None, None, None).slot == 0


def test_a_pinned_slot_keeps_its_process_until_it_is_let_go() -> None:
    slots = Slots(reuse_after=3)
    for pid, comm in ((10, "pinned"), (11, "free")):
        slots.take(pid, 1, comm, "", None, None, None)
    slots.give_back(0)
    slots.give_back(1)
    slots.begin(5, np.array([0], np.int32))
    assert [slots.take(pid, 1, "other", "", None, None, None).slot for pid in (12, 13)] == [1, 2]
    slots.begin(50, np.array([0], np.int32))
    assert slots.take(14, 1, "other", "", None, None, None).slot == 3
    assert slots.columns()[2][0] == "pinned"
    slots.begin(60)
    assert slots.take(15, 1, "last", "", None, None, None).slot == 0


def test_more_processes_than_slots_were_made_for_have_a_slot_each() -> None:
    slots = Slots(reuse_after=3)
    for pid in range(1000):
        slots.take(pid, pid, str(pid), "", None, None, None)
    pids, starts, comms = slots.columns()
    assert pids.tolist() == starts.tolist() == [int(comm) for comm in comms] == [*range(1000)]
    assert slots.verified_us[-1] == 0


def test_the_owner_is_the_holder_that_started_first(proc: FakeProc, owners: Owners) -> None:
    proc.write(5, {3: socket_of(70)}, start=300)
    proc.write(9, {4: socket_of(70)}, start=200)
    proc.write(7, {6: socket_of(70)}, start=200)
    step = owners.update(inodes(70, 70, 0), 1)
    found = owners.lookup(inodes(70, 0))
    pids, starts, comms = owners.slots()
    slot = found.slot[0]
    assert (pids[slot], starts[slot], comms[slot]) == (7, 2_000_000, "name")
    assert (found.fd[0], found.holders[0], found.verified_us[0]) == (6, 3, 1)
    assert (found.slot[1], found.fd[1], found.holders[1], found.verified_us[1]) == (-1, -1, 0, 0)
    assert (step.processes, step.tables_read, step.unresolved) == (3, 3, 0)
    assert step.appeared[0] == Process(
        slot=step.appeared[0].slot,
        pid=step.appeared[0].pid,
        start_us=step.appeared[0].start_us,
        comm="name",
        cmdline="an\\xffargument another",
        exe=None,
        uid=2,
        fd_limit=1024,
    )


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (b"Limit  Soft Limit  Hard Limit  Units\nMax open files  256  4096  files\n", 256),
        (b"Max processes  1  2  processes\nMax open files  unlimited  unlimited  files\n", None),
        (b"Max open files", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_limit_of_descriptors_is_the_soft_one_or_unknown(
    limits: bytes | None, limit: int | None, proc: FakeProc, owners: Owners
) -> None:
    proc.write(5, {3: socket_of(70)}, limits=limits)
    assert owners.update(inodes(70), 1).appeared[0].fd_limit == limit


def test_without_a_process_every_inode_is_unresolved(owners: Owners) -> None:
    assert owners.update(inodes(5, 6, 6, 0), 1).unresolved == 2
    assert owners.lookup(inodes(5, 0)).slot.tolist() == [-1, -1]
    assert owners.lookup(inodes()).slot.tolist() == []


def test_what_is_held_and_not_dumped_is_unexplained(proc: FakeProc, owners: Owners) -> None:
    proc.write(5, {3: socket_of(72), 4: socket_of(70)})
    proc.write(6, {3: socket_of(71), 4: socket_of(70)}, start=200)
    owners.update(inodes(70), 1)
    left = owners.unexplained(inodes(70, 0, 70))
    assert left.tolist() == [71, 72]
    found = owners.lookup(left)
    assert owners.slots()[0][found.slot].tolist() == [6, 5]
    assert found.fd.tolist() == [3, 3]
    assert owners.unexplained(inodes()).tolist() == [70, 71, 72]


def test_the_slot_of_an_ended_process_is_kept_while_it_is_pinned(proc: FakeProc) -> None:
    owners = Owners(proc.path, budget=math.inf, sweep=1)
    proc.write(5, {3: socket_of(70)})
    owners.update(inodes(70), 1)
    slot = owners.lookup(inodes(70)).slot
    proc.remove(5)
    for pid in range(6, 20):
        proc.write(pid, {3: socket_of(70)})
        owners.update(inodes(70), 1, pinned=slot)
        proc.remove(pid)
    assert owners.slots()[0][slot].tolist() == [5]
    assert len(owners.slots()[0]) < 8  # the others were used again
    owners.close()


def test_only_links_to_sockets_count(proc: FakeProc, owners: Owners) -> None:
    proc.write(5, {1: "/tmp/socket:[70]", 2: "pipe:[70]", 3: "anon_inode:[70]", 4: socket_of(71)})
    owners.update(inodes(70, 71), 1)
    assert owners.lookup(inodes(70, 71)).fd.tolist() == [-1, 4]


def test_every_holder_of_an_inode_that_left_is_read_again(proc: FakeProc, owners: Owners) -> None:
    for pid in (5, 6, 7):
        proc.write(pid, {3: socket_of(70), 4: socket_of(72)})
    owners.update(inodes(70, 72), 1)
    for pid in (5, 6, 7):
        proc.point(pid, 3, socket_of(71))
    owners.update(inodes(71, 72), 2)
    assert owners.lookup(inodes(71)).holders.tolist() == [3]


def test_an_inode_is_first_sought_where_something_changed_lately(
    proc: FakeProc, owners: Owners
) -> None:
    for pid in range(10, 30):
        proc.write(pid, {3: socket_of(pid)})
    dump = list(range(10, 30))
    owners.update(inodes(*dump), 1)
    proc.point(20, 4, socket_of(50))
    assert owners.update(inodes(*dump, 50), 2).tables_read == 1
    proc.write(30, {3: socket_of(20)})  # keeps 20 in the dump
    owners.update(inodes(*dump, 50), 3)
    proc.point(20, 3, socket_of(51))
    step = owners.update(inodes(*dump, 50, 51), 4)
    assert (step.tables_read, step.unresolved) == (1, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_inode_is_first_sought_among_the_processes_of_its_user(
    proc: FakeProc, owners: Owners
) -> None:
    for pid in range(10, 30):
        proc.write(pid, {3: socket_of(pid), 4: "/dev/null"})
        os.chown(proc.path / str(pid) / "fd", 1000 + pid, 0)
    dump = list(range(10, 30))
    owners.update(inodes(*dump), 1)
    proc.point(25, 4, socket_of(50))
    uids = np.array([*[0] * len(dump), 1025], np.uint32)
    step = owners.update(inodes(*dump, 50), 2, uids=uids)
    assert (step.tables_read, step.unresolved) == (1, 0)


def test_what_the_time_did_not_suffice_for_is_counted_and_made_up_for(proc: FakeProc) -> None:
    for pid in range(10, 16):
        proc.write(pid, {3: socket_of(pid)})
    owners = Owners(proc.path, budget=0, sweep=1000, clock=itertools.count().__next__)
    unresolved = [owners.update(inodes(*range(10, 16)), 1).unresolved for _ in range(6)]
    assert unresolved == [5, 4, 3, 2, 1, 0]
    assert owners.update(inodes(*range(10, 16)), 1).tables_read == 0
    owners.close()


def test_what_changes_unseen_is_found_within_a_sweep_whatever_the_budget(proc: FakeProc) -> None:
    pids = range(10, 20)
    for pid in pids:
        proc.write(pid, {3: socket_of(1), **{4 + fd: "/dev/null" for fd in range(pid)}})
    owners = Owners(proc.path, budget=0, sweep=5)
    owners.update(inodes(1), 1, budget=math.inf)
    for pid in pids:
        proc.point(pid, 3, "/dev/null")
    proc.write(9, {3: socket_of(1)})
    holders, reads = [], []
    for _ in range(5):
        reads.append(owners.update(inodes(1), 2).tables_read)
        holders.append(int(owners.lookup(inodes(1)).holders[0]))
    assert holders == sorted(holders, reverse=True)
    assert holders[-1] == 1
    assert max(reads) <= 5
    owners.close()


def test_a_pid_in_use_again_is_noticed_though_it_holds_the_same_socket(
    proc: FakeProc, owners: Owners
) -> None:
    proc.write(5, {3: socket_of(70)}, start=100)
    before = owners.update(inodes(70), 1).appeared
    proc.write(5, {3: socket_of(70)}, start=200)
    step = owners.update(inodes(70), 2)
    assert step.ended == before
    assert [(process.pid, process.start_us) for process in step.appeared] == [(5, 2_000_000)]
    found = owners.lookup(inodes(70))
    assert (found.slot[0], found.holders[0]) == (step.appeared[0].slot, 1)


def test_a_directory_made_anew_for_the_same_process_changes_nothing(
    proc: FakeProc, owners: Owners
) -> None:
    proc.write(5, {3: socket_of(70)})
    owners.update(inodes(70), 1)
    proc.write(5, {3: socket_of(70)})
    step = owners.update(inodes(70), 2)
    assert (step.tables_read, step.appeared, step.ended) == (0, [], [])


def test_a_process_that_ended_gives_its_sockets_to_the_next_holder(
    proc: FakeProc, owners: Owners
) -> None:
    proc.write(5, {3: socket_of(70)})
    proc.write(6, {4: socket_of(70)})
    owners.update(inodes(70), 1)
    proc.remove(5)
    step = owners.update(inodes(70), 2)
    found = owners.lookup(inodes(70))
    assert [process.pid for process in step.ended] == [5]
    assert owners.slots()[0][found.slot[0]] == 6
    assert found.holders[0] == 1


def test_a_changed_name_is_a_new_description(proc: FakeProc, owners: Owners) -> None:
    proc.write(5, {3: socket_of(70)})
    [before] = owners.update(inodes(70), 1).appeared
    proc.write(5, {3: socket_of(70), 4: socket_of(71)}, comm=b"other")
    step = owners.update(inodes(70, 71), 2)
    assert step.ended == [before]
    assert [process.comm for process in step.appeared] == ["other"]
    slots = owners.slots()[2]
    assert [slots[slot] for slot in owners.lookup(inodes(70, 71)).slot] == ["other", "other"]


def test_a_kernel_thread_is_read_once(proc: FakeProc, owners: Owners) -> None:
    proc.write(2, {}, flags=0x20_0000)
    for _ in range(3):
        assert owners.update(inodes(70), 1).tables_read == 0


def test_nothing_is_read_through_the_directory_of_a_process_that_ended() -> None:
    proc = os.open("/proc", os.O_RDONLY)
    with Child() as child:
        child.run("import socket; s = socket.socket()")
        with ProcessDirectory(proc, child.pid) as process:
            assert process.read_table("fd", sized=True).inodes
            child.kill()
            for read in (process.stat, lambda: process.read_table("fd", sized=True)):
                with pytest.raises(GONE):
                    read()
            assert process.executable() is None
    os.close(proc)
