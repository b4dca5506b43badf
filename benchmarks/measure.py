"""What every part measures with: CPU time, the floor, and lines in one style.

The floor is a receive loop over one dump that looks at nothing. Without a word of which, it is the
legacy TCP dump with every extension.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from recorder.diag.inet_diag import TCPDIAG_GETSOCK, request_tcp_both
from recorder.kernel.transport import DATAGRAM, connect_diag
from recorder.wire.netlink import NLMSG_DONE, request

Requests = Sequence[tuple[int, bytes]]
"""Message type and body of each dump."""

TCP: Requests = ((TCPDIAG_GETSOCK, request_tcp_both()),)


def cpu(action: Callable[[], object], rounds: int) -> float:
    """Return the median CPU seconds of an action, after one round that is not counted."""
    action()
    return median(_spent(action) for _ in range(rounds))


def floor(requests: Requests = TCP) -> None:
    """Receive these dumps and look at nothing but their ends. The kernel must know them."""
    diag, _ = connect_diag()
    with diag:
        buffer = memoryview(bytearray(DATAGRAM))
        for kind, body in requests:
            diag.send(request(kind, body, 1))
            last = 0
            while last != NLMSG_DONE:
                size = diag.recv_into(buffer)
                last = int.from_bytes(buffer[size - 16 : size - 14], "little")


def floor_live(rounds: int, requests: Requests = TCP) -> float:
    """Return the floor's median CPU seconds where each dump finds cold caches, as live ones do."""
    seconds = []
    for _ in range(rounds):
        time.sleep(0.7)
        seconds.append(_spent(lambda: floor(requests)))
    return median(seconds)


def _spent(action: Callable[[], object]) -> float:
    before = time.process_time()
    action()
    return time.process_time() - before


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory that is removed with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix="sockrec-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def show(name: str, seconds: float, base: float | None = None, note: str = "") -> None:
    """Print a line: CPU ms, and how many times the floor they are."""
    ratio = f"{seconds / base:8.2f} x floor" if base else " " * 16
    print(f"  {name:<34}{seconds * 1000:10.1f} ms {ratio}  {note}".rstrip(), flush=True)


def drain() -> None:
    """Wait until the TIME-WAIT sockets of an earlier population are gone."""
    for _ in range(70):
        words = Path("/proc/net/sockstat").read_text().split()
        if int(words[words.index("tw") + 1]) < 100:
            return
        time.sleep(1)
