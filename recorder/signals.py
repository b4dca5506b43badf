"""The signals that end a recording, or mark a moment of it, waited for instead of handled."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_Set = ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))  # sigset_t


class Signals:
    """Blocks SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGCHLD, so that none cuts a sample, and waits.

    Enter it before numpy and pyarrow are imported: their threads inherit the mask, and a thread
    without it would take the signal in our place. What is ignored stays so, as nohup(1) wants it;
    ``ignored`` is SIGINT if it is, as of a background job of a script.
    """

    def __enter__(self) -> Self:
        self._ending = {
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self.ignored = "SIGINT" if signal.SIGINT not in self._ending else ""
        # were SIGCHLD ignored, the exit status of the command would be lost
        self._old_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._waited = {*self._ending, signal.SIGUSR1, signal.SIGCHLD}
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited)
        self._pending = _signalfd(self._waited)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self.wait(0) is not None:
            pass  # a second Ctrl-C while the first was obeyed
        os.close(self._pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        signal.signal(signal.SIGCHLD, self._old_child)

    def wait(self, seconds: float, others: Sequence[int] = ()) -> signal.struct_siginfo | None:
        """Return the next signal, or None if there is none within that time.

        Returns earlier when one of some other descriptors is readable.
        """
        # sigtimedwait only where it does not wait: stopped (SIGSTOP) for longer than that time,
        # CPython returns memory that it never filled instead of None
        select.select([self._pending, *others], [], [], max(0.0, seconds))
        return signal.sigtimedwait(self._waited, 0)


def _signalfd(numbers: Iterable[int]) -> int:
    """Return a descriptor that is readable while one of the signals, all blocked, is pending."""
    mask = _Set()
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    for number in numbers:
        mask[(number - 1) // bits] |= 1 << (number - 1) % bits
    descriptor = int(_LIBC.signalfd(-1, ctypes.byref(mask), os.O_CLOEXEC))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor
