"""Takes samples in this process of namespaces in which children of a test do what it tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from recorder.host.namespaces import Namespaces
from recorder.kernel.closes import Closes
from recorder.kernel.places import Places
from recorder.kernel.tables import parse_query
from recorder.owners.owners import Owners
from recorder.sampling.sampler import Sample, Sampler
from tests.recorder.support.rows import release

ALONE = """
import fcntl, struct
assert not libc.unshare(0x40000000)  # CLONE_NEWNET
with socket.socket(socket.AF_UNIX) as some:  # the close of another kind is announced, and late
    fcntl.ioctl(some, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
answer = os.stat("/proc/self/ns/net").st_ino
"""
"""What a child is to run to be alone in a namespace with a loopback; tells its inode number."""


@contextmanager
def sampler_of(
    *netns: str | int,
    tables: str = "all",
    proc: Path | None = None,
    interval_s: float = 10.0,
    closes: Closes | None = None,
) -> Iterator[Sampler]:
    """Make a sampler of namespaces, as ``--netns`` names them; owners are sought below ``proc``."""
    closes = closes or Closes(release())
    sampler = Sampler(
        parse_query(tables),
        release=release(),
        places=Places(Namespaces([str(one) for one in netns]), closes),
        owners=None if proc is None else Owners(proc),
        closes=closes,
        interval_s=interval_s,
    )
    try:
        yield sampler
    finally:
        sampler.close()


def await_closes(closes: Closes, events: int) -> None:
    """Wait for announcements: the kernel makes them in a worker of its own, when it has time."""
    deadline = time.monotonic() + 30
    while closes.waiting < events and time.monotonic() < deadline:
        time.sleep(0.02)
    assert closes.waiting >= events


def rows_of(sample: Sample, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table that a sample gave."""
    batches = [batch for name, batch in sample.batches if name == table]
    rows: list[dict[str, Any]] = pa.Table.from_batches(batches).to_pylist() if batches else []
    return rows
