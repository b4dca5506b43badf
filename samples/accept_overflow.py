"""A server stops accepting while its clients go on: its accept queue overflows."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, kernel_counter, main
from samples.services import REPLY, REQUEST, ask, read, with_background
from samples.stage import Facts, Stage

CHECKOUT = (ADDRESS, 8081)
BACKLOG = 16
PER_SECOND = 12.0
PATIENCE = 2.0
RESUMES = 22.0
UNTIL = 25.0


def overflows() -> int:
    """Return how often a full accept queue made the kernel drop."""
    return kernel_counter("netstat", "TcpExt.ListenOverflows")


def checkout_api(stage: Stage) -> Facts:
    """Serve one connection after the other; after the healthy time hang for a while."""
    listener = socket.create_server(CHECKOUT, backlog=BACKLOG)
    listener.settimeout(0.1)
    served = 0
    dropped = None
    while not stage.over():
        if dropped is None and stage.now() >= HEALTHY:
            before = overflows()
            stage.wait(RESUMES)
            dropped = overflows() - before
        with contextlib.suppress(TimeoutError, ConnectionError):
            connection, _ = listener.accept()
            with connection:
                if read(connection, len(REQUEST)):
                    connection.sendall(REPLY)
                    served += 1
    return {"served": served, "overflows": dropped}


def edge_proxy(stage: Stage) -> Facts:
    """Open a connection for each request; give up when there is no answer in time."""
    ends: Counter[str] = Counter()
    lock = threading.Lock()

    def request() -> None:
        end = "not connected"
        try:
            with socket.create_connection(CHECKOUT, PATIENCE) as connection:
                end = "no reply"
                ask(connection)
                end = "answered"
        except OSError:
            pass
        with lock:
            ends[end] += 1

    threads = []
    for _ in stage.beats(PER_SECOND, 0.5, UNTIL):
        threads.append(threading.Thread(target=request, daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    while stage.sleep(0.5):
        pass
    return {"attempts": len(threads), "ends": dict(ends)}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: how its clients fared, and what the kernel counted during the hang."""
    ends = facts["edge-proxy"]["ends"]
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(RESUMES),
        "backlog": BACKLOG,
        "attempts": facts["edge-proxy"]["attempts"],
        "answered": ends["answered"],
        "not_connected": ends["not connected"],
        "no_reply": ends.get("no reply", 0),
        "listen_overflows": facts["checkout-api"]["overflows"],
    }


INCIDENT = Incident(
    name="accept_overflow",
    story="checkout-api hangs for 16 s and accepts nothing; its accept queue of 16 is full after "
    "two seconds, the kernel drops what edge-proxy sends, and requests fail until it resumes.",
    finding="accept_queue",
    comm="checkout-api",
    subject=f"{CHECKOUT[0]}:{CHECKOUT[1]}",
    seconds=28,
    processes=with_background({"checkout-api": checkout_api, "edge-proxy": edge_proxy}),
    numbers=numbers,
    interval="500ms",
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
