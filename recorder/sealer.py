"""The sealing child: a niced process that turns journals into segments while samples go on.

A thread would make samples late; a new process for each segment would import pyarrow each time.
The child takes numbers on its standard input, one a line, and answers each with a line of JSON.
It ends, when what it has begun is sealed, at the end of its input: also if the recorder is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from recorder.imports import leave_out_pandas

NICENESS = 19
_COMMAND = "from recorder.sealer import main; main()"


class Sealer:
    """The recorder's end: hands numbers over, and learns of what became of them without waiting."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending: set[int] = set()
        self.failures: dict[int, str] = {}
        self._launch()

    def _launch(self) -> None:
        # An allocator that gives memory back keeps the child's size at that of one segment.
        environment = {"ARROW_DEFAULT_MEMORY_POOL": "jemalloc"} | dict(os.environ)
        package = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(
            [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # a Ctrl-C on the terminal is the recorder's to handle
        )
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        self._answers = ""

    def cpu(self) -> float:
        """Return the CPU seconds that the child has used."""
        try:
            stat = Path(f"/proc/{self._child.pid}/stat").read_text()
        except OSError:
            return 0.0
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def seal(self, number: int) -> None:
        """Have a number sealed; its journals must be closed."""
        self.poll()
        if self._child.poll() is not None:  # killed, say for want of memory: begin anew
            self._give_up()
            self._launch()
        self._pending.add(number)
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # found out by the next call
            self._child.stdin.write(f"{number}\n")
            self._child.stdin.flush()

    def poll(self) -> None:
        """Take what the child has answered so far."""
        assert self._child.stdout is not None
        while data := _read_some(self._child.stdout.fileno()):
            self._answers += data
        *lines, self._answers = self._answers.split("\n")
        for line in lines:
            answer = json.loads(line)
            self._pending.discard(answer["number"])
            if answer["error"] is not None:
                self.failures[answer["number"]] = answer["error"]

    def finish(self) -> None:
        """Let the child seal what it was given, and wait for it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        os.set_blocking(self._child.stdout.fileno(), True)
        self.poll()
        self._child.wait()
        self._give_up()

    def _give_up(self) -> None:
        for number in self._pending:
            status = self._child.returncode
            self.failures[number] = f"the sealing process ended with status {status}"
        self._pending.clear()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def _read_some(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode()
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
    _serve(Path(sys.argv[1]), sys.stdin, sys.stdout)


def _serve(directory: Path, numbers: TextIO, answers: TextIO) -> None:
    import pyarrow as pa

    from recorder.segment import seal

    pa.set_cpu_count(1)
    for line in numbers:
        error: str | None = None
        try:
            seal(directory, int(line))
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        pa.default_memory_pool().release_unused()
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"number": int(line), "error": error}), file=answers, flush=True)
