"""The network swallows what a host sends to a peer: data waits, retransmitted in vain."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Mapping

from samples.incident import HEALTHY, Incident, main, run
from samples.services import with_background
from samples.stage import Facts, Stage, StageError

COLLECTOR = ("198.51.100.20", 6514)
GATEWAY = "192.0.2.1"
OWN = "192.0.2.11"
LINE = b"<134>1 web1 checkout-api - - - paid\n".ljust(1024, b".")
PER_SECOND = 50.0
CLONE_NEWNET = 0x40000000


def collector(stage: Stage) -> Facts:
    """Be another host behind a gateway and read the log; then let the gateway lose the way to it.

    From then on that gateway takes every packet and drops it without a word.
    """
    return read_behind_gateway(
        stage,
        ("ip", "address", "delete", f"{COLLECTOR[0]}/32", "dev", "lo"),
        ("ip", "route", "add", "blackhole", f"{COLLECTOR[0]}/32"),
    )


def read_behind_gateway(stage: Stage, *loss: tuple[str, ...]) -> Facts:
    """Be that host, and run the commands that make the loss when the healthy beginning is over."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "eth0", "netns", "1")
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{COLLECTOR[0]}/32", "dev", "lo")
    run("ip", "address", "add", f"{GATEWAY}/24", "dev", "gw0")
    run("ip", "link", "set", "gw0", "up")
    listener = socket.create_server(COLLECTOR)
    listener.settimeout(10)
    connection, _ = listener.accept()
    connection.settimeout(0.1)
    received = 0
    lost = None
    while not stage.over():
        if lost is None and stage.now() >= HEALTHY:
            for command in loss:
                run(*command)
            lost = stage.now()
        with contextlib.suppress(TimeoutError):
            received += len(connection.recv(65536))
    return {"received": received, "lost_at": lost}


def connect_to_network() -> None:
    """Configure the interface that the other host has laid."""
    until = time.monotonic() + 10
    while "eth0" not in (name for _, name in socket.if_nameindex()):
        if time.monotonic() > until:
            raise StageError("eth0 did not appear in 10 s")
        time.sleep(0.05)
    run("ip", "address", "add", f"{OWN}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "route", "add", "default", "via", GATEWAY)


def connect_to_collector() -> socket.socket:
    """Connect as soon as the other host listens."""
    until = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(COLLECTOR, 1.0)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def unacknowledged(connection: socket.socket) -> int:
    """Return the bytes in the send queue, as the kernel tells their sender (SIOCOUTQ)."""
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])


def log_shipper(stage: Stage) -> Facts:
    """Send log lines at an even pace, without waiting for room."""
    connect_to_network()
    connection = connect_to_collector()
    connection.setblocking(False)
    sent = refused = 0
    for _ in stage.beats(PER_SECOND, 0.0, 3600.0):
        try:
            sent += connection.send(LINE)
        except BlockingIOError:
            refused += 1
    return {"sent": sent, "refused": refused, "unacknowledged": unacknowledged(connection)}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: what was sent, and what the peer says it has received."""
    shipper, peer = facts["log-shipper"], facts["collector"]
    return {
        "began_us": stage.utc_us(peer["lost_at"]),
        "bytes_sent": shipper["sent"],
        "bytes_received_by_peer": peer["received"],
        "send_q_at_end": shipper["unacknowledged"],
        "lines_refused": shipper["refused"],
    }


INCIDENT = Incident(
    name="stalled_sender",
    story="The way to the log collector is lost and packets vanish without a word: what "
    "log-shipper sends stays in its send queue, retransmitted in vain at ever longer intervals.",
    finding="network_stall",
    comm="log-shipper",
    subject=f"{COLLECTOR[0]}:{COLLECTOR[1]}",
    seconds=34,
    processes=with_background({"collector": collector, "log-shipper": log_shipper}),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
