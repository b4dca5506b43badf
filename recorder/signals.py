"""The signals that end a recording, waited for instead of handled."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Self


class Signals:
    """Blocks SIGINT, SIGTERM, SIGHUP and SIGCHLD, so that one never cuts a sample, and waits.

    Enter it before numpy and pyarrow are imported: their threads inherit the mask, and a thread
    without it would take the signal in our place. What is ignored stays so, as nohup(1) wants it.
    """

    def __enter__(self) -> Self:
        self._ending = {
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        # were SIGCHLD ignored, the exit status of the command would be lost
        self._old_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._ending, signal.SIGCHLD})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self.wait(0) is not None:
            pass  # a second Ctrl-C while the first was obeyed
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        signal.signal(signal.SIGCHLD, self._old_child)

    def wait(self, seconds: float) -> signal.struct_siginfo | None:
        """Return the next signal, or None if there is none within that time."""
        return signal.sigtimedwait({*self._ending, signal.SIGCHLD}, max(0.0, seconds))
