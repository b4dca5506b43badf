"""A pager between a long answer and its reader on a terminal, as git has it."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO, cast

# Quit if it fits, keep colours, leave the text on the screen: what git gives to less and lv.
_DEFAULTS = {"LESS": "FRX", "LV": "-c"}


@contextmanager
def paged(out: TextIO) -> Iterator[TextIO]:
    """Give what to write to in place of a terminal: more than it has room for goes to $PAGER.

    When the reader leaves the pager, the block ends there and nothing is raised.
    """
    command = pager(os.environ) if out.isatty() else None
    if command is None:
        yield out
        return
    text = _Paged(out, command)
    try:
        yield cast(TextIO, text)
    except BrokenPipeError:
        if not text.begun:
            raise
    except SystemExit:  # a signal, which the pager knows nothing of
        text.stop()
        raise
    finally:
        text.end()


def pager(environ: Mapping[str, str]) -> str | None:
    """Return the command that shows long text, None if there is none or none is wanted."""
    command = environ.get("PAGER", "less").strip()
    if command in ("", "cat") or environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        program = shlex.split(command)[0]
    except (ValueError, IndexError):
        return command  # the shell says what is wrong
    return command if "=" in program or shutil.which(program) else None


class _Paged(io.TextIOBase):
    """Text that is held back while it fits on the terminal, then handed to a pager as it comes."""

    def __init__(self, out: TextIO, command: str) -> None:
        self._out = out
        self._command = command
        size = shutil.get_terminal_size()
        self._columns, self._room = max(size.columns, 1), size.lines - 1
        self._held: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def begun(self) -> bool:
        return self._process is not None

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._process is None:
            self._held.append(text)
            # As if each line were letters only: a pager that is given too little goes by itself.
            lines = text.split("\n")
            self._room -= len(lines) - 1 + sum(len(line) // self._columns for line in lines)
            if self._room < 0:
                self._begin()
        else:
            self._pipe.write(text)
        return len(text)

    def flush(self) -> None:
        if self._process is not None and not self._pipe.closed:
            self._pipe.flush()

    @property
    def _pipe(self) -> TextIO:
        assert self._process is not None
        assert isinstance(self._process.stdin, io.TextIOWrapper)
        return self._process.stdin

    def _begin(self) -> None:
        self._out.flush()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._command],
            stdin=subprocess.PIPE,
            stderr=sys.stderr,
            env=_DEFAULTS | os.environ,
            encoding=self._out.encoding,
            errors="backslashreplace",
        )
        self._pipe.write("".join(self._held))
        self._held.clear()

    def stop(self) -> None:
        """Let the pager go without its reader."""
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Show what was held back, or wait until the reader has left the pager."""
        if self._process is None:
            self._out.write("".join(self._held))
            self._held.clear()
            return
        with suppress(BrokenPipeError):
            self._pipe.close()
        while self._process.returncode is None:
            with suppress(KeyboardInterrupt):  # which is the pager's
                self._process.wait()
