"""Real processes that cannot work, recorded: findings say why, each with its own cause."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import analyzer
from analyzer.sql.catalog import read_findings
from analyzer.sql.views import Scope
from tests.recorder.support.journals import committed
from tests.recorder.support.owners_child import Child
from tests.recorder.support.recorded import record
from tests.recorder.support.sampling import ALONE

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}.get(os.uname().machine)
LASTS_S = 6.5
FINDINGS = ("accept_queue", "unix_backlog", "reader_stalled", "hung_server")

SERVERS = f"""
import resource
where, started = {{}}, []

def be(name, life, kind=socket.AF_INET, backlog=2):
    made = socket.socket(kind)
    made.bind(("127.0.0.1", 0) if kind == socket.AF_INET else "\\0" + name)
    made.listen(backlog)
    def live():
        libc.prctl(15, name.encode())
        life(made)
    started.append(fork(live))
    where[name] = made.getsockname()
    made.close()
    return started[-1]

def accepting(then):
    def life(listener):
        one = listener.accept()[0]
        then(one)
    return life

def full(listener):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    try:
        while True: files.append(os.open("/dev/null", 0))
    except OSError: pass
    while True: time.sleep(1)

def locked(one):
    lock = threading.Lock(); lock.acquire()
    for _ in range(7): threading.Thread(target=lock.acquire, daemon=True).start()
    lock.acquire()

def stuck(one):
    libc.syscall({CLONE or 0}, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0)
    signal.pause()

def hung(one):
    assert not libc.unshare(0x20000) and not libc.mount(None, b"/", None, 0x44000, None)
    served = os.open("/dev/fuse", os.O_RDWR)  # by nobody, as is NFS whose server is gone
    how = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % served
    assert not libc.mount(b"nobody", b"/tmp", b"fuse", 0, how)
    os.stat("/tmp/file")

def spin(one):
    for _ in range(3): threading.Thread(target=idle, daemon=True).start()
    while True: pass

def serving(rounds):
    def life(listener):
        ones = [listener.accept()[0] for _ in range(4)]
        for _ in range(rounds):
            for one in ones: one.sendall(one.recv(100))
        signal.pause()
    return life

answer = dict(
    hanging=be("hanging", serving(1)), working=be("working", serving(1_000_000)),
    stopped=be("stopped", lambda listener: signal.pause()),
    full=be("full", full), unixfull=be("unixfull", full, socket.AF_UNIX),
    locked=be("locked", accepting(locked)), stuck=be("stuck", accepting(stuck)),
    hung=be("hung", accepting(hung)),
    spinning=be("spinning", accepting(spin)),
)
"""

CLIENTS = """
import select
senders, waiting = [], []
for name in ("stopped", "full", "unixfull"):
    for _ in range(5):
        one = socket.socket(socket.AF_UNIX if name == "unixfull" else socket.AF_INET)
        one.setblocking(False)
        try: one.connect(where[name])
        except OSError: pass
        waiting.append(one)
def ask(name, rounds):
    ones = [socket.create_connection(where[name]) for _ in range(4)]
    for _ in range(rounds):
        for one in ones: one.sendall(b"GET key\\r\\n")
        for one in ones: one.recv(100)
        time.sleep(0.05)
    for one in ones: one.sendall(b"GET key\\r\\n")
    waiting.extend(ones)
    signal.pause()
threading.Thread(target=ask, args=("hanging", 1), daemon=True).start()
threading.Thread(target=ask, args=("working", 1_000_000), daemon=True).start()
for name in ("locked", "stuck", "hung", "spinning"):
    one = socket.create_connection(where[name])
    one.setblocking(False)
    senders.append(one)
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    for one in senders:
        try: one.send(bytes(1 << 16))
        except BlockingIOError: pass
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Record it all at once; return by the name of each process what findings say of it."""
    if CLONE is None:
        pytest.skip("needs the number of clone(2) on this machine")
    path = tmp_path_factory.mktemp("live") / "r"
    with Child() as child:
        child.run(ALONE)
        pids = child.run(SERVERS)
        os.kill(pids["stopped"], 19)
        child.run(CLIENTS)
        options = ("-i", "500ms", "-d", f"{LASTS_S}s", "--netns", str(child.pid))
        subprocess.run(record(path, *options), check=True, timeout=60)
    with analyzer.open(path) as opened:
        found = [
            row
            for finding in (read_findings()[name] for name in FINDINGS)
            for row in opened.engine.table(finding.sql, Scope(), finding.values({})).to_pylist()
        ]
    return {
        name: "\n".join(str(row["sentence"]) for row in found if row["comm"] == name)
        for name in (*CAUSES, "working")
    }


CAUSES = {
    "stopped": r"; it was stopped by a signal, as SIGSTOP, for \d+ s of that time",
    "full": r"full \(pid \d+\) has no descriptor left \(64 of 64\), so that accept\(\) fails",
    "unixfull": r"unixfull \(pid \d+\) has no descriptor left \(64 of 64\), so that accept\(\)",
    "locked": r"; it was idle: 8 of its 8 threads waited in futex\(\)",
    "stuck": r"; it was in uninterruptible sleep in \w+\(\) for \d+ s of that time",
    "hung": r"; it was in uninterruptible sleep in \w*(fuse|request_wait)\w*\(\) for \d+ s of that",
    "hanging": (
        r"hanging \(pid \d+\) has stopped: for \d+ s it neither read nor sent anything on its "
        r"connections, and what clients sent lies unread on 4 of those on 127\.0\.0\.1:\d+ "
        r"\(36 bytes\); it was idle in pause\(\)"
    ),
    "spinning": r"; (one of its 4 threads \(spinning\)|it) used \d+ % of a core",
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_finding_names_the_cause(name: str, said: dict[str, str]) -> None:
    if name == "hung" and not os.path.exists("/dev/fuse"):
        pytest.skip("needs FUSE in the kernel")
    assert re.search(CAUSES[name], said[name]), said[name]


def test_a_process_at_work_is_not_accused(said: dict[str, str]) -> None:
    assert said["working"] == ""


WORKERS = """
import mmap, select
counts = mmap.mmap(-1, 32)
doors = []
for number in range(4):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", 7777 if not doors else doors[0].getsockname()[1]))
    one.listen(64)
    doors.append(one)
def work(number):
    def life():
        libc.prctl(15, b"worker")
        for other in set(range(4)) - {number}: doors[other].close()
        kept = []
        while number:  # the first accepts nothing
            kept.append(doors[number].accept())
            counts[8 * number : 8 * number + 8] = len(kept).to_bytes(8, "little")
        signal.pause()
    return life
workers = [fork(work(number)) for number in range(4)]
for one in doors: one.close()
answer = workers
"""

CALLERS = """
calls = [socket.create_connection(("127.0.0.1", 7777)) for _ in range(80)]
time.sleep(0.5)
answer = [int.from_bytes(counts[n:n + 8], "little") for n in range(0, 32, 8)]
"""


def test_how_a_port_spreads_over_the_workers_that_share_it(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with Child() as child:
        child.run(ALONE)
        pids = child.run(WORKERS)
        options = ("-i", "500ms", "-d", "4s", "--netns", str(child.pid))
        with subprocess.Popen(record(path, *options)) as recorder:
            limit = time.monotonic() + 60
            while not committed(path, 1).commits:
                assert time.monotonic() < limit
                time.sleep(0.05)
            counts = child.run(CALLERS)
            assert recorder.wait(60) == 0
    with analyzer.open(path) as opened:
        lines = opened.report("listeners").table().to_pylist()
    assert sum(counts) < 80
    assert {line["pid"]: line["accepted"] for line in lines} == dict(zip(pids, counts, strict=True))
    assert {(line["local"], line["sockets"], line["of_sockets"]) for line in lines} == {
        ("127.0.0.1:7777", 1, 4)
    }
    peaks = {line["pid"]: line["queue_peak"] for line in lines}
    assert peaks[pids[0]] == 80 - sum(counts)
    assert sum(line["share_percent"] for line in lines) == pytest.approx(100, abs=0.3)


CPU_QUOTA_US, PERIOD_US = 20_000, 100_000


@contextlib.contextmanager
def throttling() -> Iterator[Path]:
    """Yield a cgroup of this test's whose processes may use a fifth of a core, of v2 or v1."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _, where, kind, options, *_ in mounts:
        group = Path(where, f"sockrec-{os.getpid()}")
        controllers = Path(where, "cgroup.controllers")
        try:
            if kind == "cgroup2" and "cpu" in controllers.read_text().split():
                Path(where, "cgroup.subtree_control").write_text("+cpu")
                group.mkdir()
                (group / "cpu.max").write_text(f"{CPU_QUOTA_US} {PERIOD_US}")
            elif kind == "cgroup" and "cpu" in options.split(","):
                group.mkdir()
                (group / "cpu.cfs_period_us").write_text(f"{PERIOD_US}")
                (group / "cpu.cfs_quota_us").write_text(f"{CPU_QUOTA_US}")
            else:
                continue
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            limit = time.monotonic() + 30
            while (group / "cgroup.procs").read_text() and time.monotonic() < limit:
                time.sleep(0.05)
            group.rmdir()
        return
    pytest.skip("needs a cgroup hierarchy with the cpu controller in which groups may be made")


THROTTLED = """
made = socket.create_server(("127.0.0.1", 0))
def life():
    libc.prctl(15, b"throttled")
    one = made.accept()[0]
    while True: pass
answer = fork(life)
"""

WRITER = """
one = socket.create_connection(made.getsockname())
one.setblocking(False)
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    try: one.send(bytes(1 << 16))
    except BlockingIOError: time.sleep(0.01)
"""


def test_a_process_that_its_cgroup_throttles_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with throttling() as group, Child() as child:
        child.run(ALONE)
        pid = child.run(THROTTLED)
        (group / "cgroup.procs").write_text(f"{pid}")
        child.run(WRITER)
        options = ("-i", "500ms", "-d", f"{LASTS_S}s", "--netns", str(child.pid))
        subprocess.run(record(path, *options), check=True, timeout=60)
        counted = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    finding = read_findings()["reader_stalled"]
    with analyzer.open(path) as opened:
        rows = opened.engine.table(finding.sql, Scope(), finding.values({})).to_pylist()
        (line,) = [
            line
            for line in opened.report("processes", top=0).table().to_pylist()
            if line["pid"] == pid
        ]
    (sentence,) = [row["sentence"] for row in rows if row["comm"] == "throttled"]
    told = re.search(
        r"its cgroup, which may use 0\.20 of a core, was throttled in (\d+) % of its periods",
        sentence,
    )
    assert told, sentence
    truth = 100 * int(counted["nr_throttled"]) / int(counted["nr_periods"])
    assert truth > 50
    assert float(told[1]) == pytest.approx(truth, abs=15)
    assert line["throttled_percent"] == pytest.approx(truth, abs=15)
    assert line["cpu_limit"] == 0.2
