"""The gateway of a host goes silent: nobody answers on the link, and what goes that way waits."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from samples import stalled_sender
from samples.incident import Incident, main, sysctl
from samples.services import with_background
from samples.stage import Facts, Stage
from samples.stalled_sender import (
    COLLECTOR,
    GATEWAY,
    LINE,
    PER_SECOND,
    connect_to_collector,
    connect_to_network,
    read_behind_gateway,
    unacknowledged,
)


def collector(stage: Stage) -> Facts:
    """Be another host behind a gateway and read the log; then have that gateway lose its address.

    Its link stays up, but nobody answers there any more who has that address.
    """
    return read_behind_gateway(
        stage,
        ("ip", "link", "set", "gw0", "arp", "off"),
        ("ip", "address", "delete", f"{COLLECTOR[0]}/32", "dev", "lo"),
        ("ip", "address", "delete", f"{GATEWAY}/24", "dev", "gw0"),
    )


def log_shipper(stage: Stage) -> Facts:
    """Send log lines at an even pace, without waiting, and ask again who is at the link."""
    connect_to_network()
    for name, value in (("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1")):
        sysctl(f"net.ipv4.neigh.eth0.{name}", value)
    connection = connect_to_collector()
    connection.setblocking(False)
    sent = refused = 0
    for _ in stage.beats(PER_SECOND, 0.0, 3600.0):
        try:
            sent += connection.send(LINE)
        except BlockingIOError:
            refused += 1
        except OSError:  # EHOSTUNREACH, as the kernel finds nobody who has that address
            refused += 1
    return {"sent": sent, "refused": refused, "unacknowledged": unacknowledged(connection)}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: what was sent, and what the peer says it has received."""
    return {**stalled_sender.numbers(facts, stage), "connections": 1}


INCIDENT = Incident(
    name="gateway_lost",
    story="The gateway goes silent: its link stays up, but nobody there answers for its address, "
    "so that nothing leaves the host and what log-shipper sends waits.",
    finding="next_hop",
    comm="log-shipper",
    subject=f"next hop {GATEWAY}",
    seconds=30,
    processes=with_background({"collector": collector, "log-shipper": log_shipper}),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
