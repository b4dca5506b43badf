"""The sealing child: a niced process that turns journals into segments while samples go on.

A thread would make samples late; a new process for each segment would import pyarrow each time.
The child takes numbers on its standard input, one a line, and answers each with a line of JSON.
It ends, when what it has begun is sealed, at the end of its input: also if the recorder is killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from recorder.host.io_class import IDLE, set_io_class
from recorder.host.limits import lack
from recorder.store.directory import Directory
from recorder.store.imports import leave_out_pandas

NICENESS = 19
TRIES = 3
"""How often a number is given to a child; all but the first time to be sealed in less memory."""

_MOST_SAID = 1 << 16
_COMMAND = "from recorder.store.sealer import main; main()"


class Sealer:
    """The recorder's end: hands numbers over, and learns of what became of them without waiting.

    ``listing`` is the list of segments, open and locked; the child shares the lock. Nothing that
    happens to the child is raised here: ``failures`` says what is not sealed, and why, and
    ``events`` what happened on the way.
    """

    def __init__(self, directory: Directory, listing: int) -> None:
        self._directory = directory
        self._listing = listing
        self._pending: dict[int, int] = {}  # number -> which try it is
        self._tries: dict[int, int] = {}
        self._child: subprocess.Popen[str] | None = None
        self._said = -1  # what libraries say as they give up
        self._answers = ""
        self._cpu = 0.0  # of the children that ended
        self.failures: dict[int, str] = {}
        self.events: list[str] = []
        self.done: list[int] = []
        """Numbers that were sealed, for who asks to take from."""
        self.full: list[tuple[int, int]] = []
        """Numbers that could not be, as the disk is full, and the error's number; likewise."""
        self._launch()

    def _launch(self) -> bool:
        """Start a child unless one runs; tell whether there is one."""
        if self._child is not None:
            return True
        # An allocator that gives memory back keeps the child's size at that of one segment.
        environment = {"ARROW_DEFAULT_MEMORY_POOL": "jemalloc"} | dict(os.environ)
        package = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        descriptors = (self._directory.descriptor, self._listing)
        self._said = os.memfd_create("sealing", os.MFD_CLOEXEC)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(self._directory.path), *map(str, descriptors)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env=environment,
                pass_fds=descriptors,
                start_new_session=True,  # a Ctrl-C on the terminal is the recorder's to handle
            )
        except (OSError, MemoryError) as error:
            os.close(self._said)
            why = lack(error) or str(error)
            self.events.append(f"the sealing process could not be started: {why}")
            return False
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._answers = ""
        return True

    def cpu(self) -> float:
        """Return the CPU seconds that the children have used."""
        if self._child is None:
            return self._cpu
        try:
            stat = Path(f"/proc/{self._child.pid}/stat").read_text()
        except OSError:
            return self._cpu
        user, system = stat.rpartition(")")[2].split()[11:13]
        return self._cpu + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def seal(self, number: int) -> None:
        """Have a number sealed; its journals must be closed. What failed before is tried again."""
        self.poll()
        self._tries.setdefault(number, 0)
        for waiting in [n for n in sorted(self._tries) if n not in self._pending]:
            self._hand_over(waiting)

    def _hand_over(self, number: int) -> None:
        if self._tries[number] >= TRIES:
            return
        self._tries[number] += 1
        if not self._launch():
            self.failures.setdefault(number, self.events[-1])
            return
        self._pending[number] = self._tries[number]
        assert self._child is not None
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):  # that the child is gone is found out by the next poll
            self._child.stdin.write(f"{number} {self._tries[number]}\n")
            self._child.stdin.flush()

    def poll(self) -> None:
        """Take what the child has answered so far, and notice if it is gone."""
        if self._child is None:
            return
        assert self._child.stdout is not None
        ended = self._child.poll() is not None  # before what it said is read to the end
        while data := _read_some(self._child.stdout.fileno()):
            self._answers += data
        *lines, self._answers = self._answers.split("\n")
        for line in lines:
            answer = json.loads(line)
            number = answer["number"]
            self._pending.pop(number, None)
            if answer["error"] is None:
                self.failures.pop(number, None)
                self._tries.pop(number, None)
                self.done.append(number)
            else:
                self.failures[number] = answer["error"]
                if answer["errno"] in (errno.ENOSPC, errno.EDQUOT):
                    self.full.append((number, answer["errno"]))
        if ended:
            self._bury()

    def again(self, number: int) -> None:
        """Have a number sealed again that could not be, as often as if it were new."""
        if number in self._tries and number not in self._pending:
            self._tries[number] = 0
            self._hand_over(number)

    def settle(self, number: int, patience_s: float) -> None:
        """Wait until a number is not being sealed; a child that takes longer than that is ended."""
        until = time.monotonic() + patience_s
        while number in self._pending:
            self.poll()
            if number in self._pending and self._child is not None:
                if time.monotonic() > until:
                    self._child.kill()
                    self._child.wait()
                time.sleep(0.01)

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to seal."""
        return not self._tries

    def use(self, listing: int) -> None:
        """Go on with another list of segments; the child of before must have ended."""
        self._listing = listing
        self._launch()

    def forget(self, number: int) -> None:
        """Seal a number no more that is not being sealed, as it is dropped."""
        self._tries.pop(number, None)
        self.failures.pop(number, None)

    def finish(self) -> None:
        """Let the child seal what it was given, and wait for it; what failed is tried again."""
        while True:
            self._wait()
            again = [n for n in sorted(self._tries) if self._tries[n] < TRIES]
            if not again:
                break
            for number in again:
                self._hand_over(number)

    def _wait(self) -> None:
        """Wait until the child has nothing more to do, and for its end."""
        if self._child is None:
            return
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        os.set_blocking(self._child.stdout.fileno(), True)
        while self._child is not None:
            self.poll()
            if self._child is not None:
                self._child.wait()

    def _bury(self) -> None:
        """Note how the child ended, and what it left undone."""
        assert self._child is not None
        status = self._child.returncode
        if status or self._pending:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            said = os.pread(self._said, _MOST_SAID, 0).decode(errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "")
            self.events.append(f"the sealing process {how}" + f": {last}" * bool(last))
            for number in self._pending:
                self.failures[number] = self.events[-1]
        self._pending.clear()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        os.close(self._said)
        self._cpu = self.cpu()
        self._child = None


_READ_SIZE = 4096  # little, as there may be no more memory when the last answers are read


def _read_some(descriptor: int) -> str:
    try:
        return os.read(descriptor, _READ_SIZE).decode()
    except BlockingIOError:
        return ""


def main() -> None:
    """Seal the numbers that come on standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    leave_out_pandas()
    os.umask(0o077)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    set_io_class(IDLE)
    with contextlib.suppress(OSError):  # of the two, the one whose work can be done again
        Path("/proc/self/oom_score_adj").write_text("1000")
    path, directory, listing = sys.argv[1:]
    _serve(Directory(Path(path), int(directory)), int(listing), sys.stdin, sys.stdout)


def _serve(directory: Directory, listing: int, orders: TextIO, answers: TextIO) -> None:
    import pyarrow as pa

    from recorder.format.writing import COLUMNS_AT_ONCE
    from recorder.store.segment import seal

    pa.set_cpu_count(1)
    for order in orders:
        number, which = map(int, order.split())
        error: str | None = None
        reason: int | None = None
        try:
            seal(directory, listing, number, columns_at_once=COLUMNS_AT_ONCE if which == 1 else 1)
        except Exception as failure:
            error = lack(failure) or str(failure) or type(failure).__name__
            reason = getattr(failure, "errno", None)
        pa.default_memory_pool().release_unused()
        with contextlib.suppress(BrokenPipeError):
            answer = json.dumps({"number": number, "error": error, "errno": reason})
            print(answer, file=answers, flush=True)
