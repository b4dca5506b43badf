"""Traffic that meets the limits of a whole machine, or not: ``python -m tests.kernels.traffic``.

Arguments are ``strained`` or ``at ease``, and pairs of names of namespaces: the client's and the
server's, by what is done between them. Everything is in this process; a socket stays in the
namespace in which it was made. Limits of the machine are set for as long as what meets them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SERVER = "10.78.0.2"
CONNECTIONS = 60
SETTLE_SECONDS = 1.5
"""For some samples to see what is held."""

_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33

LIMITS = {
    "crowd": {"netfilter/nf_conntrack_max": "64"},
    "unread": {"ipv4/tcp_mem": "100 200 40000"},
    "orphans": {"ipv4/tcp_max_orphans": "16"},
    "datagrams": {"ipv4/udp_mem": "16 32 48"},
}
"""What is lowered for what is done."""


def inside(name: str) -> None:
    """Let this thread make its sockets in a namespace."""
    namespace = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(namespace)


@contextlib.contextmanager
def lowered(limits: dict[str, str]) -> Iterator[None]:
    """Set limits of the machine, and set them back."""
    paths = {Path("/proc/sys/net") / name: value for name, value in limits.items()}
    before = {path: path.read_text() for path in paths}
    for path, value in paths.items():
        path.write_text(value)
    try:
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


def connected(client: str, server: str, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """Open connections between two namespaces; return both ends of each."""
    inside(server)
    with socket.create_server((SERVER, 0), backlog=count) as listener:
        inside(client)
        ends = []
        for _ in range(count):
            one = socket.create_connection(listener.getsockname(), timeout=20)
            ends.append((one, listener.accept()[0]))
    return ends


def bulk(client: str, server: str) -> None:
    """Send 5 MB to one who reads."""
    [(sender, reader)] = connected(client, server, 1)

    def read() -> None:
        while reader.recv(1 << 16):
            pass

    thread = threading.Thread(target=read)
    thread.start()
    sender.settimeout(60)
    sender.sendall(bytes(5_000_000))
    sender.shutdown(socket.SHUT_WR)
    thread.join()
    time.sleep(SETTLE_SECONDS)


def crowd(client: str, server: str) -> None:
    """Hold many connections."""
    ends = connected(client, server, CONNECTIONS)
    time.sleep(SETTLE_SECONDS)
    del ends


def filled(client: str, server: str, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """Open connections whose server never reads what the client has sent."""
    ends = connected(client, server, count)
    for sender, _ in ends:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
    return ends


def unread(client: str, server: str) -> None:
    """Let queues hold what nobody reads."""
    ends = filled(client, server, 10)
    time.sleep(SETTLE_SECONDS)
    del ends


def orphans(client: str, server: str) -> None:
    """Close what still has much to deliver."""
    ends = filled(client, server, 40)
    for sender, _ in ends:
        sender.close()
    time.sleep(SETTLE_SECONDS)


def short(client: str, server: str) -> None:
    """Open connections and close them, the client first."""
    for sender, reader in connected(client, server, 200):
        sender.close()
        reader.close()
    time.sleep(SETTLE_SECONDS)


def datagrams(client: str, server: str) -> None:
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


KINDS: dict[str, Callable[[str, str], None]] = {
    work.__name__: work for work in (bulk, crowd, unread, orphans, short, datagrams)
}


def main() -> None:
    """Do each kind between its pair of namespaces, named KIND=CLIENT,SERVER."""
    strained = sys.argv[1] == "strained"
    for pair in sys.argv[2:]:
        kind, _, names = pair.partition("=")
        client, server = names.split(",")
        with lowered(LIMITS.get(kind, {}) if strained else {}):
            KINDS[kind](client, server)


if __name__ == "__main__":
    main()
