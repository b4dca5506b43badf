"""The I/O class of a process: whether others come first at the disk (ioprio_set(2))."""

from __future__ import annotations

import ctypes
import platform

BEST_EFFORT = 2
IDLE = 3

_PROCESS = 1
_SHIFT = 13
_NUMBERS = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
"""The system call, which the C library has no function for."""


def set_io_class(kind: int, level: int = 0) -> bool:
    """Set the class of this thread and those it starts; tell whether the kernel took it."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (number, _PROCESS, 0, kind << _SHIFT | level)
    return int(libc.syscall(*map(ctypes.c_long, arguments))) == 0
