"""A client opens a connection for every request and closes it first: TIME-WAIT piles up."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main, time_waits
from samples.services import ask, server, with_background
from samples.stage import Facts, Stage

PAYMENTS = (ADDRESS, 8443)
PORTS = (32768, 35767)
PER_SECOND = 120.0
UNTIL = 24.0


def payments(stage: Stage) -> Facts:
    """Reply, and close when the client has."""
    return server(PAYMENTS, stage)


def checkout_api(stage: Stage) -> Facts:
    """Lose the connection pool at the end of the healthy time: one connection a request."""
    pooled = socket.create_connection(PAYMENTS)
    while stage.now() < HEALTHY and stage.sleep(0.1):
        ask(pooled)
    opened = 0
    for _ in stage.beats(PER_SECOND, HEALTHY, UNTIL):
        with socket.create_connection(PAYMENTS) as connection:
            ask(connection)
        opened += 1
    left = time_waits()
    while stage.sleep(0.1):
        ask(pooled)
    return {"opened": opened, "time_waits": left}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: a TIME-WAIT lasts a minute, so that every connection left one."""
    client = facts["checkout-api"]
    ports = PORTS[1] - PORTS[0] + 1
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(UNTIL),
        "opened": client["opened"],
        "closed_first": "local",
        "time_waits_at_end": client["time_waits"],
        "ports": ports,
        "ports_percent": round(100 * client["opened"] / ports, 1),
    }


INCIDENT = Incident(
    name="time_wait_storm",
    story="checkout-api lost its connection pool: it opens 120 connections a second to payments "
    "and closes each first, until 72 % of the 3,000 local ports lie in TIME-WAIT.",
    finding="time_wait",
    comm="checkout-api",
    subject=f"{PAYMENTS[0]}:{PAYMENTS[1]}",
    seconds=28,
    processes=with_background({"payments": payments, "checkout-api": checkout_api}),
    numbers=numbers,
    sysctls={"net.ipv4.ip_local_port_range": f"{PORTS[0]} {PORTS[1]}"},
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
