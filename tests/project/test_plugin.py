"""How a run of tests ends where it would wait for ever."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

STUCK = """
import subprocess, sys, time
from tests.plugin import Watch
sleeping = [sys.executable, "-c", "import time; time.sleep(60)  # it is waited for"]
quiet = subprocess.DEVNULL
with subprocess.Popen(sleeping, stdout=quiet, stderr=quiet) as child:
    watch = Watch(1.5)
    try:
        for _ in range(4):
            time.sleep(0.5)
            watch.pytest_runtest_logstart()
        print("tests go on", flush=True)
        time.sleep(60)
    finally:
        child.kill()
"""


def test_a_run_of_which_nothing_is_heard_ends_and_tells_what_it_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.stdout == "tests go on\n"
    assert done.returncode == 3
    assert done.stderr.startswith("no worker began or ended a test for 1.5 s:\n")
    assert "# it is waited for" in done.stderr
    assert "system call" in done.stderr
