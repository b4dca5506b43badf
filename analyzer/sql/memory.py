"""How much memory an answer may take: DuckDB's share of it, and a bound around the process."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analyzer.reading.memory import stack_size
from recorder.schema import SockrecError

DEFAULT_AT_MOST = 8 << 30
"""Half of the machine's memory, but no more than this, unless one asks for it."""

BESIDE = 512 << 20
"""What the process may take beside what DuckDB counts and what it had when it began.

DuckDB counts hash tables, sorts and cached pages. It does not count Arrow batches on their way out,
decompressed pages, nor what a function makes of one value.
"""

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([KMGT])(i?)B", re.ASCII | re.IGNORECASE)
_OWN_THREADS = 4


class SizeError(SockrecError):
    """A text that is no size of memory."""


def parse_size(text: str) -> int:
    """Return the bytes of 500MB or 2GiB. Raises SizeError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise SizeError(f"{text!r} is no size of memory: give 500MB or 2GiB")
    power = "KMGT".index(match[2].upper()) + 1
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def default_size() -> int:
    """Return the bytes that a query may take if nobody says: half of what there is, to a limit."""
    return min(_there_is() // 2, DEFAULT_AT_MOST)


@contextmanager
def bounded(size: int, threads: int | None) -> Iterator[None]:
    """Let the process take so many bytes, and BESIDE, more than it has; then as before.

    What would pass it fails to be allocated, and so ends in an error rather than a machine that
    swaps. Libraries are to be loaded before; each of so many threads has a stack.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    has = _data_bytes()
    if has is None:
        yield
        return
    # DuckDB's, those that check segments, and those that a query is prepared and run in
    stacks = (2 * (threads or os.cpu_count() or 1) + _OWN_THREADS) * stack_size()
    bound = has + size + BESIDE + stacks
    for known in (before, hard):
        if known != resource.RLIM_INFINITY:
            bound = min(bound, known)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _there_is() -> int:
    """Return the bytes of memory of the machine, or of the control group if that has fewer."""
    found = [2 * DEFAULT_AT_MOST]
    with suppress(OSError, ValueError, IndexError):
        total = re.search(r"^MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        found += [int(total[1]) << 10] if total else []
    with suppress(OSError, ValueError, IndexError):
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)
        if own[:2] == ["0", ""]:
            group = Path("/sys/fs/cgroup", own[2].lstrip("/"))
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):
                    found.append(int((folder / "memory.max").read_text()))
    return min(found)


def _data_bytes() -> int | None:
    """Return what RLIMIT_DATA counts of this process."""
    with suppress(OSError):
        data = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        return int(data[1]) << 10 if data else None
    return None
