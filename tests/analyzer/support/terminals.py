"""A command on a pseudo terminal, for tests of what a person sees."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """A command on a terminal of its own, as a person has it."""

    def __init__(self, *words: str | Path, **environ: str | Path) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sockrec", *map(str, words)],
            cwd=ROOT,
            env=os.environ
            | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
            | {name: str(value) for name, value in environ.items()},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(follower)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read until the text is shown after what was waited for before."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.shown!r}"
            if select.select([self._leader], [], [], left)[0]:
                self.shown += os.read(self._leader, 1 << 16).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def wait(self, seconds: float = 60) -> int:
        """Read until the command ends and return its status."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            assert left > 0, f"it does not end: {self.shown!r}"
            try:
                if select.select([self._leader], [], [], left)[0]:
                    self.shown += os.read(self._leader, 1 << 16).decode(errors="replace")
            except OSError:  # nobody has it open any more
                return self.process.wait(max(left, 1))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        os.close(self._leader)
