"""Where the processes of an incident play: one clock, one end, and how each tells what it did."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
"""What a process knows of its own doings when it ends; a JSON object."""

_BEGAN = struct.Struct("dd")
_OVER = _BEGAN.size
_STEP = 0.05
_LEAVE = 10.0


class StageError(Exception):
    """A process of an incident failed."""


class Stage:
    """The clock of an incident, shared by its processes: seconds since the recording began."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self) -> None:
        """Say that the recording has begun: now it is second 0."""
        _BEGAN.pack_into(self._page, 0, time.monotonic(), time.time())

    def finish(self) -> None:
        """Say that the recording has ended: every process tells what it did and leaves."""
        self._page[_OVER] = 1

    def over(self) -> bool:
        """Tell whether the recording has ended."""
        return bool(self._page[_OVER])

    def now(self) -> float:
        """Return the seconds since the recording began; negative if it has not."""
        began: float = _BEGAN.unpack_from(self._page)[0]
        return time.monotonic() - began if began else -1.0

    def utc_us(self, second: float) -> int:
        """Return the UTC time, in microseconds, of a second of the recording."""
        return int((_BEGAN.unpack_from(self._page)[1] + second) * 1e6)

    def sleep(self, seconds: float) -> bool:
        """Sleep so long or until the recording has ended; tell whether it has not."""
        until = time.monotonic() + seconds
        while not self.over() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _STEP))
        return not self.over()

    def wait(self, second: float) -> bool:
        """Sleep until that second of the recording; tell whether it has not ended."""
        while self.now() < second:
            if not self.sleep(min(max(second - self.now(), 0.0), _STEP)):
                return False
        return not self.over()

    def beats(self, per_second: float, begin: float, end: float) -> Iterator[int]:
        """Yield 0, 1, 2 … at an even pace from one second to another; late ones are caught up."""
        for number in range(round((end - begin) * per_second)):
            if not self.wait(begin + number / per_second):
                return
            yield number


Role = Callable[[Stage], Facts]
"""What a process does until the end; returns its facts."""


@dataclass
class Process:
    """A process of the incident, forked, by its name."""

    comm: str
    pid: int
    facts_pipe: int

    def leave(self) -> Facts:
        """Wait for its end and return its facts; StageError unless it ended well."""
        status = self._wait()
        with open(self.facts_pipe, "rb") as pipe:
            text = pipe.read()
        if status != 0:
            raise StageError(f"{self.comm} ended with status {status}")
        facts: Facts = json.loads(text)
        return facts

    def _wait(self) -> int:
        until = time.monotonic() + _LEAVE
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise StageError(f"{self.comm} did not leave in {_LEAVE:.0f} s")

    def check(self) -> None:
        """Raise StageError if it has ended already."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            raise StageError(f"{self.comm} ended too early, with status {code}")


def start(comm: str, role: Role, stage: Stage) -> Process:
    """Fork a process of that name that plays a role."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Process(comm, pid, reading)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is told by the stage
        os.close(reading)
        Path("/proc/self/comm").write_text(comm)
        text = json.dumps(role(stage)).encode()
        assert len(text) < 65536, "more than a pipe holds"
        os.write(writing, text)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)  # whatever threads still do, and without the parent's clean-up
