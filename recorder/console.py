"""Standard error: what is told there may be lost, but never delays or ends a recording."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import sys
import time
from collections.abc import Mapping

STDERR = 2

_ERASE = "\r\x1b[K"

PATIENCE_S = 5.0
"""How long a message waits for a reader: of a pipe that is full, or a terminal that was stopped."""

_PLAIN = re.compile(r"[\w./:@%+,-]+", re.ASCII)

_AT_ONCE = 4096
"""A pipe that is ready takes so many bytes without blocking (PIPE_BUF)."""


def hold_standard_descriptors() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Else the next file opened, say a journal, would get its number, and be written to by whatever
    prints. To be called before anything is opened.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (STDERR, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is what open(2) returns
            opened = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(opened, mode, closefd=False, encoding="utf-8"))


def tell(message: str, patience_s: float = PATIENCE_S) -> None:
    """Print a line of the program's own, waiting a while for a reader but not for ever.

    What a stranger may have named is in it: no line break and no terminal escape gets out.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    write(text + "\n", patience_s)


def line_of(event: str, facts: Mapping[str, object]) -> str:
    """Return one line for programs: the event and facts as key=value, quoted as JSON if need be."""
    told = {"event": event, **facts}
    return " ".join(
        f"{key}={text if _PLAIN.fullmatch(text := str(value)) else json.dumps(text)}"
        for key, value in told.items()
        if value is not None
    )


def write(text: str, patience_s: float = 0.0) -> None:
    """Write to standard error as much as it takes within that time; what fails is left out."""
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    until = time.monotonic() + patience_s
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr:
            sys.stderr.flush()
        try:
            # not always 2: see analyzer.supervisor
            number = sys.stderr.fileno() if sys.stderr else STDERR
        except io.UnsupportedOperation:  # it is in memory
            sys.stderr.write(text)
            return
        # past sys.stderr, whose buffer would keep what could not be written until the process exits
        ready = select.poll()
        ready.register(number, select.POLLOUT)
        while data and ready.poll(1000 * max(0.0, until - time.monotonic())):
            data = data[os.write(number, data[:_AT_ONCE]) :]


class StatusLine:
    """A line that is drawn anew at the foot of a terminal, and makes way for all other output.

    In the background the terminal is another's: nothing is drawn there, and nothing erased.
    """

    def __init__(self) -> None:
        self._drawn = False

    def draw(self, line: str) -> None:
        """Show the line in place of the one before, cut to the width of the terminal."""
        if not in_foreground():
            self._drawn = False
            return
        try:
            width = os.get_terminal_size(STDERR).columns
        except OSError:  # the terminal is gone
            return
        # a terminal of no columns is one that does not say how many it has
        write(f"{_ERASE}{line[: (width or 80) - 1]}")
        self._drawn = True

    def erase(self) -> None:
        """Leave the place to what is told next."""
        if self._drawn and in_foreground():
            write(_ERASE)
        self._drawn = False


def in_foreground() -> bool:
    """Tell whether standard error is a terminal that this process may draw on now."""
    try:
        return os.tcgetpgrp(STDERR) == os.getpgrp()
    except OSError:  # it does not control this process: no shell has a prompt there
        return os.isatty(STDERR)
