"""A UDP receiver with a small buffer stops reading for a while: the kernel drops datagrams."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import with_background
from samples.stage import Facts, Stage

METRICS = (ADDRESS, 8125)
METRIC = b"checkout.paid:1|c".ljust(200, b".")
BUFFER = 32768
PER_SECOND = 400.0
RESUMES = 20.0
UNTIL = 24.0
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8


def drops(receiver: socket.socket) -> int:
    """Return how many datagrams the kernel has dropped at a socket, as it tells its holder."""
    values = receiver.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return int(struct.unpack("9I", values)[SK_MEMINFO_DROPS])


def metrics_agg(stage: Stage) -> Facts:
    """Read metrics; after the healthy time do nothing for 14 s, then read on."""
    received = 0
    hung = False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        receiver.bind(METRICS)
        receiver.settimeout(0.1)
        while not stage.over():
            if not hung and stage.now() >= HEALTHY:
                stage.wait(RESUMES)
                hung = True
            with contextlib.suppress(TimeoutError):
                receiver.recv(512)
                received += 1
        return {"received": received, "dropped": drops(receiver)}


def checkout_api(stage: Stage) -> Facts:
    """Send metrics at an even pace."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(METRICS)
        for _ in stage.beats(PER_SECOND, 0.5, UNTIL):
            sender.send(METRIC)
            sent += 1
        while stage.sleep(0.2):
            pass
    return {"sent": sent}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: sent by one, received by the other, dropped says the kernel."""
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(RESUMES),
        "sent": facts["checkout-api"]["sent"],
        "received": facts["metrics-agg"]["received"],
        "dropped": facts["metrics-agg"]["dropped"],
    }


INCIDENT = Incident(
    name="udp_drops",
    story="metrics-agg reads nothing for 14 s; its receive buffer of 64 KiB holds a fraction of a "
    "second of what checkout-api sends, and the kernel drops the rest.",
    finding="udp_drops",
    comm="metrics-agg",
    subject=f"{METRICS[0]}:{METRICS[1]}",
    seconds=26,
    processes=with_background({"metrics-agg": metrics_agg, "checkout-api": checkout_api}),
    numbers=numbers,
    interval="500ms",
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
