"""A client reads too slowly: its receive queue is full and the server cannot send."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import serve_in_threads, with_background
from samples.stage import Facts, Stage

DATABASE = (ADDRESS, 5432)
ROWS = bytes(65536)
PER_SECOND = 20.0
SLOW = 8192
"""Bytes that the slow reader takes at a time, ten times a second."""


def report_db(stage: Stage) -> Facts:
    """Stream rows at an even pace to whoever sends its name; know since when each is blocked."""
    sent: dict[str, int] = {}
    sending_since: dict[str, float] = {}

    def answer(connection: socket.socket) -> None:
        name = connection.recv(64).decode()
        sent[name] = 0
        for _ in stage.beats(PER_SECOND, 0.0, 3600.0):
            sending_since[name] = stage.now()
            connection.sendall(ROWS)
            sent[name] += len(ROWS)

    serve_in_threads(socket.create_server(DATABASE), answer)
    while stage.sleep(0.5):
        pass
    return {"sent": sent, "sending_since": sending_since}


def unread(connection: socket.socket) -> int:
    """Return the bytes in the receive queue, as the kernel tells their reader."""
    answer = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


def report_job(stage: Stage) -> Facts:
    """Read what comes; after the healthy time take a little, think, take a little."""
    connection = socket.create_connection(DATABASE)
    connection.sendall(b"report-job")
    connection.settimeout(0.1)
    total = 0
    while stage.now() < HEALTHY:
        try:
            total += len(connection.recv(262144))
        except TimeoutError:
            continue
    before = total
    while stage.sleep(0.1):
        total += len(connection.recv(SLOW))
    return {"read": total, "read_slowly": total - before, "unread": unread(connection)}


def dashboard(stage: Stage) -> Facts:
    """Read the same rows as they come."""
    connection = socket.create_connection(DATABASE)
    connection.sendall(b"dashboard")
    connection.settimeout(0.1)
    total = 0
    while not stage.over():
        try:
            total += len(connection.recv(262144))
        except TimeoutError:
            continue
    return {"read": total}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: what each has read, and what lay in the reader's queue at the end.

    The block that has waited for room since ``sender_blocked_us`` is not among the bytes sent.
    """
    return {
        "began_us": stage.utc_us(HEALTHY),
        "bytes_read": facts["report-job"]["read"],
        "bytes_read_slowly": facts["report-job"]["read_slowly"],
        "recv_q_at_end": facts["report-job"]["unread"],
        "bytes_sent_at_least": facts["report-db"]["sent"]["report-job"],
        "sender_blocked_us": stage.utc_us(facts["report-db"]["sending_since"]["report-job"]),
        "bytes_read_by_dashboard": facts["dashboard"]["read"],
    }


INCIDENT = Incident(
    name="slow_reader",
    story="report-job reads 80 kB/s of the 1.3 MB/s that report-db streams: its receive queue is "
    "full and report-db waits for it; dashboard reads the same stream without trouble.",
    finding="reader_stalled",
    comm="report-job",
    subject=f"{DATABASE[0]}:{DATABASE[1]}",
    seconds=30,
    processes=with_background(
        {"report-db": report_db, "report-job": report_job, "dashboard": dashboard}
    ),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
