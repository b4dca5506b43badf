"""Landlock: what files a thread may open, said once and for ever by the thread itself.

See landlock(7) and linux/landlock.h. A kernel without it, before 5.13 or where it is off, is told.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# The numbers of these system calls are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE = 16, 32
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (
    1 << bit for bit in range(6, 13)
)
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

READ = READ_FILE | READ_DIR
CHANGE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM

_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPED = 3
"""Abstract unix sockets and signals of other processes."""


def version() -> int:
    """Return the version of the kernel's Landlock, 0 if there is none."""
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION))


class Ruleset:
    """What may be opened: nothing but what lies at or beneath paths, each with its rights.

    A path that is not there is none. Without Landlock it says nothing and forbids nothing.
    """

    def __init__(self, allowed: Iterable[tuple[Path, int]]) -> None:
        abi = version()
        handled = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
        words = [handled]
        words += [_BIND_TCP | _CONNECT_TCP] if abi >= 4 else []
        words += [_SCOPED] if abi >= 6 else []
        attributes = struct.pack(f"={len(words)}Q", *words)
        self._file = _call(_CREATE_RULESET, attributes, len(attributes), 0) if abi else -1
        if self._file >= 0:
            weakref.finalize(self, os.close, self._file)
            for path, rights in allowed:
                with suppress(OSError):
                    _allow(self._file, path, rights & handled)

    @property
    def holds(self) -> bool:
        """Whether it forbids anything."""
        return self._file >= 0

    def enter(self) -> None:
        """Bind this thread, and those that it starts, for good."""
        if self._file < 0:
            return
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _call(_RESTRICT_SELF, self._file, 0):
            raise OSError(ctypes.get_errno(), "this thread cannot be bound by Landlock")


def _allow(ruleset: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: bytes | int | None) -> int:
    words = [a if isinstance(a, bytes) else ctypes.c_void_p(a) for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return result
