"""Servers and clients as any host has them: the healthy part of every incident."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial

from samples.incident import ADDRESS
from samples.stage import Facts, Role, Stage

REQUEST = b"GET /item/000001\n".ljust(128, b".")
REPLY = b"200 OK\n".ljust(600, b".")

Address = tuple[str, int]
Answer = Callable[[socket.socket], None]
"""Serves one accepted connection to its end."""

CATALOG: Address = (ADDRESS, 8080)
RESOLVER: Address = (ADDRESS, 5353)
LOG = "\0logd"
"""Abstract: belongs to the network namespace, and leaves no file."""

_TIMEOUT = 10.0


def read(connection: socket.socket, length: int) -> bytes:
    """Read so many bytes, or none if the peer has closed."""
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            return b""
        data += more
    return data


def ask(connection: socket.socket, request: bytes = REQUEST) -> None:
    """Send a request and read its whole reply; ConnectionError if the server closes before."""
    connection.sendall(request)
    if not read(connection, len(REPLY)):
        raise ConnectionError("the server closed before its reply was whole")


def reply_until_closed(connection: socket.socket) -> None:
    """Reply to every request until the peer closes, then close."""
    with connection:
        while read(connection, len(REQUEST)):
            connection.sendall(REPLY)


def serve_in_threads(listener: socket.socket, answer: Answer) -> None:
    """Accept for ever, with a thread for each connection."""

    def guarded(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            answer(connection)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def server(address: Address, stage: Stage, answer: Answer = reply_until_closed) -> Facts:
    """Serve at an address until the end."""
    listener = socket.create_server(address, backlog=128)
    serve_in_threads(listener, answer)
    while stage.sleep(1.0):
        pass
    return {}


def resolver(stage: Stage) -> Facts:
    """Answer datagrams."""
    answered = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(RESOLVER)
        service.settimeout(0.1)
        while not stage.over():
            with contextlib.suppress(TimeoutError):
                question, client = service.recvfrom(512)
                service.sendto(question, client)
                answered += 1
    return {"answered": answered}


def logd(stage: Stage) -> Facts:
    """Read what others log by a unix socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(LOG)
    listener.listen(16)

    def swallow(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                pass

    serve_in_threads(listener, swallow)
    while stage.sleep(1.0):
        pass
    return {}


def storefront(stage: Stage) -> Facts:
    """Use the catalog over kept connections, now and then over a short one; resolve; log."""
    log = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    log.connect(LOG)
    kept = [socket.create_connection(CATALOG, _TIMEOUT) for _ in range(4)]
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.settimeout(_TIMEOUT)
    names.connect(RESOLVER)
    requests = short = 0
    while stage.sleep(0.1):
        ask(kept[requests % len(kept)])
        requests += 1
        if requests % 10 == 0:
            names.send(b"catalog.internal")
            names.recv(512)
            log.sendall(b"storefront: 10 requests\n")
        if requests % 30 == 0:
            with socket.create_connection(CATALOG, _TIMEOUT) as connection:
                ask(connection)
            short += 1
    return {"requests": requests, "short": short}


def with_background(roles: Mapping[str, Role]) -> dict[str, Role]:
    """Return these roles after those of a healthy host."""
    healthy: dict[str, Role] = {
        "catalog": partial(server, CATALOG),
        "resolver": resolver,
        "logd": logd,
        "storefront": storefront,
    }
    return {**healthy, **roles}
