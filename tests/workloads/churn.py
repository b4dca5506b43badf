#!/usr/bin/env python3
"""Short TCP connections on loopback at a steady rate, every one of them counted.

    ip netns exec NAME python tests/workloads/churn.py --rate 5000 --seconds 30 --truth FILE

makes connections between pairs of a server and a client process and writes the truth as JSON. A
third of them is closed by the client first, a third by the server first and a third by a reset.
Run it in a network namespace of its own, whose counters are part of the truth. Each connection is
two sockets, so the kernel counts ``2 * connected + refused`` opens.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

CLIENT_FIRST, SERVER_FIRST, BY_RESET = range(3)
FIRST_PORT = 20_001
REFUSED_PORT = 19_999
BACKLOG = 4096

ADDRESSES = [f"127.0.0.{number}" for number in range(1, 17)]
"""Destinations in turn, so that TIME-WAIT sockets do not use up the ports of one."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close() resets the connection and leaves no TIME-WAIT socket."""


@dataclass
class Truth:
    """What was done; ``kernel`` is by how much the namespace's counters grew."""

    connected: int = 0
    refused: int = 0
    client_bytes: int = 0
    server_bytes: int = 0
    seconds: float = 0.0
    servers: list[int] = field(default_factory=list)
    clients: list[int] = field(default_factory=list)
    server_ports: list[int] = field(default_factory=list)
    kernel: dict[str, int] = field(default_factory=dict)

    @property
    def opens(self) -> int:
        """Sockets that became, or tried to become, one end of a connection."""
        return 2 * self.connected + self.refused


class ChurnError(Exception):
    """A process of the workload failed, so that its truth is unknown."""


def ports_of(pair: int) -> list[int]:
    """Return the ports of a pair's server, by who closes first."""
    return [FIRST_PORT + 3 * pair + way for way in (CLIENT_FIRST, SERVER_FIRST, BY_RESET)]


def listen(pair: int) -> list[socket.socket]:
    """Open a pair's listeners."""
    listeners = []
    for port in ports_of(pair):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(BACKLOG)
        listeners.append(listener)
    return listeners


def serve(listeners: list[socket.socket], count: int) -> int:
    """Serve that many connections, in the order the client makes them; return the bytes sent."""
    sent = 0
    for number in range(count):
        way = number % 3
        one, _ = listeners[way].accept()
        if way == SERVER_FIRST:
            sent += one.send(_payload(number))
        else:
            try:
                while one.recv(4096):
                    pass
            except ConnectionResetError:
                assert way == BY_RESET
        one.close()
    return sent


def connect(pair: int, count: int, rate: float, refused: int) -> int:
    """Make that many connections, ``rate`` a second, and as many in vain; return the bytes sent."""
    ports = ports_of(pair)
    sent = 0
    start = time.monotonic()
    for number in range(count):
        early = start + number / rate - time.monotonic()
        if early > 0.001:
            time.sleep(early)
        way = number % 3
        address = ADDRESSES[number % len(ADDRESSES)]
        one = socket.socket()
        one.connect((address, ports[way]))
        if way == CLIENT_FIRST:
            sent += one.send(_payload(number))
        elif way == SERVER_FIRST:
            while one.recv(4096):
                pass
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.close()
        if number * refused // count != (number + 1) * refused // count:
            vain = socket.socket()
            try:
                vain.connect((address, REFUSED_PORT))
            except ConnectionRefusedError:
                vain.close()
            else:
                raise ChurnError(f"port {REFUSED_PORT} is not closed")
    return sent


def _payload(number: int) -> bytes:
    return bytes(1 + number % 500)


def opens() -> dict[str, int]:
    """Return the namespace's counters of connections."""
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Tcp:"))
    counters = dict(zip(names, map(int, values), strict=True))
    return {name: counters[name] for name in ("ActiveOpens", "PassiveOpens", "AttemptFails")}


def _fork(name: str, action: Callable[[], int], life: int) -> tuple[int, int]:
    """Run an action in a child that lives until ``life`` ends; return its pid and its answer."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(reading)
        Path("/proc/self/comm").write_text(name)
        os.write(writing, str(action()).encode())
        os.close(writing)
        os.read(life, 1)
        code = 0
    except (OSError, ChurnError) as error:
        print(f"{name}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def _answer(reading: int) -> int:
    text = os.read(reading, 64)
    os.close(reading)
    if not text:
        raise ChurnError("a process failed; see above")
    return int(text)


def churn(rate: float, seconds: float, pairs: int, refused: int, linger: float) -> Truth:
    """Make the connections of ``seconds``; the processes live ``linger`` seconds longer."""
    truth = Truth(refused=refused)
    each = round(rate * seconds / pairs)
    truth.connected = each * pairs
    before = opens()
    # only the parent has the writing end, so its death ends every child
    life, alive = os.pipe()
    servers, clients = [], []
    begun = time.monotonic()
    for pair in range(pairs):
        listeners = listen(pair)
        truth.server_ports += ports_of(pair)

        def serve_pair(listeners: list[socket.socket] = listeners) -> int:
            os.close(alive)
            return serve(listeners, each)

        servers.append(_fork(f"churn-server-{pair}", serve_pair, life))
        for listener in listeners:
            listener.close()
    for pair in range(pairs):
        vain = refused // pairs + (pair < refused % pairs)

        def connect_pair(pair: int = pair, vain: int = vain) -> int:
            os.close(alive)
            return connect(pair, each, rate / pairs, vain)

        clients.append(_fork(f"churn-client-{pair}", connect_pair, life))
    truth.clients = [pid for pid, _ in clients]
    truth.servers = [pid for pid, _ in servers]
    try:
        truth.client_bytes = sum(_answer(reading) for _, reading in clients)
        truth.server_bytes = sum(_answer(reading) for _, reading in servers)
        truth.seconds = time.monotonic() - begun
        after = opens()
        truth.kernel = {name: after[name] - before[name] for name in before}
        time.sleep(linger)
    finally:
        os.close(alive)
        for pid in truth.clients + truth.servers:
            os.waitpid(pid, 0)
    return truth


def main() -> int:
    """Make the connections named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=1000, help="connections a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--pairs", type=int, default=2, help="of a server and a client process")
    parser.add_argument("--refused", type=int, default=0, help="connections tried in vain besides")
    parser.add_argument("--linger", type=float, default=0.3, help="seconds to live on afterwards")
    parser.add_argument("--truth", type=Path, help="file to write it to; default standard output")
    options = parser.parse_args()
    truth = churn(options.rate, options.seconds, options.pairs, options.refused, options.linger)
    text = json.dumps(asdict(truth))
    if options.truth:
        options.truth.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
