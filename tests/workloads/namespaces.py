#!/usr/bin/env python3
"""Network namespaces that come and go, and what is true of each.

    python -m tests.workloads.namespaces --count 20 --rate 20 --life 1 --truth FILE

makes namespaces of three kinds in turn: with a name, as ``ip netns add`` makes them; with a
process and no name; with both, and then the process holds a listener inside. ``--hold`` keeps all
of them until standard input closes, instead of deleting each after ``--life``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.workloads.netns import MOUNTS, inode_of, ip, unique_name

CLONE_NEWNET = 0x40000000
MS_BIND, MNT_DETACH = 4096, 2
COMM = "sockrec-netns"
PORT = 7100

NAMED, UNNAMED, LISTENING = range(3)


@dataclass
class Truth:
    """A namespace; times are µs UTC.

    It was about to be made at ``born_us`` and was there at ``there_us``; those that held it were
    about to be told to let go at ``gone_us``, and none was left at ``left_us``.
    """

    netns: int
    name: str | None
    pid: int | None
    sockets: int
    born_us: int
    there_us: int = 0
    gone_us: int = 0
    left_us: int = 0


class NamespaceError(Exception):
    """A namespace could not be made; says why."""


_libc = ctypes.CDLL(None, use_errno=True)


def _check(answer: int, what: str) -> None:
    if answer:
        raise NamespaceError(f"{what}: {os.strerror(ctypes.get_errno())}")


def make(kind: int, sockets: int = 0) -> Truth:
    """Make a namespace of a kind; one that is LISTENING holds that many listeners."""
    name = None if kind == UNNAMED else unique_name()
    born = time.time_ns() // 1000
    if kind == NAMED and name is not None:
        ip("netns", "add", name)
        return Truth(inode_of(name), name, None, 0, born)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live(told, sockets if kind == LISTENING else 0)
    os.close(told)
    answer = os.read(ready, 16)
    os.close(ready)
    if not answer:
        raise NamespaceError(f"process {pid} could not enter a namespace of its own; see above")
    truth = Truth(int(answer), name, pid, sockets if kind == LISTENING else 0, born)
    if name is not None:
        MOUNTS.mkdir(exist_ok=True)
        (MOUNTS / name).touch()
        source, target = f"/proc/{pid}/ns/net".encode(), bytes(MOUNTS / name)
        _check(_libc.mount(source, target, b"none", MS_BIND, None), f"mount of {name}")
    return truth


def _live(told: int, sockets: int) -> None:
    """Be the process of a namespace until killed."""
    try:
        for interrupt in (signal.SIGINT, signal.SIGTERM):
            signal.signal(interrupt, signal.SIG_DFL)
        Path("/proc/self/comm").write_text(COMM)
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        kept = []
        for number in range(sockets):
            one = socket.socket()
            one.bind(("0.0.0.0", PORT + number))
            one.listen(1)
            kept.append(one)
        os.write(told, str(os.stat("/proc/self/ns/net").st_ino).encode())
        os.close(told)
        while True:
            signal.pause()
    except (OSError, NamespaceError) as error:
        print(f"{COMM}: {error}", file=sys.stderr)
    finally:
        os._exit(1)


def delete(truth: Truth) -> None:
    """Take the name and the process from a namespace."""
    truth.gone_us = time.time_ns() // 1000
    if truth.name is not None:
        target = bytes(MOUNTS / truth.name)
        _check(_libc.umount2(target, MNT_DETACH), f"unmount of {truth.name}")
        os.unlink(target)
    if truth.pid is not None:
        os.kill(truth.pid, signal.SIGKILL)
        os.waitpid(truth.pid, 0)
    truth.left_us = time.time_ns() // 1000


def come_and_go(count: int, rate: float, life: float) -> list[Truth]:
    """Make namespaces at a rate and delete each after its life; return all of them."""
    truths: list[Truth] = []
    living: deque[tuple[float, Truth]] = deque()
    start = time.monotonic()
    try:
        while len(truths) < count or living:
            birth = start + len(truths) / rate if len(truths) < count else float("inf")
            death = living[0][0] if living else float("inf")
            time.sleep(max(0.0, min(birth, death) - time.monotonic()))
            if death <= birth:
                delete(living.popleft()[1])
            else:
                truths.append(make(len(truths) % 3, sockets=2))
                truths[-1].there_us = time.time_ns() // 1000
                living.append((time.monotonic() + life, truths[-1]))
    finally:
        for _, truth in living:
            delete(truth)
    return truths


def hold(count: int, sockets: int) -> None:
    """Hold named namespaces, with listeners in each if any, until standard input closes."""
    truths: list[Truth] = []
    try:
        for _ in range(count):
            truths.append(make(LISTENING if sockets else NAMED, sockets))
        print(json.dumps([truth.netns for truth in truths]), flush=True)
        sys.stdin.read()
    finally:
        for truth in truths:
            delete(truth)


def main() -> int:
    """Make the namespaces named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rate", type=float, default=20, help="namespaces made a second")
    parser.add_argument("--life", type=float, default=1.0, help="seconds each of them lives")
    parser.add_argument("--hold", action="store_true", help="keep them until stdin closes")
    parser.add_argument("--sockets", type=int, default=0, help="listeners in each, with --hold")
    parser.add_argument("--truth", type=Path, help="file to write it to; default standard output")
    options = parser.parse_args()
    # What ends it ends the namespaces too: those that stay cost every later recorder a look.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.hold:
        hold(options.count, options.sockets)
        return 0
    truths = come_and_go(options.count, options.rate, options.life)
    text = json.dumps([asdict(truth) for truth in truths])
    if options.truth:
        options.truth.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
