#!/usr/bin/env python3
"""A population of established loopback TCP sockets, held by several processes for benchmarks.

    python benchmarks/population.py 100000 --mixed --active 0.1

prints ``ready 100000`` once all of them are open and lives until its standard input closes. Both
ends of a connection count. Nothing is left behind but the TIME-WAIT sockets that were asked for:
the connections are reset, not closed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPARE_DESCRIPTORS = 200
"""Descriptors a holder needs besides its connections: listeners, pipes, the interpreter's own."""

TIME_WAIT_SECONDS = 60
"""How long the kernel keeps a TIME-WAIT socket (TCP_TIMEWAIT_LEN in net/tcp.h)."""

SLICES = 20
"""Parts a second of activity is spread over, so that no burst meets a sample."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close() resets the connection and leaves no TIME-WAIT socket."""


class PopulationError(Exception):
    """The population could not be made; says what to change."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a connection is made: one layout of messages in a kernel dump."""

    family: socket.AddressFamily
    mapped: bool
    congestion: str | None


def kinds(mixed: bool) -> list[Kind]:
    """List the kinds to interleave; half of the mixed ones use BBR where the kernel has it."""
    if not mixed:
        return [Kind(socket.AF_INET, False, None)]
    path = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    available = path.read_text().split()
    loss_based = [name for name in ("cubic", "reno") if name in available]
    turns = [turn for name in loss_based for turn in ("bbr", name) if turn in available]
    families = [(socket.AF_INET, False), (socket.AF_INET6, False), (socket.AF_INET6, True)]
    if not Path("/proc/net/if_inet6").exists():
        families = families[:1]
    return [Kind(family, mapped, turn) for turn in turns for family, mapped in families]


def connections_of(sockets: int, processes: int) -> list[int]:
    """Divide the connections among the processes, within the limit on open files."""
    if sockets < 2 or sockets % 2:
        raise PopulationError(f"{sockets} sockets are not whole connections: give an even number")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = (limit - SPARE_DESCRIPTORS) // 2
    total = sockets // 2
    processes = processes or max(2, -(-total // min(room, 8_000)))
    shares = [total // processes + (k < total % processes) for k in range(processes)]
    if shares[0] > room:
        raise PopulationError(
            f"{processes} processes hold {processes * room * 2} sockets under an open-files limit "
            f"of {limit}: raise --processes"
        )
    return shares


class Holder:
    """One process's share of the population."""

    def __init__(self, number: int, mixed: bool) -> None:
        self.kinds = kinds(mixed)
        self.number = number
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.listeners = [self._listener(kind, k) for k, kind in enumerate(self._doors())]

    def _doors(self) -> list[Kind]:
        """Give every kind a listener, and uniform populations four, so that ports suffice."""
        return self.kinds if len(self.kinds) >= 4 else self.kinds * 4

    def _listener(self, kind: Kind, k: int) -> tuple[socket.socket, Any, Kind]:
        listener = socket.socket(kind.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit both options.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if kind.congestion:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, kind.congestion.encode())
        address = f"127.0.{self.number % 200 + 1}.{k % 200 + 1}"
        if kind.mapped:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            address = f"::ffff:{address}"
        elif kind.family == socket.AF_INET6:
            address = "::1"
        listener.bind((address, 0))
        listener.listen(1024)
        return listener, listener.getsockname(), kind

    def connect(self, turn: int) -> tuple[socket.socket, socket.socket]:
        """Open one connection of the kind whose turn it is; return client and server end."""
        listener, address, kind = self.listeners[turn % len(self.listeners)]
        client = socket.socket(kind.family)
        if kind.congestion:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, kind.congestion.encode())
        client.connect(address)
        return client, listener.accept()[0]

    def fill(self, connections: int) -> None:
        for turn in range(connections):
            client, server = self.connect(turn)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.pairs.append((client, server))

    def time_wait(self, count: int) -> None:
        """Leave that many TIME-WAIT sockets, on the client's side."""
        for turn in range(count):
            client, server = self.connect(turn)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            client.close()
            server.close()

    def live(self, active: float, time_waits: int, alive: Callable[[float], bool]) -> None:
        """Exchange bytes on a fixed share of the connections until ``alive(timeout)`` says no."""
        if not active and not time_waits:
            while alive(3600.0):
                pass
            return
        step = 1 / active if active else 0
        chosen = [self.pairs[int(k * step)] for k in range(int(len(self.pairs) * active))]
        due = time.monotonic()
        owed = 0.0
        for turn in _forever(SLICES):
            for client, server in chosen[turn::SLICES]:
                client.send(b"ping")
                server.recv(16)
                server.send(b"pong!")
                client.recv(16)
            owed += time_waits / TIME_WAIT_SECONDS / SLICES
            self.time_wait(int(owed))
            owed -= int(owed)
            due = max(due + 1 / SLICES, time.monotonic() - 1)
            if not alive(max(0.0, due - time.monotonic())):
                return

    def close(self) -> None:
        for client, server in self.pairs:
            server.close()
            client.close()
        for listener, _, _ in self.listeners:
            listener.close()


def _forever(slices: int) -> Iterator[int]:
    while True:
        yield from range(slices)


def _hold(
    number: int, connections: int, options: argparse.Namespace, report: int, life: int
) -> None:
    """Be one holder: fill, report, and live until ``life`` reaches its end."""
    Path("/proc/self/comm").write_text(f"population-{number}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    holder = Holder(number, options.mixed)
    holder.fill(connections)
    time_waits = options.time_waits // options.processes
    holder.time_wait(time_waits)
    os.write(report, b".")
    os.close(report)
    holder.live(
        options.active, time_waits, lambda timeout: not select.select([life], [], [], timeout)[0]
    )
    holder.close()


def _start(shares: list[int], options: argparse.Namespace) -> tuple[list[int], int]:
    """Start a holder per share, wait until all are full; return their pids and the life line."""
    report_read, report_write = os.pipe()
    life_read, life_write = os.pipe()
    pids = []
    for number, connections in enumerate(shares):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.close(life_write)
                os.close(report_read)
                _hold(number, connections, options, report_write, life_read)
                code = 0
            except OSError as error:
                print(f"population-{number}: {error}", file=sys.stderr)
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(report_write)
    os.close(life_read)
    full = 0
    while heard := os.read(report_read, 4096):
        full += len(heard)
    os.close(report_read)
    if full < len(shares):
        os.close(life_write)
        _reap(pids)
        raise PopulationError(f"{len(shares) - full} of {len(shares)} holders failed")
    return pids, life_write


def _reap(pids: list[int]) -> int:
    """Wait for the holders; return how many of them failed."""
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Hold N established loopback TCP sockets until standard input closes."
    )
    parser.add_argument("sockets", type=int, metavar="N", help="sockets; both ends count")
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="interleave IPv4, IPv6, v4-mapped, congestion controls and TIME-WAITs",
    )
    parser.add_argument(
        "--active",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the connections that exchange a few bytes each second",
    )
    parser.add_argument(
        "--processes", type=int, default=0, metavar="M", help="holders; default: as many as needed"
    )
    parser.add_argument(
        "--time-waits",
        type=int,
        default=None,
        metavar="T",
        help="TIME-WAIT sockets kept besides the N; default: N/20 if mixed, else none",
    )
    return parser


def main() -> int:
    """Hold the population named on the command line."""
    options = _parser().parse_args()
    if not 0 <= options.active <= 1:
        _parser().error("--active is a share, 0 to 1")
    if options.time_waits is None:
        options.time_waits = options.sockets // 20 if options.mixed else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        shares = connections_of(options.sockets, options.processes)
        options.processes = len(shares)
        pids, life = _start(shares, options)
    except PopulationError as error:
        print(f"population: {error}", file=sys.stderr)
        return 1
    try:
        print(f"ready {options.sockets}", flush=True)
        while os.read(0, 4096):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        os.close(life)
        failed = _reap(pids)
    return 1 if failed else 0


@contextlib.contextmanager
def population(
    sockets: int, *, mixed: bool = False, active: float = 0.0, processes: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Hold that many sockets in other processes while the context lasts.

    Raises PopulationError if they cannot be made.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(sockets)]
    command += ["--mixed"] * mixed
    command += ["--active", str(active), "--processes", str(processes)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != f"ready {sockets}\n":
                raise PopulationError(f"{' '.join(command)} ended with {process.wait()}")
            yield process
        finally:
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
