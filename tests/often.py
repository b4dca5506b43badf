"""Runs the tests many times, under conditions in which a race shows, and tells how each run ended.

    python -m tests.often 20 [PYTEST-ARGUMENT...]

Of 20 runs ten are quiet, five beside four busy loops and a process that writes to the disk, three
with SIGINT and SIGQUIT ignored, as what a script puts into the background has them, and two beside
a recorder of every network namespace. All are in sessions of their own, without a terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

ROOT = Path(__file__).parents[1]

RUN_S = 3600
"""Seconds after which a run hangs: many times what the slowest takes."""

BUSY = "while True: pass"
WRITE = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        for _ in range(64):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        file.truncate(0)
        file.seek(0)
"""


@contextlib.contextmanager
def beside(*commands: list[str]) -> Iterator[None]:
    """Let other processes run meanwhile."""
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    yield


@contextlib.contextmanager
def busy() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="sockrec-often-") as place:
        write = [sys.executable, "-c", WRITE, f"{place}/written"]
        with beside(*[[sys.executable, "-c", BUSY]] * 4, write):
            yield


@contextlib.contextmanager
def ignoring() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_INTERRUPTS = (signal.SIGINT, signal.SIGQUIT)


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="sockrec-often-") as place:
        record = [sys.executable, "-m", "sockrec", "record", "-q", "--netns", "all"]
        with beside([*record, "-i", "200ms", "-o", f"{place}/recording"]):
            yield


CONDITIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "quiet": quiet,
    "busy": busy,
    "signals ignored": ignoring,
    "recorded": recorded,
}


def conditions(runs: int) -> list[str]:
    """Return the condition of each run: of 20, ten, five, three and two, and mixed."""
    return [_OF_20[number % 20] for number in range(runs)]


_OF_20 = ["quiet", "busy", "quiet", "signals ignored", "quiet", "recorded", "quiet", "busy"]
_OF_20 += ["quiet", "signals ignored", "quiet", "busy", "quiet", "recorded", "quiet", "busy"]
_OF_20 += ["quiet", "signals ignored", "quiet", "busy"]


def run(condition: str, arguments: list[str]) -> tuple[bool, str]:
    """Run the tests once; return whether they passed, and what is to be told of it."""
    begun = time.monotonic()
    with (
        CONDITIONS[condition](),
        subprocess.Popen(
            [str(Path(sys.executable).with_name("pytest")), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            restore_signals=False,
        ) as tests,
    ):
        try:
            output, _ = tests.communicate(timeout=RUN_S)
        except BaseException as error:
            os.killpg(tests.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            output = f"{tests.communicate()[0]}\nFAILED: it did not end within {RUN_S} s"
    seconds = time.monotonic() - begun
    passed = tests.returncode == 0
    failed = re.findall(r"^(?:FAILED|ERROR):? .*$", output, re.MULTILINE)
    closing = output.strip().rpartition("\n")[2]
    told = f"{condition}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s; {closing}"
    if not passed:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sockrec-often-", suffix=".log", delete=False
        ) as file:
            file.write(output)
        told += "".join(f"\n  {line}" for line in [*failed, f"whole output: {file.name}"])
    return passed, told


def main(runs: int, arguments: list[str]) -> int:
    """Run the tests that often; return how many runs failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end what was started
    failures = 0
    for number, condition in enumerate(conditions(runs), 1):
        passed, told = run(condition, arguments)
        failures += not passed
        print(f"{number}/{runs} {told}", flush=True)
    print(f"{runs - failures} of {runs} runs passed", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]), sys.argv[2:]) else 0)
