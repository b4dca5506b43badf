"""Whether there is memory for one more thread, as long as a process may have only so much."""

from __future__ import annotations

import mmap
import resource

STACK = 8 << 20
_FIRST_STEPS = 1 << 20
"""What the allocators of C and Python take for a thread before it does anything."""


def stack_size() -> int:
    """Return the bytes of a thread's stack."""
    size, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return min(size, STACK) if size != resource.RLIM_INFINITY else STACK


def check_room_for_threads(number: int = 1) -> None:
    """Raise MemoryError unless so many threads find memory to begin with.

    One that finds none ends before it says that it has begun, and threading.Thread.start, which
    waits to hear it, waits for ever.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, number * (stack_size() + _FIRST_STEPS), flags=flags).close()
    except OSError as error:
        raise MemoryError(f"no memory for a thread: {error.strerror}") from error
