"""A client opens more connections to one server than it has local ports: connect fails."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import ask, server, with_background
from samples.stage import Facts, Stage

CACHE = (ADDRESS, 6379)
PORTS = (20000, 20299)
PER_SECOND = 20.0
UNTIL = 27.0


def cache(stage: Stage) -> Facts:
    """Reply as long as a connection lasts."""
    return server(CACHE, stage)


def session_sync(stage: Stage) -> Facts:
    """Take a new connection for every session, keep it, and go on when there are no more."""
    pool = [socket.create_connection(CACHE) for _ in range(4)]
    failures = 0
    first_failure = None
    for _ in stage.beats(PER_SECOND, HEALTHY, UNTIL):
        try:
            pool.append(socket.create_connection(CACHE))
            ask(pool[-1])
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            failures += 1
            first_failure = first_failure or stage.now()
    while stage.sleep(0.2):
        ask(pool[0])
    return {"held": len(pool), "failures": failures, "first_failure": first_failure}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: ports held, and how often connect failed for want of one."""
    client = facts["session-sync"]
    return {
        "began_us": stage.utc_us(HEALTHY),
        "exhausted_us": stage.utc_us(client["first_failure"]),
        "until_us": stage.utc_us(UNTIL),
        "ports": PORTS[1] - PORTS[0] + 1,
        "held": client["held"],
        "connects_failed": client["failures"],
    }


INCIDENT = Incident(
    name="port_exhaustion",
    story="session-sync takes a new connection to cache for every session and keeps it, until all "
    "300 local ports are in use and connect fails with EADDRNOTAVAIL.",
    finding="port_exhaustion",
    comm="session-sync",
    subject=f"{CACHE[0]}:{CACHE[1]}",
    seconds=30,
    processes=with_background({"cache": cache, "session-sync": session_sync}),
    numbers=numbers,
    sysctls={"net.ipv4.ip_local_port_range": f"{PORTS[0]} {PORTS[1]}"},
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
