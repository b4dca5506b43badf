"""The process that watches over a command, so that whatever ends it ends in one line."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import NoReturn

READING = frozenset(
    "bundle compact cut diff export info merge report sql ss summary verify".split()
)
"""The commands that open a recording, which may be a stranger's."""

_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MAX_SAID = 1 << 16
_LOADER_GAVE_UP = 127
"""What the dynamic loader exits with, for want of memory for what belongs to a thread."""
_LESS_MEMORY = "give less as --memory, or narrow it by --from, --to or --where"
_MORE_MEMORY = (
    "the query needs more than --memory allows: narrow it by --from, --to or --where, or raise "
    "--memory"
)
_NO_MEMORY = "std::bad_alloc"
"""What C++ says as it gives up where nobody takes the error."""


def supervise(less_memory: str = _LESS_MEMORY, more_memory: str = _MORE_MEMORY) -> None:
    """Go on in a child; this process passes on signals and its exit status, and never returns.

    To be called before there are threads. What a library says as it gives up, in words for who
    wrote it, is kept from standard error, and told in one line; ``less_memory`` says what to do
    where the machine is short of memory, ``more_memory`` where the process is. Where no child can
    be had it returns at once.
    """
    if sys.stderr is None:  # it is closed: what is opened next must not take its number
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    said = -1
    try:
        said = os.memfd_create("stderr", os.MFD_CLOEXEC)
        child = os.fork()
    except OSError:  # no process or descriptor is left: it goes on alone, as far as it gets
        if said >= 0:
            os.close(said)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if child:
        _leave(_wait(child), said, less_memory, more_memory)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # no descriptor is left
        _take_stderr(said)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_stderr(instead: int) -> None:
    """Let Python alone write to standard error; libraries know it by its number only."""
    if sys.stderr is not None:
        own, encoding = os.dup(2), sys.stderr.encoding
        sys.stderr = open(  # noqa: SIM115 - open to the end
            own, "w", buffering=1, encoding=encoding, errors="backslashreplace"
        )
    os.dup2(instead, 2, inheritable=False)


def _wait(child: int) -> int:
    """Return how a child ended, as waitpid gives it."""
    awaited = {*_PASSED_ON, signal.SIGCHLD}
    while True:
        came = signal.sigwaitinfo(awaited)
        if came.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif came.si_code <= 0:  # a terminal sends its own to all of its processes
            os.kill(child, came.si_signo)


def _leave(status: int, said: int, less_memory: str, more_memory: str) -> NoReturn:
    """End as the child did, and say why if it did not."""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != _LOADER_GAVE_UP:
        os._exit(os.WEXITSTATUS(status))
    number = 0 if os.WIFEXITED(status) else os.WTERMSIG(status)
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os._exit(128 + number)
    text = os.pread(said, _MAX_SAID, 0).decode(errors="replace")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    what = f": {last[:300]}" if last else ""
    if not number or _NO_MEMORY in text:
        words = f"out of memory: {more_memory}"
    elif number == signal.SIGBUS:
        words = "a file was cut short while it was read, or the disk fails"
    elif number != signal.SIGKILL:
        words = f"the engine gave up by {signal.Signals(number).name}{what}"
    else:
        words = f"it was killed, as the kernel does where memory is short: {less_memory}"
    line = f"sockrec: {words}"
    os.write(2, "".join(c if c.isprintable() else repr(c)[1:-1] for c in line).encode() + b"\n")
    os._exit(1)
