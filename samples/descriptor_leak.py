"""A process opens a socket for each job and never closes one, towards its limit of descriptors."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import CATALOG, ask, with_background
from samples.stage import Facts, Stage

STATSD = (ADDRESS, 8125)
LIMIT = 512
PER_SECOND = 20.0
UNTIL = 30.0


def statsd(stage: Stage) -> Facts:
    """Read metrics."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(STATSD)
        service.settimeout(0.1)
        while not stage.over():
            try:
                service.recv(512)
            except TimeoutError:
                continue
            received += 1
    return {"received": received}


def image_worker(stage: Stage) -> Facts:
    """Send a metric for each job: over one socket, after the healthy time over a new one each."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    catalog = socket.create_connection(CATALOG)
    sockets = [metrics_socket()]
    while stage.now() < HEALTHY and stage.sleep(0.1):
        sockets[0].send(b"jobs:1|c")
        ask(catalog)
    leaked = 0
    for _ in stage.beats(PER_SECOND, HEALTHY, UNTIL):
        sockets.append(metrics_socket())
        sockets[-1].send(b"jobs:1|c")
        leaked += 1
    while stage.sleep(0.2):
        ask(catalog)
    return {"leaked": leaked, "descriptors": len(os.listdir("/proc/self/fd")) - 1}


def metrics_socket() -> socket.socket:
    """Return a socket for metrics."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect(STATSD)
    return made


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: sockets never closed, and how near the limit they came."""
    worker = facts["image-worker"]
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(UNTIL),
        "leaked": worker["leaked"],
        "descriptors_at_end": worker["descriptors"],
        "limit": LIMIT,
        "limit_percent": round(100 * worker["descriptors"] / LIMIT, 1),
    }


INCIDENT = Incident(
    name="descriptor_leak",
    story="image-worker opens a UDP socket to statsd for every job, 20 a second, and closes none: "
    "480 are leaked, and 512 descriptors are all it may have.",
    finding="descriptor_leak",
    comm="image-worker",
    subject=f"{STATSD[0]}:{STATSD[1]}",
    seconds=33,
    processes=with_background({"statsd": statsd, "image-worker": image_worker}),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
