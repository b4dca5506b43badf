"""Owners of real sockets in real processes, which do what makes owners hard to know."""

import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from recorder.host.procfs import ProcessDirectory
from recorder.owners.holders import Inodes
from recorder.owners.owners import Holders, Owners, OwnersStep, Process
from tests.recorder.support.owners_child import Child, ProcTree, inodes

pytestmark = pytest.mark.live

NOW = 1_700_000_000_000_000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


@pytest.fixture
def owners(tree: ProcTree) -> Iterator[Owners]:
    owners = Owners(tree.path, budget=60, sweep=4)
    yield owners
    owners.close()


@pytest.fixture
def child(tree: ProcTree) -> Iterator[Child]:
    with Child() as child:
        child.run("")  # it has started to read
        tree.show(child.pid)
        yield child


@pytest.fixture
def other(tree: ProcTree, child: Child) -> Iterator[Child]:
    """A process that started later than `child`."""
    time.sleep(0.02)  # start times have a resolution of 10 ms
    with Child() as other:
        other.run("")
        tree.show(other.pid)
        yield other


def held(owners: Owners, inode: int) -> tuple[int, int, int]:
    """Return (pid of the owner, its fd, number of holders), (0, -1, 0) if unknown."""
    found = owners.lookup(inodes(inode))
    pids, _, _ = owners.slots()
    slot = int(found.slot[0])
    return int(pids[slot]) if slot >= 0 else 0, int(found.fd[0]), int(found.holders[0])


def sweep_until_found(
    owners: Owners, dump: tuple[int, ...], inode: int, expected: tuple[int, int, int]
) -> None:
    time.sleep(0.1)  # from now on what has not run since it was read is not read
    for _ in range(4):
        owners.update(inodes(*dump), NOW)
        if held(owners, inode) == expected:
            return
    assert held(owners, inode) == expected


def test_a_socket_shared_by_a_fork_belongs_to_the_parent(
    tree: ProcTree, owners: Owners, child: Child
) -> None:
    inode = child.run("s = socket.socket(); answer = inode(s)")
    forked = child.run("time.sleep(.02); answer = fork()")
    tree.show(forked)
    fd = child.run("answer = s.fileno()")
    step = owners.update(inodes(inode), NOW)
    assert held(owners, inode) == (child.pid, fd, 2)
    assert step.unresolved == 0
    assert {process.pid for process in step.appeared} == {child.pid, forked}

    child.run("s.close()")
    owners.update(inodes(inode), NOW)
    assert held(owners, inode) == (forked, fd, 1)


def test_the_owner_has_the_lowest_of_its_descriptors(owners: Owners, child: Child) -> None:
    inode, lowest = child.run(
        "low = os.open('/dev/null', 0); s = socket.socket(); os.dup(s.fileno());"
        "answer = [inode(s), s.fileno()]"
    )
    owners.update(inodes(inode, inode, 0), NOW)
    assert held(owners, inode) == (child.pid, lowest, 1)
    lower = child.run("answer = os.dup2(s.fileno(), low)")
    sweep_until_found(owners, (inode,), inode, (child.pid, lower, 1))


def test_a_passed_socket_is_found_within_a_sweep_though_no_number_changed(
    tree: ProcTree, owners: Owners, child: Child
) -> None:
    passed = child.run(
        """
here, there = socket.socketpair()
s, spare = socket.socket(), os.open("/dev/null", os.O_RDONLY)
def receive():
    spare_here = spare
    s.close()
    os.open("/dev/null", os.O_RDONLY)
    os.write(ready[1], b"r")
    while True:
        message, fds, _, _ = socket.recv_fds(there, 1, 1)
        os.close(spare_here)
        os.write(ready[1], b"r")
ready = os.pipe()
time.sleep(.02)
answer = [inode(s), fork(receive)]
os.read(ready[0], 1)
"""
    )
    inode, receiver = passed
    tree.show(receiver)
    time.sleep(0.1)
    owners.update(inodes(inode), NOW)
    assert held(owners, inode)[::2] == (child.pid, 1)
    sizes = [os.stat(f"/proc/{pid}/fd").st_size for pid in (child.pid, receiver)]

    received = child.run(
        """
socket.send_fds(here, [b"s"], [s.fileno()])
os.read(ready[0], 1)
s.close()
os.open("/dev/null", os.O_RDONLY)
"""
    )
    assert received is None
    assert sizes == [os.stat(f"/proc/{pid}/fd").st_size for pid in (child.pid, receiver)]
    time.sleep(0.1)
    for _ in range(4):
        owners.update(inodes(inode), NOW)
    pid, _, holders = held(owners, inode)
    assert (pid, holders) == (receiver, 1)


def test_a_socket_lost_by_dup2_is_noticed_within_a_sweep_though_another_keeps_it_in_the_dump(
    tree: ProcTree, owners: Owners, child: Child
) -> None:
    kept, lost = child.run("a, b = socket.socket(), socket.socket(); answer = [inode(a), inode(b)]")
    forked = child.run("time.sleep(.02); answer = fork()")
    tree.show(forked)
    owners.update(inodes(kept, lost), NOW)
    assert held(owners, lost)[::2] == (child.pid, 2)

    fd = child.run("answer = b.fileno(); os.dup2(a.fileno(), b.fileno())")
    sweep_until_found(owners, (kept, lost), lost, (forked, fd, 1))


def test_a_descriptor_used_again_for_another_socket_is_read_at_once(
    owners: Owners, child: Child
) -> None:
    first = child.run("s = socket.socket(); answer = inode(s)")
    owners.update(inodes(first), NOW)
    second, fd = child.run("s.close(); s = socket.socket(); answer = [inode(s), s.fileno()]")
    step = owners.update(inodes(second), NOW)
    assert held(owners, second) == (child.pid, fd, 1)
    assert held(owners, first) == (0, -1, 0)
    assert step.unresolved == 0


def test_a_file_replaced_by_a_socket_is_read_at_once(owners: Owners, child: Child) -> None:
    before = child.run("f = os.open('/dev/null', 0); s = socket.socket(); answer = inode(s)")
    owners.update(inodes(before), NOW)
    after, fd = child.run("os.close(f); t = socket.socket(); answer = [inode(t), t.fileno()]")
    assert owners.update(inodes(before, after), NOW).unresolved == 0
    assert held(owners, after) == (child.pid, fd, 1)


def test_the_sockets_of_a_process_whose_first_thread_ended_are_seen(
    tree: ProcTree, owners: Owners, child: Child
) -> None:
    inode, pid, fd = child.run(
        """
s = socket.socket()
def life():
    threading.Thread(target=idle).start()
    time.sleep(.05)
    libc.syscall(ctypes.c_long({"x86_64": 60}.get(os.uname().machine, 93)), ctypes.c_long(0))
pid = fork(life)
answer = [inode(s), pid, s.fileno()]
s.close()
"""
    )
    tree.show(pid)
    owners.update(inodes(inode), NOW)  # its leader may still live
    assert held(owners, inode) == (pid, fd, 1)
    deadline = time.monotonic() + 60
    while os.listdir(f"/proc/{pid}/fd") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(f"/proc/{pid}/fd") == []
    for _ in range(6):
        step = owners.update(inodes(inode), NOW)
        assert held(owners, inode) == (pid, fd, 1)
    assert step.ended == []


def test_a_thread_with_a_descriptor_table_of_its_own_is_part_of_its_process(
    owners: Owners, child: Child
) -> None:
    shared, own, own_fd = child.run(
        """
shared = socket.socket()
turn, done = threading.Event(), threading.Event()
found = []
def thread():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    own = socket.socket()
    found.extend([inode(own), own.fileno()])
    done.set()
    turn.wait(60)
    more = socket.socket()
    found.append(inode(more))
    done.set()
    idle()
threading.Thread(target=thread, daemon=True).start()
done.wait(60)
done.clear()
answer = [inode(shared), *found]
"""
    )
    step = owners.update(inodes(shared, own), NOW)
    assert held(owners, own) == (child.pid, own_fd, 1)
    assert held(owners, shared)[::2] == (child.pid, 1)
    assert step.tables_read == 2

    more = child.run("turn.set(); done.wait(60); answer = found[-1]")
    assert owners.update(inodes(shared, own, more), NOW).unresolved == 0
    assert held(owners, more)[::2] == (child.pid, 1)


def test_a_table_unshared_after_it_was_read_is_found_for_the_sake_of_its_sockets(
    owners: Owners, child: Child
) -> None:
    shared = child.run(
        """
shared = socket.socket()
turn, done, found = threading.Event(), threading.Event(), []
def thread():
    turn.wait(60)
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    own = socket.socket()
    found.append(inode(own))
    done.set()
    idle()
threading.Thread(target=thread, daemon=True).start()
answer = inode(shared)
"""
    )
    owners.update(inodes(shared), NOW)
    own = child.run("turn.set(); done.wait(60); answer = found[0]")
    assert owners.update(inodes(shared, own), NOW).unresolved == 0
    assert held(owners, own)[::2] == (child.pid, 1)


CLONE_WITH_PID = """
class Arguments(ctypes.Structure):  # struct clone_args, include/uapi/linux/sched.h
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
        "set_tid", "set_tid_size", "cgroup")]

def clone(pid):
    wanted = (ctypes.c_int32 * 1)(pid)
    arguments = Arguments(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(wanted),
                          set_tid_size=1)
    cloned = libc.syscall(ctypes.c_long(435), ctypes.byref(arguments),
                          ctypes.c_long(ctypes.sizeof(arguments)))
    if cloned == 0:
        libc.prctl(1, signal.SIGKILL)
        signal.pause()
        os._exit(0)
    return cloned
"""


@needs_root
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="needs the number of clone3(2)"
)
def test_a_pid_in_use_again_is_another_process(
    tree: ProcTree, owners: Owners, child: Child
) -> None:
    child.run(CLONE_WITH_PID)
    first, pid = child.run("s = socket.socket(); answer = [inode(s), fork()]; s.close()")
    tree.show(pid)
    before = owners.update(inodes(first), NOW)
    assert held(owners, first)[0] == pid
    second, again = child.run(
        f"os.kill({pid}, 9); os.waitpid({pid}, 0); time.sleep(.03)\n"
        f"s = socket.socket(); answer = [inode(s), clone({pid})]; s.close()"
    )
    if again != pid:
        pytest.skip("needs clone3(2) with set_tid")
    after = owners.update(inodes(second), NOW)
    assert held(owners, second)[0] == pid
    assert held(owners, first) == (0, -1, 0)
    [ended] = after.ended
    [appeared] = after.appeared
    assert ended in before.appeared
    assert (ended.pid, appeared.pid) == (pid, pid)
    assert ended.start_us < appeared.start_us
    assert ended.slot != appeared.slot


@pytest.mark.parametrize(
    ("program", "arguments", "comm"),
    [
        ("/bin/sleep", ["a\u00ff b", "60"], "sleep"),
        (sys.executable, ["python", "-c", "import time; time.sleep(60)"], None),
    ],
    ids=["another name", "the same name"],
)
def test_a_process_that_executes_another_program_is_described_anew(
    tree: ProcTree,
    owners: Owners,
    child: Child,
    program: str,
    arguments: list[str],
    comm: str | None,
) -> None:
    inode, pid = child.run(
        f"""
s = socket.socket()
s.set_inheritable(True)
ready = os.pipe()
def life():
    signal.signal(signal.SIGUSR1, lambda *_: os.execv({program!r}, {arguments!r}))
    os.write(ready[1], b"r")
    idle()
pid = fork(life)
answer = [inode(s), pid]
s.close()
os.read(ready[0], 1)
"""
    )
    tree.show(pid)
    time.sleep(0.05)
    before = one(owners.update(inodes(inode), NOW).appeared, pid)
    command_line = Path(f"/proc/{pid}/cmdline")
    expected = "".join(argument + "\0" for argument in arguments)
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while command_line.read_text() != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    for _ in range(4):
        step = owners.update(inodes(inode), NOW)
        if step.appeared:
            break
    after = one(step.appeared, pid)
    assert step.ended == [before]
    assert after.comm == (comm or before.comm)
    assert after.cmdline == " ".join(arguments)
    assert after.exe == os.path.realpath(program)
    assert after.start_us == before.start_us
    assert after.uid == os.geteuid()
    assert after.fd_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert held(owners, inode)[0] == pid
    assert owners.slots()[2][after.slot] == after.comm


def one(processes: list[Process], pid: int) -> Process:
    [process] = [process for process in processes if process.pid == pid]
    return process


def test_a_name_that_is_no_text_is_kept_byte_by_byte(owners: Owners, child: Child) -> None:
    inode = child.run(
        "libc.prctl(15, b') R 1 (\\xff\\x1b[2J\\n'); s = socket.socket(); answer = inode(s)"
    )
    step = owners.update(inodes(inode), NOW)
    [process] = step.appeared
    assert process.comm == ") R 1 (\\xff\x1b[2J\n"


@pytest.mark.skipif(
    not os.stat("/proc/self/fd").st_size, reason="this kernel tells no size of a table (6.2)"
)
def test_a_table_that_changes_while_it_is_read_is_known_to(child: Child) -> None:
    size = child.run(
        """
resource_limit = __import__("resource").getrlimit(7)[1]
s = [socket.socket() for _ in range(min(3000, resource_limit - 100))]
answer = len(os.listdir("/proc/self/fd")) - 1
"""
    )
    proc = os.open("/proc", os.O_RDONLY)
    with ProcessDirectory(proc, child.pid) as process:
        assert process.read_table("fd", sized=True).size == size
        child.begin("for each in s: each.close(); time.sleep(.0001)")
        deadline = time.monotonic() + 60  # it may have to wait for a processor
        read = [process.read_table("fd", sized=True).size]
        while read[-1] != -1 and time.monotonic() < deadline:
            read.append(process.read_table("fd", sized=True).size)
        child.end()
        assert -1 in read
        assert process.read_table("fd", sized=True).size == size - child.run("answer = len(s)")
    os.close(proc)


def test_a_new_table_is_read_twice_if_its_process_ran_meanwhile(
    tree: ProcTree, child: Child
) -> None:
    """A socket that moved to a descriptor already read would be missed until the next sweep."""
    inode = child.run("s = [socket.socket() for _ in range(3000)]; answer = inode(s[0])")
    child.begin("end = time.monotonic() + 60\nwhile time.monotonic() < end: pass")
    reads = []
    for _ in range(50):  # in some of them it may not have had a processor
        owners = Owners(tree.path, budget=60)
        reads.append([owners.update(inodes(inode), NOW).tables_read for _ in range(3)])
        owners.close()
        if reads[-1][1]:
            break
    assert reads[-1] == [1, 1, 0]


def test_a_process_that_ends_is_reported_and_holds_nothing(owners: Owners, child: Child) -> None:
    inode = child.run("s = socket.socket(); answer = inode(s)")
    appeared = owners.update(inodes(inode), NOW).appeared
    child.kill()
    step = owners.update(inodes(inode), NOW)
    assert step.ended == appeared
    assert step.unresolved == 1
    assert held(owners, inode) == (0, -1, 0)


def test_nothing_is_read_again_while_nothing_changes(owners: Owners, child: Child) -> None:
    inode = child.run("s = [socket.socket() for _ in range(20)]; answer = inode(s[0])")
    child.wait_until_idle()
    assert owners.update(inodes(inode), NOW).tables_read == 1
    time.sleep(0.1)
    for update in range(1, 9):
        assert owners.update(inodes(inode), NOW + update).tables_read == 0
    verified = owners.lookup(inodes(inode)).verified_us[0]
    assert NOW + 8 - 4 < verified <= NOW + 8


def test_an_inode_of_no_process_is_sought_once_more_and_left_to_the_sweep(
    tree: ProcTree, child: Child
) -> None:
    owners = Owners(tree.path, budget=60, sweep=30)
    inode = child.run("s = socket.socket(); answer = inode(s)")
    nobodys = 4_000_000_000
    child.wait_until_idle()
    owners.update(inodes(inode), NOW)
    reads = []
    for _ in range(14):
        child.run("")  # it ran, so only reading its table can tell
        child.wait_until_idle()
        step = owners.update(inodes(inode, nobodys), NOW)
        assert step.unresolved == 1
        reads.append(step.tables_read)
    assert [update for update, read in enumerate(reads) if read] == [0, 4]
    owners.close()


@needs_root
def test_processes_that_may_not_be_read_are_counted(tree: ProcTree, child: Child) -> None:
    inode = child.run("s = socket.socket(); answer = inode(s)")
    tree.path.chmod(0o755)
    with Child(str(Path(__file__).parents[3])) as nobody:
        answer = nobody.run(
            f"""
sys.path[:0] = [sys.argv[1], {str(Path(np.__file__).parents[1])!r}]
from recorder.owners.owners import Owners
from pathlib import Path
import numpy as np
os.chdir({str(tree.path)!r})
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
libc.prctl(4, 1)  # PR_SET_DUMPABLE: it may read itself
s = socket.socket()
own = inode(s)
owners = Owners(Path("."))
step = owners.update(np.array([own, {inode}], np.uint32), 1)
answer = [step.processes, step.denied, step.unresolved]
"""
        )
    assert answer == [1, 1, 2]


def test_the_answer_is_the_same_without_the_help_of_a_new_kernel(
    tmp_path: Path, child: Child
) -> None:
    (tmp_path / "old").mkdir()
    tree = ProcTree(tmp_path / "old", itself=False)
    tree.show(child.pid)
    owners = Owners(tree.path, budget=60, sweep=4)
    first, second = child.run(
        "a, b = socket.socket(), socket.socket(); answer = [inode(a), inode(b)]"
    )
    owners.update(inodes(first, second), NOW)
    assert held(owners, first)[::2] == (child.pid, 1)
    assert held(owners, second)[::2] == (child.pid, 1)
    third = child.run("a.close(); c = socket.socket(); d = socket.socket(); answer = inode(d)")
    assert owners.update(inodes(second, third), NOW).unresolved == 0
    assert held(owners, third)[::2] == (child.pid, 1)
    assert held(owners, first) == (0, -1, 0)
    child.wait_until_idle()
    for _ in range(4):
        owners.update(inodes(second, third), NOW)
    time.sleep(0.1)
    assert owners.update(inodes(second, third), NOW).tables_read == 0
    owners.close()


def test_the_whole_of_proc_can_be_followed(child: Child) -> None:
    owners = Owners(budget=60)
    inode, fd = child.run("s = socket.socket(); answer = [inode(s), s.fileno()]")
    step: OwnersStep = owners.update(inodes(inode), NOW)
    assert held(owners, inode) == (child.pid, fd, 1)
    assert step.processes > 1
    child.run("s.close()")
    assert owners.update(inodes(inode), NOW).unresolved == 1
    owners.close()


CHURN = """
import mmap, random, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
SHARED, OWN, FIRST = 400, 8600, 100
table = mmap.mmap(-1, 4)  # replaced below
events = []

def fill(path):
    global table
    with open(path, "r+b") as file:
        table = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")
    for fd in range(FIRST, FIRST + OWN):
        place(fd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())

def place(fd, source):
    if source != fd:
        os.dup2(source, fd)
        if source < FIRST or source >= FIRST + OWN + SHARED:
            os.close(source)
    table[fd] = inode(fd)

def churn(seconds, seed):
    chance, end, turn = random.Random(seed), time.monotonic() + seconds, time.monotonic()
    while turn < end:
        for _ in range(5):
            fd = chance.randrange(FIRST, FIRST + OWN + SHARED)
            before, at = table[fd], time.monotonic()
            kind = chance.random()
            if kind < 0.3:
                if before:
                    table[fd] = 0
                    os.close(fd)
            elif kind < 0.8:
                place(fd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
            else:
                source = chance.randrange(FIRST, FIRST + OWN + SHARED)
                if table[source] and source != fd:
                    place(fd, source)
            events.append([at, time.monotonic(), fd, before, table[fd]])
        turn += 0.01
        time.sleep(max(0, turn - time.monotonic()))
"""


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 9_500, reason="needs 9,500 open files"
)
def test_18_000_descriptors_under_1_000_operations_a_second_have_their_true_owners(
    tree: ProcTree, owners: Owners, child: Child, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes open, close and replace; what stood still during an update must be exact."""
    files = [tmp_path_factory.mktemp("tables") / name for name in ("first", "second")]
    tables = []
    for file in files:
        np.zeros(10_000, np.uint32).tofile(file)
        tables.append(np.memmap(file, np.uint32, mode="r"))
    child.run(CHURN)
    child.run(
        f"""
def own(path):
    fill(path)
    for at, each in enumerate(shared):
        table[FIRST + OWN + at] = each

for fd in range(FIRST + OWN, FIRST + OWN + SHARED):
    os.dup2(made := socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(), fd)
    os.close(made)
shared = [inode(fd) for fd in range(FIRST + OWN, FIRST + OWN + SHARED)]
orders, reports = os.pipe(), os.pipe()
def life():
    own({str(files[1])!r})
    os.write(reports[1], b"filled  ")
    os.read(orders[0], 1)
    churn(2.5, 2)
    report = json.dumps(events).encode()
    os.write(reports[1], len(report).to_bytes(8, "big"))
    while report:
        report = report[os.write(reports[1], report):]
    signal.pause()  # an update after the churn must still see it
time.sleep(.02)
second = fork(life)
os.read(reports[0], 8)
own({str(files[0])!r})
"""
    )
    pids = (child.pid, int(child.run("answer = second")))
    tree.show(pids[1])
    initial = [table.copy() for table in tables]
    assert sum(int((table > 0).sum()) for table in tables) == 18_000

    child.begin(
        """
os.write(orders[1], b"g")
churn(2.5, 1)
size, report = int.from_bytes(os.read(reports[0], 8), "big"), b""
while len(report) < size:
    report += os.read(reports[0], size - len(report))
answer = [events, json.loads(report)]
"""
    )
    updates: list[tuple[float, float, Inodes, OwnersStep, Holders, npt.NDArray[np.int32]]] = []
    while len(updates) < 5:
        began = time.monotonic()
        dump = np.concatenate([np.asarray(table) for table in tables])
        step = owners.update(dump, NOW)
        slots = owners.slots()[0]
        updates.append((began, time.monotonic(), dump, step, owners.lookup(dump), slots))
        time.sleep(max(0.0, began + 0.5 - time.monotonic()))
    histories = child.end()
    assert sum(len(events) for events in histories) > 1_500

    judged = 0
    for began, ended, dump, step, found, slots in updates:
        assert step.unresolved == len(np.unique(dump[(found.slot < 0) & (dump > 0)]))
        true_holders: dict[int, dict[int, int]] = {}
        moved: set[int] = set()
        for process, events in enumerate(histories):
            state = initial[process].copy()
            for at, done, fd, before, after in events:
                if done < began:
                    state[fd] = after
                elif at <= ended:
                    moved.update((before, after))
            for fd in np.flatnonzero(state).tolist():
                true_holders.setdefault(int(state[fd]), {}).setdefault(process, fd)
        for inode, slot, fd, holders in zip(
            dump.tolist(),
            found.slot.tolist(),
            found.fd.tolist(),
            found.holders.tolist(),
            strict=True,
        ):
            if inode and inode not in moved:
                owner, lowest = min(true_holders[inode].items())
                assert slot >= 0, f"inode {inode} is without an owner"
                assert (slots[slot], fd, holders) == (
                    pids[owner],
                    lowest,
                    len(true_holders[inode]),
                )
                judged += 1
    assert judged > 5 * 15_000
