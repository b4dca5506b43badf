"""Whatever ends a command, it ends in one line, with its status, and takes nothing along."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import os, signal, sys, time
from analyzer.supervisor import supervise
# A shell lets what it starts in the background ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
supervise()
print(os.getpid(), flush=True)
"""


def begun(work: str) -> tuple[subprocess.Popen[str], int]:
    """Begin some work that is watched over; return the watching process and the other's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + work],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def ended(work: str) -> tuple[int, str]:
    process, _ = begun(work)
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def test_a_status_and_what_is_said_are_passed_on() -> None:
    assert ended("print('x', file=sys.stderr); sys.exit(7)") == (7, "x\n")
    assert ended("") == (0, "")


def test_an_abort_of_a_library_is_one_line() -> None:
    work = r"os.write(2, b'terminate called after\n  what():  bad\x1b[2J\n'); os.abort()"
    status, err = ended(work)
    assert status == 1
    assert err == "sockrec: the engine gave up by SIGABRT: what():  bad\\x1b[2J\n"
    assert ended("os.kill(os.getpid(), signal.SIGSEGV)")[0] == 1


def test_a_file_that_shrinks_is_one_line() -> None:
    assert ended("os.kill(os.getpid(), signal.SIGBUS)") == (
        1,
        "sockrec: a file was cut short while it was read, or the disk fails\n",
    )


def test_where_no_descriptor_is_left_the_command_goes_on_alone() -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3));"
    work = "print(os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    done = subprocess.run(
        [sys.executable, "-c", CHILD.replace("supervise()\n", f"{few} supervise()\n") + work],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    first, alone = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert alone == f"{first} set()"


@pytest.mark.parametrize(
    "work",
    [
        "os.write(2, b'cannot allocate memory for thread-local data'); os._exit(127)",
        r"os.write(2, b'terminate called\n  what():  std::bad_alloc\n'); os.abort()",
    ],
    ids=["loader", "C++"],
)
def test_a_library_that_gives_up_without_memory_is_one_line(work: str) -> None:
    status, err = ended(work)
    assert status == 1
    assert err.startswith("sockrec: out of memory: the query needs more than --memory allows")
    assert err.count("\n") == 1


def test_being_killed_is_one_line() -> None:
    status, err = ended("os.kill(os.getpid(), signal.SIGKILL)")
    assert status == 1
    assert err.startswith("sockrec: it was killed, as the kernel does where memory is short")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_work(number: signal.Signals) -> None:
    work = f"signal.signal({int(number)}, lambda n, f: os._exit(42))\nprint('x', flush=True)"
    process, _ = begun(work + "\ntime.sleep(30)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 42


def test_a_signal_that_kills_the_work_is_told_as_a_shell_does() -> None:
    process, _ = begun("time.sleep(30)")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")


def test_the_work_ends_with_who_watches_over_it() -> None:
    process, child = begun("time.sleep(60)")
    with process:
        process.kill()
        process.wait()
    for _ in range(500):
        try:
            if Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] == "Z":
                break
        except OSError:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        raise AssertionError("it goes on")


def test_it_works_without_standard_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD + "sys.exit(3)"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.close(2),
        timeout=30,
        check=False,
    )
    assert done.returncode == 3
