"""A server forgets to close what its peers have closed: CLOSE-WAIT grows."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from samples.incident import ADDRESS, HEALTHY, Incident, main
from samples.services import REPLY, REQUEST, ask, read, serve_in_threads, with_background
from samples.stage import Facts, Stage

ORDERS = (ADDRESS, 9000)
EXPORT = REQUEST.replace(b"GET /item", b"GET /dump")
"""The request after which the server does not close."""

UNTIL = 74.0


def orders_api(stage: Stage) -> Facts:
    """Reply until the peer closes, then close too; after an export forget that."""
    forgotten: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        last = b""
        while request := read(connection, len(REQUEST)):
            connection.sendall(REPLY)
            last = request
        if last == EXPORT:
            forgotten.append(connection)
        else:
            connection.close()

    serve_in_threads(socket.create_server(ORDERS, backlog=128), answer)
    while stage.sleep(1.0):
        pass
    return {"forgotten": len(forgotten)}


def gateway(stage: Stage) -> Facts:
    """Order over kept and short connections; after the healthy time fetch an export a second."""
    kept = [socket.create_connection(ORDERS) for _ in range(3)]
    short = exports = 0
    while stage.sleep(0.2):
        for connection in kept:
            ask(connection)
        with socket.create_connection(ORDERS) as connection:
            ask(connection)
        short += 0 <= stage.now() < UNTIL
        if HEALTHY + exports <= stage.now() < UNTIL:
            with socket.create_connection(ORDERS) as connection:
                ask(connection, EXPORT)
            exports += 1
    return {"short": short, "exports": exports}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return the truth: what the server has forgotten to close."""
    return {
        "began_us": stage.utc_us(HEALTHY),
        "until_us": stage.utc_us(UNTIL),
        "leaked": facts["orders-api"]["forgotten"],
        "exports": facts["gateway"]["exports"],
        "short_connections_closed": facts["gateway"]["short"],
    }


INCIDENT = Incident(
    name="close_wait_leak",
    story="orders-api forgets to close a connection after each export that gateway fetches, one a "
    "second; its other connections are closed as they should be.",
    finding="close_wait",
    comm="orders-api",
    subject=f"{ORDERS[0]}:{ORDERS[1]}",
    seconds=80,
    processes=with_background({"orders-api": orders_api, "gateway": gateway}),
    numbers=numbers,
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
