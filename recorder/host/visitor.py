"""The thread that enters network namespaces."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000  # include/uapi/linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)


class Visitor:
    """A thread that goes into namespaces and stays in the one it entered last.

    It never comes home: root of a user namespace may leave home and not be allowed back.
    """

    def __init__(self) -> None:
        self.inside = 0
        self._jobs: SimpleQueue[tuple[list[Any], SimpleQueue[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="namespaces", daemon=True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()  # inherits the mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def visit(self, visits: list[tuple[int, int, Callable[[], T]]]) -> list[T | OSError]:
        """Run each action in its namespace, given by inode number and descriptor."""
        answer: SimpleQueue[Any] = SimpleQueue()
        self._jobs.put((visits, answer))
        outcomes = answer.get()
        if isinstance(outcomes, BaseException):
            raise outcomes
        return list(outcomes)

    def close(self) -> None:
        """End the thread; so it leaves the namespace it is in."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            visits, answer = job
            try:
                answer.put([attempt(partial(self._enter, *visit)) for visit in visits])
            except BaseException as error:  # the caller's, whatever it is
                answer.put(error)
            del job, visits, answer  # what they refer to may be a socket

    def _enter(self, inode: int, descriptor: int, action: Callable[[], T]) -> T:
        if self.inside != inode:
            if _LIBC.setns(descriptor, CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            self.inside = inode
        return action()


def attempt(action: Callable[[], T]) -> T | OSError:
    """Return what an action returns, or the OSError it raises."""
    try:
        return action()
    except OSError as error:
        return error
