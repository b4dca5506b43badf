#!/usr/bin/env python3
"""Sockets of one kind, held for benchmarks.

    python benchmarks/families.py unix 20000

prints ``ready 20000`` once all of them are open and lives until its standard input closes. Some
kinds need root.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPTCP = 132, 136, 262
AF_XDP, AF_SMC = 44, 43
VMADDR_ANY = 0xFFFFFFFF
ETH_P_LOCAL = 0x88B5

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close() resets the connection and leaves no TIME-WAIT socket."""


class FamiliesError(Exception):
    """The sockets could not be made; says why."""


def _unix(count: int) -> Iterator[socket.socket]:
    for _ in range(count // 2):
        yield from socket.socketpair()


def _bound(
    family: int, kind: int, protocol: int = 0, address: Any = ("127.0.0.1", 0)
) -> Callable[[int], Iterator[socket.socket]]:
    """Return what makes sockets bound to an address; to none if that is None."""

    def make(count: int) -> Iterator[socket.socket]:
        for _ in range(count):
            one = socket.socket(family, kind, protocol)
            if address is not None:
                one.bind(address)
            yield one

    return make


def _connections(protocol: int) -> Callable[[int], Iterator[socket.socket]]:
    """Return what makes connections, both ends of which count and are reset at their end."""

    def make(count: int) -> Iterator[socket.socket]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield listener
        for _ in range(count // 2):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
            one.connect(listener.getsockname())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            yield one
            yield listener.accept()[0]

    return make


V4, RAW, DGRAM, STREAM = socket.AF_INET, socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM

KINDS: dict[str, Callable[[int], Iterator[socket.socket]]] = {
    "tcp": _connections(0),
    "mptcp": _connections(IPPROTO_MPTCP),
    "udp": _bound(V4, DGRAM),
    "udplite": _bound(V4, DGRAM, IPPROTO_UDPLITE),
    "raw": _bound(V4, RAW, socket.IPPROTO_ICMP, None),
    "sctp": _bound(V4, STREAM, IPPROTO_SCTP),
    "unix": _unix,
    "packet": _bound(socket.AF_PACKET, RAW, 0, ("lo", ETH_P_LOCAL)),
    "netlink": _bound(socket.AF_NETLINK, RAW, socket.NETLINK_ROUTE, (0, 1)),
    "vsock": _bound(socket.AF_VSOCK, STREAM, 0, (VMADDR_ANY, VMADDR_ANY)),
    "xdp": _bound(AF_XDP, RAW, 0, None),
    "tipc": _bound(socket.AF_TIPC, socket.SOCK_RDM, 0, None),
    "smc": _bound(AF_SMC, STREAM, 0, None),
}
"""By the name of the recorder's step."""


@contextlib.contextmanager
def sockets_of(kind: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """Hold that many sockets of a kind in another process while the context lasts.

    Raises FamiliesError if they cannot be made.
    """
    command = [sys.executable, str(Path(__file__).resolve()), kind, str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if (answer := process.stdout.readline()) != f"ready {count}\n":
                raise FamiliesError(answer.strip() or f"{kind}: ended with {process.wait()}")
            yield process
        finally:
            process.stdin.close()
            process.wait()


def main() -> int:
    """Hold the sockets named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("sockets", type=int, metavar="N")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        kept = list(KINDS[options.kind](options.sockets))
    except OSError as error:
        print(f"{options.kind}: {error.strerror}")
        return 1
    print(f"ready {options.sockets}", flush=True)
    sys.stdin.read()
    for one in kept:
        one.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
