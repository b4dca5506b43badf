"""`sockrec record` with too little of everything: it says so in one line, or goes on with less."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from recorder.console import PATIENCE_S
from recorder.host.limits import (
    ADDRESS_SPACE,
    DATA,
    DESCRIPTORS,
    MARGIN,
    MEMORY,
    Room,
    WantError,
    is_lack,
    lack,
    memory_limit,
)
from tests.recorder.support.journals import committed
from tests.recorder.support.recorded import read
from tests.workloads.netns import lacking, namespace

KB = 1000  # as in ulimit -v
SAMPLES = 3


def command(target: Path, *options: str) -> list[str]:
    options = ("-n", str(SAMPLES), "-i", "100ms", *options)
    return [sys.executable, "-m", "sockrec", "record", "-o", str(target), *options]


def run(
    words: Sequence[str], before: Callable[[], object] = lambda: None
) -> subprocess.CompletedProcess[str]:
    """Run a command, something having been done in its process before."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, preexec_fn=before
    )


@pytest.fixture
def held() -> Iterator[int]:
    """Hold a UDP socket that every recording must show; tells its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def outcome(result: subprocess.CompletedProcess[str], target: Path, port: int) -> int:
    """Return the exit status of a recording, once it kept the rules of this file."""
    told = result.stderr
    assert result.returncode in (0, 1), told  # no signal, no abort
    lines = told.splitlines()
    assert told.endswith("\n")
    assert result.stdout == ""
    if result.returncode:
        assert lines[-1].startswith("sockrec: ")
        # a sealing process that was lost is told after the summary
        assert "raise the limit (" in lines[-1] or "could not be sealed" in lines[-1]
    else:
        assert lines.pop() == f"next: sockrec summary {target}"
        assert lines[-1].startswith(f"{SAMPLES} samples")
        rows = read(target, "sockets").to_pylist()
        shown = {row["sample"] for row in rows if row["local_port"] == port}
        assert shown == set(range(SAMPLES)), (told, rows)
    missing = [line for line in lines if line.startswith("sockrec: not recorded: ")]
    assert len(lines) <= len(missing) + 2
    if missing:
        unseen = json.loads((target / "recording.json").read_text())["unseen"]
        for line in missing:
            assert any(line.endswith(f": {item['what']}: {item['why']}") for item in unseen)
    return result.returncode


def limited(kind: int, amount: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (amount, amount))


@pytest.mark.parametrize("count", [16, 24, DESCRIPTORS - 1, DESCRIPTORS, 56, 64])
def test_few_descriptors_are_too_few_or_enough(tmp_path: Path, held: int, count: int) -> None:
    result = run(command(tmp_path / "r"), limited(resource.RLIMIT_NOFILE, count))
    assert outcome(result, tmp_path / "r", held) == (count < DESCRIPTORS)
    if count < DESCRIPTORS:
        assert result.stderr == (
            f"sockrec: cannot record with {count} descriptors: it needs {DESCRIPTORS}; "
            "raise the limit (ulimit -n)\n"
        )
        assert not (tmp_path / "r").exists()


def test_a_namespace_left_out_for_want_of_descriptors_is_told_on_the_console(
    tmp_path: Path, held: int
) -> None:
    if missing := lacking():
        pytest.skip(missing)
    with namespace() as name:
        words = command(tmp_path / "r", "--netns", "current", "--netns", name)
        # enough for our own and not for another, as that leaves 64 to the rest
        result = run(words, limited(resource.RLIMIT_NOFILE, 70))
    assert outcome(result, tmp_path / "r", held) == 0
    assert "sockrec: not recorded: sockets of " in result.stderr
    assert "no descriptor was left; raise the limit (ulimit -n)" in result.stderr


@pytest.mark.parametrize("kilobytes", [150_000, 250_000, 300_000, 350_000, 400_000, 460_000])
def test_little_address_space_is_too_little_or_enough(
    tmp_path: Path, held: int, kilobytes: int
) -> None:
    result = run(command(tmp_path / "r"), limited(resource.RLIMIT_AS, kilobytes * KB))
    assert outcome(result, tmp_path / "r", held) == (kilobytes * KB < ADDRESS_SPACE)


@pytest.mark.parametrize("kilobytes", [60_000, 120_000, DATA // KB + 1])
def test_little_data_is_too_little_or_enough(tmp_path: Path, held: int, kilobytes: int) -> None:
    result = run(command(tmp_path / "r"), limited(resource.RLIMIT_DATA, kilobytes * KB))
    assert outcome(result, tmp_path / "r", held) == (kilobytes * KB < DATA)


@contextlib.contextmanager
def cgroup(controller: str, files: Sequence[str], limit: int) -> Iterator[Path]:
    """Make a cgroup with a limit, v2 or v1; yields its directory."""
    name = f"sockrec-test-{os.getpid()}-{time.monotonic_ns()}"
    for parent in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup") / controller):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            file = next((group / file for file in files if (group / file).exists()), None)
            if file is not None and (group / "cgroup.procs").exists():
                file.write_text(str(limit))
                yield group
                return
        finally:
            until = time.monotonic() + 10
            while time.monotonic() < until:  # the last process may still be leaving
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
    pytest.skip(f"needs root and the cgroup controller {controller}")


def entering(group: Path) -> Callable[[], object]:
    """Return what puts the calling process into a cgroup."""
    return lambda: (group / "cgroup.procs").write_text("0")


def tasks(limit: int) -> contextlib.AbstractContextManager[Path]:
    return cgroup("pids", ["pids.max"], limit)


def memory(limit: int) -> contextlib.AbstractContextManager[Path]:
    return cgroup("memory", ["memory.max", "memory.limit_in_bytes"], limit)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_few_tasks_are_too_few_or_enough(tmp_path: Path, held: int, count: int) -> None:
    with tasks(count) as group:
        result = run(command(tmp_path / "r"), entering(group))
    status = outcome(result, tmp_path / "r", held)
    if status:
        assert count < 3  # itself, the closes, and the sealing process
        assert "(pids.max, ulimit -u)" in result.stderr or "could not be sealed" in result.stderr


@pytest.mark.parametrize("mebibytes", [60, 100, MEMORY >> 20, 150])
def test_a_small_memory_cgroup_is_too_small_or_enough(
    tmp_path: Path, held: int, mebibytes: int
) -> None:
    with memory(mebibytes << 20) as group:
        result = run(command(tmp_path / "r"), entering(group))
    assert outcome(result, tmp_path / "r", held) == (mebibytes << 20 < MEMORY)
    if mebibytes << 20 < MEMORY:
        assert result.stderr == (
            f"sockrec: cannot record with {mebibytes} MiB of memory in its cgroup: "
            f"it needs {MEMORY >> 20} MiB; raise the limit (memory.max)\n"
        )


CROWD = 16_000
CROWDS = 4


def test_sockets_beyond_what_memory_holds_are_recorded_whole_or_told(
    tmp_path: Path, held: int
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < CROWD + 1000:
        pytest.skip(f"needs {CROWD + 1000} descriptors")
    script = (
        f"import resource, socket, sys; n = {most}\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))\n"
        f"held = [s for _ in range({CROWD // 2}) for s in socket.socketpair()]\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(CROWDS):
            holder = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
        # what a recorder takes by itself, and not what so many sockets take
        result = run(command(tmp_path / "r"), limited(resource.RLIMIT_DATA, DATA))
    if outcome(result, tmp_path / "r", held) == 0:
        assert len(read(tmp_path / "r", "sockets")) >= SAMPLES * CROWD * CROWDS
    elif "recording ended: " in result.stderr:
        facts = json.loads((tmp_path / "r/recording.json").read_text())
        assert facts["exit"].startswith("error: ")
        assert facts["ended"] is not None
    else:
        assert len(committed(tmp_path / "r", 1).commits) == SAMPLES


@pytest.mark.parametrize("kind", [resource.RLIMIT_NOFILE, resource.RLIMIT_DATA])
def test_what_is_taken_away_while_recording_ends_it_in_words(tmp_path: Path, kind: int) -> None:
    with subprocess.Popen(
        command(tmp_path / "r", "-n", "1000"), stderr=subprocess.PIPE, text=True
    ) as recorder:
        until = time.monotonic() + 60
        while len(committed(tmp_path / "r", 1).commits) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        resource.prlimit(recorder.pid, kind, (20, 20))
        _, told = recorder.communicate(timeout=60)
    assert recorder.returncode == 1
    assert re.fullmatch(r"sockrec: \S+: recording ended: .*; raise the limit \(.*\n", told), told
    assert "samples before are whole" in told
    if "journals, which recover seals" in told:  # there was no memory to hand them over either
        subprocess.run(
            [sys.executable, "-m", "sockrec", "recover", str(tmp_path / "r")], check=True
        )
    whole_ones = set(read(tmp_path / "r", "samples")["sample"].to_pylist())
    assert whole_ones == set(range(len(whole_ones)))
    assert len(whole_ones) >= 2


def test_the_command_has_the_limits_and_the_environment_it_would_have_without_us(
    tmp_path: Path,
) -> None:
    show = "import os, resource as r; print(r.getrlimit(r.RLIMIT_DATA), sorted(os.environ.items()))"
    words = [sys.executable, "-c", show]
    with memory(200 << 20) as group:
        recorded = run([*command(tmp_path / "r", "-n", "50"), "--", *words], entering(group))
        alone = run(words, entering(group))
    assert recorded.returncode == 0, recorded.stderr
    assert recorded.stdout == alone.stdout


def test_libraries_start_no_threads(tmp_path: Path) -> None:
    """Before, OpenBLAS, jemalloc and Arrow had 6 threads in the recorder and 5 in its child."""
    with subprocess.Popen(command(tmp_path / "r", "-n", "20"), stderr=subprocess.PIPE) as recorder:
        most: dict[str, int] = {}
        while recorder.poll() is None:
            with contextlib.suppress(OSError):
                task = Path(f"/proc/{recorder.pid}/task")
                children = (task / str(recorder.pid) / "children").read_text().split()
                for pid, who in (
                    (str(recorder.pid), "recorder"),
                    *((c, "child") for c in children),
                ):
                    count = len(os.listdir(f"/proc/{pid}/task"))
                    most[who] = max(most.get(who, 0), count)
            time.sleep(0.002)
    assert recorder.returncode == 0
    assert most["recorder"] <= 2  # the main thread and that of the closes
    assert most["child"] == 1


def test_without_a_thread_closes_are_refused_and_nothing_is_left_open() -> None:
    script = """
import errno, os
from recorder.kernel.closes import Closes
before = os.listdir("/proc/self/fd")
try:
    Closes((6, 1))
except OSError as error:
    assert error.errno == errno.EAGAIN
    assert os.listdir("/proc/self/fd") == before
    print("refused")
"""
    lean = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    with tasks(1) as group:
        result = run(
            ["env", *(f"{k}={v}" for k, v in lean.items()), sys.executable, "-c", script],
            entering(group),
        )
    assert result.stdout == "refused\n", result.stderr


def test_a_namespace_that_no_thread_was_left_for_is_entered_once_there_is_one() -> None:
    if missing := lacking():
        pytest.skip(missing)
    script = """
import sys
from recorder.host.namespaces import Namespaces
namespaces = Namespaces(sys.argv[2:])
for most in ("1", "2"):
    with open(sys.argv[1], "w") as limit:
        limit.write(most)
    namespaces.update()
    (found,) = namespaces.current
    print(found.entered, found.why)
"""
    with namespace() as name, tasks(9) as group:
        words = [sys.executable, "-c", script, str(group / "pids.max"), name]
        result = run(words, entering(group))
    why = "no thread or process could be started; raise the limit (pids.max, ulimit -u)"
    assert result.stdout == f"False {why}\nTrue None\n", result.stderr


def test_what_an_error_says_was_lacking_is_told_with_its_remedy() -> None:
    def why(error: BaseException) -> str:
        told = lack(error)
        assert told is not None
        assert is_lack(told)
        return told

    assert "ulimit -n" in why(OSError(errno.EMFILE, "Too many open files"))
    assert "fs.file-max" in why(OSError(errno.ENFILE, "Too many open files in system"))
    assert "memory.max" in why(MemoryError())
    assert "memory.max" in why(pa.ArrowMemoryError("malloc of size 64 failed"))
    assert "memory.max" in why(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert "pids.max" in why(RuntimeError("can't start new thread"))
    assert "pids.max" in why(pa.ArrowException("Failed to launch worker thread: Resource"))
    assert "pids.max" in why(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    assert lack(OSError(errno.EACCES, "Permission denied")) is None
    assert lack(ValueError("no")) is None
    assert not is_lack("needs root or CAP_SYS_ADMIN")


def fake_proc(path: Path, cgroup: str, mounts: str, anonymous: int = 0) -> Path:
    proc = path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "self/mountinfo").write_text(mounts)
    page = resource.getpagesize()
    (proc / "self/statm").write_text(f"900000 {anonymous // page + 7} 7 1 0 800000 0\n")
    return proc


def test_the_least_memory_limit_around_a_cgroup_counts(tmp_path: Path) -> None:
    tree = tmp_path / "fs"
    (tree / "a/b").mkdir(parents=True)
    for directory, limit in ((tree / "a/b", "max"), (tree / "a", "300"), (tree, "400")):
        (directory / "memory.max").write_text(limit + "\n")
    mount = f"30 24 0:26 {{root}} {tree} rw shared:4 - cgroup2 cgroup2 rw\n"
    proc = fake_proc(tmp_path / "1", "0::/a/b\n", mount.format(root="/"))
    assert memory_limit(proc) == 300
    # what is mounted is the subtree /x, and we are in /x/a/b
    proc = fake_proc(tmp_path / "2", "0::/x/a/b\n", mount.format(root="/x"))
    assert memory_limit(proc) == 300
    # a cgroup that is not below what is mounted: what is around it may be
    proc = fake_proc(tmp_path / "3", "0::/../y\n", mount.format(root="/x"))
    assert memory_limit(proc) == 400
    assert memory_limit(tmp_path / "none") is None


def test_a_memory_limit_of_version_1_counts(tmp_path: Path) -> None:
    tree = tmp_path / "fs"
    (tree / "a").mkdir(parents=True)
    (tree / "a/memory.limit_in_bytes").write_text("500\n")
    mounts = (
        f"31 24 0:27 / {tree} rw - cgroup cgroup rw,memory\n"
        f"32 24 0:28 / {tree}/cpu rw - cgroup cgroup rw,cpu\n"
    )
    proc = fake_proc(tmp_path / "1", "5:cpu:/\n4:memory:/a\n0::/\n", mounts)
    assert memory_limit(proc) == 500
    proc = fake_proc(tmp_path / "2", "5:cpu:/a\n4:memory:/b\n", mounts)
    assert memory_limit(proc) is None


def test_a_recording_ends_while_there_is_still_room_to_say_so(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(str(MEMORY))
    mounts = f"30 24 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    for name, used, enough in (("1", MEMORY - MARGIN, True), ("2", MEMORY - MARGIN // 2, False)):
        room = Room(fake_proc(tmp_path / name, "0::/\n", mounts, used))
        room.check_start()
        with contextlib.nullcontext() if enough else pytest.raises(WantError, match=r"memory\.max"):
            room.check()
    (tmp_path / "memory.max").write_text(str(MEMORY - 1))
    room = Room(fake_proc(tmp_path / "3", "0::/\n", mounts))
    with pytest.raises(WantError, match="cannot record with 112 MiB of memory in its cgroup"):
        room.check_start()


def whole(target: Path) -> bool:
    facts = json.loads((target / "recording.json").read_text())
    taken = set(read(target, "samples")["sample"].to_pylist())
    return bool(facts["exit"] == "samples" and taken == set(range(SAMPLES)))


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_recording_is_whole_without_standard_descriptors(tmp_path: Path, closed: str) -> None:
    words = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    result = run([*words, *command(tmp_path / "r")])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert whole(tmp_path / "r")
    # the exit status tells what the words cannot
    assert run([*words, *command(tmp_path / "r")]).returncode == 1


@pytest.mark.parametrize("read_by", ["nobody, ever", "nobody, any more"])
def test_a_pipe_that_nobody_reads_holds_nothing_up(tmp_path: Path, read_by: str) -> None:
    reader, writer = os.pipe()
    if read_by == "nobody, any more":
        os.close(reader)
    else:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
    started = time.monotonic()
    # a namespace's worth of warnings would wait PATIENCE_S each, did they wait
    process = subprocess.run(command(tmp_path / "r"), stderr=writer, timeout=60, check=False)
    assert process.returncode == 0
    assert time.monotonic() - started < PATIENCE_S + 25
    assert whole(tmp_path / "r")


def test_a_terminal_that_goes_away_ends_no_recording(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    # in a session of its own it gets no SIGHUP, as with nohup(1)
    with subprocess.Popen(
        command(tmp_path / "r", "-n", "15"), stderr=theirs, start_new_session=True
    ) as recorder:
        os.close(theirs)
        told = b""
        while b"samples" not in told:  # in its status line
            told += os.read(ours, 4096)
        os.close(ours)
        assert recorder.wait(60) == 0
    facts = json.loads((tmp_path / "r/recording.json").read_text())
    assert facts["exit"] == "samples"
    assert set(read(tmp_path / "r", "samples")["sample"].to_pylist()) == set(range(15))


def test_being_stopped_for_a_while_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """CPython's sigtimedwait returned rubbish, which passed for a signal that ends a recording."""
    with subprocess.Popen(
        command(tmp_path / "r", "-n", "12"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as recorder:
        until = time.monotonic() + 60
        while len(committed(tmp_path / "r", 1).commits) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        recorder.send_signal(signal.SIGSTOP)
        time.sleep(2)
        recorder.send_signal(signal.SIGCONT)
        _, told = recorder.communicate(timeout=60)
    assert recorder.returncode == 0
    skipped = re.search(r"(\d+) skipped", told)
    assert skipped is not None, told
    assert int(skipped[1]) >= 15
    facts = json.loads((tmp_path / "r/recording.json").read_text())
    assert facts["skipped"] == int(skipped[1])
