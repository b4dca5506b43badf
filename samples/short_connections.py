"""Hundreds of connections a second that live a few milliseconds: churn that no sample shows."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import REPLY, REQUEST, ask, read, serve_in_threads, with_background
from samples.stage import Facts, Stage

SESSIONS = (ADDRESS, 7000)
LAST = REQUEST.replace(b"GET /item", b"GET /last")
"""The request after whose reply the server closes first."""

PER_SECOND = 250.0
UNTIL = 18.0


def session_store(stage: Stage) -> Facts:
    """Reply; close first where it was asked to, else after the client."""
    closed_first = 0
    lock = threading.Lock()

    def answer(connection: socket.socket) -> None:
        nonlocal closed_first
        with connection:
            while request := read(connection, len(REQUEST)):
                connection.sendall(REPLY)
                if request == LAST:
                    with lock:
                        closed_first += 1
                    return

    serve_in_threads(socket.create_server(SESSIONS, backlog=512), answer)
    while stage.sleep(0.5):
        pass
    return {"closed_first": closed_first}


def cart_api(stage: Stage) -> Facts:
    """Ask over a kept connection, then over new ones; the peer closes every other one first."""
    kept = socket.create_connection(SESSIONS)
    while stage.now() < HEALTHY and stage.sleep(0.1):
        ask(kept)
    opened = closed_first = 0
    longest = 0.0
    for number in stage.beats(PER_SECOND, HEALTHY, UNTIL):
        began = time.monotonic()
        with socket.create_connection(SESSIONS) as connection:
            if number % 2:
                ask(connection)
                closed_first += 1
            else:
                ask(connection, LAST)
                connection.recv(1)
        opened += 1
        longest = max(longest, time.monotonic() - began)
    while stage.sleep(0.2):
        ask(kept)
    return {"opened": opened, "closed_first": closed_first, "longest": longest}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: connections, who closed them first, and how long the longest lived."""
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(UNTIL),
        "opened": facts["cart-api"]["opened"],
        "closed_first_by_client": facts["cart-api"]["closed_first"],
        "closed_first_by_server": facts["session-store"]["closed_first"],
        "longest_us": round(facts["cart-api"]["longest"] * 1e6),
    }


INCIDENT = Incident(
    name="short_connections",
    story="cart-api opens 250 connections a second to session-store for 12 s; each lives some "
    "milliseconds, so that hardly any is seen in a sample.",
    finding="short_connections",
    comm="cart-api",
    subject=f"{SESSIONS[0]}:{SESSIONS[1]}",
    seconds=22,
    processes=with_background({"session-store": session_store, "cart-api": cart_api}),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
