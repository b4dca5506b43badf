#!/usr/bin/env python3
"""A container node: network namespaces with some sockets of many families in each.

    python benchmarks/node.py 110

prints ``ready 110 24``, the sockets of each, once all of them are there, and lives until its
standard input closes. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


class NodeError(Exception):
    """The namespaces could not be made; what failed has said why."""


def _fill() -> list[socket.socket]:
    """Open the sockets of one namespace."""
    kept: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        listener = socket.create_server((address, 0), family=family)
        kept.append(listener)
        for _ in range(2):
            client = socket.socket(family)
            client.connect(listener.getsockname())
            kept += [client, listener.accept()[0]]
        for _ in range(2):
            kept.append(socket.socket(family, socket.SOCK_DGRAM))
            kept[-1].bind((address, 0))
    for _ in range(3):
        kept += socket.socketpair()
    for _ in range(2):
        kept.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        kept[-1].bind((0, 0))
    kept += (socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) for _ in range(2))
    return kept


def _live(told: int) -> None:
    """Be the process of a namespace until killed."""
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if _libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            fcntl.ioctl(one, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        kept = _fill()
        os.write(told, bytes([len(kept)]))
        os.close(told)
        while True:
            signal.pause()
    except OSError as error:
        print(f"node: {error}", file=sys.stderr)
    finally:
        os._exit(1)


def main() -> int:
    """Hold the namespaces named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("namespaces", type=int, metavar="N")
    options = parser.parse_args()
    pids: list[int] = []
    sockets = b""
    try:
        for _ in range(options.namespaces):
            ready, told = os.pipe()
            pids.append(pid := os.fork())
            if pid == 0:
                _live(told)
            os.close(told)
            sockets = os.read(ready, 1)
            os.close(ready)
            if not sockets:
                return 1
        print(f"ready {options.namespaces} {sockets[0]}", flush=True)
        sys.stdin.read()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return 0


@contextlib.contextmanager
def node(namespaces: int) -> Iterator[int]:
    """Hold so many namespaces in other processes; yield how many sockets are in each.

    Raises NodeError if they cannot be made.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(namespaces)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            if words[:1] != ["ready"]:
                raise NodeError(f"{' '.join(command)} ended with {process.wait()}")
            yield int(words[2])
        finally:
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
