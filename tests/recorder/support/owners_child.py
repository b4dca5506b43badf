"""Real processes that hold real sockets as a test tells them to, and a /proc that shows only them.

A child runs the Python statements it is sent, one after the other, so that each test reads as the
story of its processes. The tree of links shows the children as the real /proc does, without the
rest of the machine.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

_CHILD = """
import ctypes, json, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

def inode(what):
    return os.fstat(what if isinstance(what, int) else what.fileno()).st_ino

def fork(life=signal.pause):
    pid = os.fork()
    if not pid:
        libc.prctl(1, signal.SIGKILL)
        life()
        os._exit(0)
    return pid

def idle():
    while True:
        time.sleep(60)

known = dict(globals())
for line in sys.stdin:
    known["answer"] = None
    exec(json.loads(line), known)
    print(json.dumps(known["answer"]), flush=True)
"""


PATIENCE_S = 60.0


class Child:
    """A process that runs what it is sent; it and all its descendants die with the test."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill the child and its descendants, and wait for it."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(PATIENCE_S)

    def run(self, statements: str) -> Any:
        """Let the child run statements; return what they assigned to `answer`."""
        self.begin(statements)
        return self.end()

    def wait_until_idle(self) -> None:
        """Wait until the child, which has answered, sleeps until it is told more."""
        limit = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < limit, "the child does not stop running"
            time.sleep(0.01)

    def begin(self, statements: str) -> None:
        """Send statements without waiting for them."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(statements).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """Wait for the statements sent last; return what they assigned to `answer`."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 2 * PATIENCE_S)
        assert ready, "the child has not done what it was told"
        line = self._process.stdout.readline()
        assert line, "the child died; its traceback is above"
        return json.loads(line)


class ProcTree:
    """A directory of links into /proc, in which only some processes are seen.

    Without `itself` nothing tells that it is a real /proc, so what Linux 6.2 and kcmp(2) offer is
    not made use of.
    """

    def __init__(self, path: Path, *, itself: bool = True) -> None:
        self.path = path
        if itself:
            (path / "self").symlink_to("/proc/self")

    def show(self, *pids: int) -> None:
        """Let processes be seen."""
        for pid in pids:
            (self.path / str(pid)).symlink_to(f"/proc/{pid}")


def inodes(*values: int) -> npt.NDArray[np.uint32]:
    """Return inodes as the decoder of a dump does."""
    return np.array(values, np.uint32)
