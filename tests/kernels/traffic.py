"""Traffic that meets limits of a whole machine, or not: ``python -m tests.kernels.traffic``.

Arguments are a file, and pairs of namespaces, the client's and the server's, by what is done in
them: KIND=CLIENT,SERVER. Everything is in this process; a socket stays in the namespace where it
was made. What the kernel says of it in the end is written to the file, by kind.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

Facts: TypeAlias = dict[str, int]
Ends: TypeAlias = list[tuple[socket.socket, socket.socket]]

SERVER = "10.78.0.2"
CONNECTIONS = 60
BUFFER = 1 << 16
SETTLE_SECONDS = 1.5
"""For some samples to see what is held."""

_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
_NET = Path("/proc/thread-self/net")


def inside(name: str) -> int:
    """Let this thread make its sockets in a namespace; return its inode."""
    namespace = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)


def counter(name: str) -> int:
    """Return a counter of snmp or netstat of this thread's namespace, as ``TcpExt.TW``."""
    kind, _, wanted = name.partition(".")
    for file in ("snmp", "netstat"):
        lines = [line.split() for line in (_NET / file).read_text().splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            if names[0] == f"{kind}:" and wanted in names:
                return int(values[names.index(wanted)])
    raise KeyError(name)


def in_use(protocol: str, word: str) -> int:
    """Return a number of sockstat, as ("TCP", "mem")."""
    for line in (_NET / "sockstat").read_text().splitlines():
        name, *words = line.split()
        if name == f"{protocol}:":
            return int(words[words.index(word) + 1])
    raise KeyError(protocol)


def connected(client: str, server: str, count: int, buffer: int = 0) -> Ends:
    """Open connections between two namespaces; return both ends of each.

    ``buffer`` bounds what the client's end holds to send, and the server's to read.
    """
    inside(server)
    with socket.create_server((SERVER, 0), backlog=count) as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        inside(client)
        ends = []
        for _ in range(count):
            one = socket.socket()
            one.settimeout(20)
            if buffer:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            one.connect(listener.getsockname())
            ends.append((one, listener.accept()[0]))
    return ends


def bulk(client: str, server: str, size: int) -> Facts:
    """Send so many bytes to one who reads; return what the client's link did of it."""
    [(sender, reader)] = connected(client, server, 1)

    def read() -> None:
        while reader.recv(1 << 16):
            pass

    thread = threading.Thread(target=read)
    thread.start()
    sender.settimeout(90)
    sender.sendall(bytes(size))
    sender.shutdown(socket.SHUT_WR)
    thread.join()
    time.sleep(SETTLE_SECONDS)
    show = ("tc", "-s", "-j", "qdisc", "show", "dev", "cable", "root")
    told = json.loads(subprocess.run(show, check=True, capture_output=True).stdout or "[]")
    return {"dropped": sum(one.get("drops", 0) for one in told)}


def lossy(client: str, server: str) -> Facts:
    return bulk(client, server, 3_000_000)


def overtaking(client: str, server: str) -> Facts:
    return bulk(client, server, 2_000_000)


def far(client: str, server: str) -> Facts:
    return bulk(client, server, 2_000_000)


def slow(client: str, server: str) -> Facts:
    return bulk(client, server, 9_000_000)


def crowd(client: str, server: str) -> Facts:
    """Hold many connections."""
    ends = connected(client, server, CONNECTIONS)
    time.sleep(SETTLE_SECONDS)
    entries = Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()
    del ends
    return {"entries": int(entries)}


def overflow(client: str, server: str) -> Facts:
    """Try to hold more connections than there is room for."""
    inside(server)
    with socket.create_server((SERVER, 0), backlog=128) as listener:
        inside(client)
        ends = []
        for _ in range(80):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            ends.append(one)
        time.sleep(SETTLE_SECONDS)
        for one in ends:
            one.close()
    lines = (_NET / "stat/nf_conntrack").read_text().splitlines()
    at = lines[0].split().index("drop")
    return {"dropped": sum(int(line.split()[at], 16) for line in lines[1:])}


def filled(client: str, server: str, count: int) -> tuple[Ends, Facts]:
    """Open connections whose server never reads what the client has sent.

    Return the pages of memory that TCP had, too: the most at any look, and the most for a second.
    """
    ends = connected(client, server, count, BUFFER)
    looks: list[tuple[float, int]] = []

    def look() -> None:
        looks.append((time.monotonic(), in_use("TCP", "mem")))

    for sender, _ in ends:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                look()
                sender.send(bytes(1 << 14))
    settled = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < settled:
        look()
        time.sleep(0.01)
    lasting = [
        min(pages for time, pages in looks if begun <= time <= begun + 1)
        for begun, _ in looks
        if begun + 1 <= looks[-1][0]
    ]
    return ends, {"peak": max(pages for _, pages in looks), "lasting": max(lasting)}


def unread(client: str, server: str) -> Facts:
    """Let queues hold what nobody reads."""
    ends, pages = filled(client, server, 20)
    for one in itertools.chain(*ends):
        one.close()
    return pages


def orphans(client: str, server: str) -> Facts:
    """Close what still has much to deliver."""
    ends, pages = filled(client, server, 40)
    for number, (sender, _) in enumerate(ends):
        if number == 30:  # the kernel takes note of how many there are ten times a second only
            time.sleep(SETTLE_SECONDS)
        sender.close()
    time.sleep(SETTLE_SECONDS)
    return {"reset": counter("TcpExt.TCPAbortOnMemory")} | pages


def short(client: str, server: str) -> Facts:
    """Open connections and close them, the client first."""
    for sender, reader in connected(client, server, 200):
        sender.close()
        reader.close()
    time.sleep(SETTLE_SECONDS)
    return {"dropped": counter("TcpExt.TCPTimeWaitOverflow"), "waiting": in_use("TCP", "tw")}


def datagrams(client: str, server: str) -> Facts:
    """Send datagrams to one who does not read, and has room."""
    inside(server)
    reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reader.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8_000_000)
    reader.bind((SERVER, 0))
    inside(client)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(1000):
        sender.sendto(bytes(1000), reader.getsockname())
    time.sleep(SETTLE_SECONDS)
    inside(server)
    return {
        "memory": counter("Udp.MemErrors"),
        "buffer": counter("Udp.RcvbufErrors"),
        "pages": in_use("UDP", "mem"),
    }


LINKS: dict[str, Callable[[str, str], Facts]] = {
    work.__name__: work for work in (lossy, overtaking, far, slow)
}
"""What is done over a link of its own, all at once."""

KINDS: dict[str, Callable[[str, str], Facts]] = {
    work.__name__: work for work in (crowd, overflow, unread, orphans, short, datagrams)
}


def main() -> None:
    """Do each kind between its pair of namespaces."""
    file, *words = sys.argv[1:]
    pairs = {kind: names.split(",") for kind, _, names in (word.partition("=") for word in words)}

    def work(kind: str) -> Facts:
        client, server = pairs[kind]
        netns = {"client": inside(client), "server": inside(server)}
        return (LINKS | KINDS)[kind](client, server) | netns

    links = [kind for kind in pairs if kind in LINKS]
    with ThreadPoolExecutor(len(pairs)) as threads:
        facts = dict(zip(links, threads.map(work, links), strict=True))
        for kind in [kind for kind in pairs if kind in KINDS]:
            facts[kind] = threads.submit(work, kind).result()
    Path(file).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
