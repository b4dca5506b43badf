"""Keeps real sockets busy on loopback for some seconds: something for a demo to record."""

import argparse
import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

HELD = 80
"""Held TCP connections: two sockets each."""


def echo(listener: socket.socket) -> None:
    """Accept connections and answer each with what it sends until it is shut."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Send back what arrives, close when the peer has shut."""
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


def listen(family: socket.AddressFamily, host: str) -> socket.socket:
    """Return a TCP listener on a free port with a thread that echoes."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen(128)
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    return listener


def listeners() -> Iterator[socket.socket]:
    """Yield a listener per address family that this host has."""
    yield listen(socket.AF_INET, "127.0.0.1")
    if socket.has_ipv6:
        with contextlib.suppress(OSError):
            yield listen(socket.AF_INET6, "::1")


def hold_stuck(stack: contextlib.ExitStack) -> None:
    """Open a listener that never accepts and a connection whose peer never reads."""
    backlogged = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=8))
    for _ in range(5):
        stack.enter_context(socket.create_connection(backlogged.getsockname()))
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    sender = stack.enter_context(socket.create_connection(server.getsockname()))
    stack.enter_context(server.accept()[0])
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(65536))


def hold_udp_and_unix(stack: contextlib.ExitStack) -> None:
    """Open UDP sockets, one with datagrams nobody reads, and unix sockets of each type."""
    for _ in range(6):
        receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(("127.0.0.1", 0))
        sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.connect(receiver.getsockname())
        sender.send(b"nobody reads this")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        for end in socket.socketpair(socket.AF_UNIX, kind):
            stack.enter_context(end)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sockrec-demo-"))
    named = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    named.bind(os.path.join(directory, "listener"))
    named.listen(16)
    client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    client.connect(named.getsockname())


def churn(addresses: list[tuple[socket.AddressFamily, tuple[str, int]]], until: float) -> int:
    """Open, use and close short connections until then; return how many."""
    opened = 0
    while time.monotonic() < until:
        family, address = addresses[opened % len(addresses)]
        with socket.socket(family, socket.SOCK_STREAM) as short:
            short.connect(address)
            short.sendall(b"ping")
            short.recv(16)
        opened += 1
        time.sleep(0.005)
    return opened


def main() -> None:
    """Run the workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="how long to run")
    until = time.monotonic() + parser.parse_args().seconds
    with contextlib.ExitStack() as stack:
        addresses = []
        for listener in listeners():
            stack.enter_context(listener)
            addresses.append((listener.family, listener.getsockname()[:2]))
        hold_stuck(stack)
        hold_udp_and_unix(stack)
        held = []
        for number in range(HELD):
            family, address = addresses[number % len(addresses)]
            connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            connection.connect(address)
            held.append(connection)
        for connection in held[::2]:
            connection.sendall(bytes(20_000))
        opened = churn(addresses, until)
    print(f"demo: held {HELD} connections, opened and closed {opened} more")


if __name__ == "__main__":
    main()
