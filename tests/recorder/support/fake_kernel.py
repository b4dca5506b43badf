"""A kernel's end of a netlink socket that answers dump requests as a test wants."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

PORTID = 4711
Reply = Callable[[int], list[bytes]]


def message(seq: int, kind: int, body: bytes, portid: int = PORTID) -> bytes:
    data = struct.pack("=IHHII", 16 + len(body), kind, 2, seq, portid) + body
    return data + bytes(-len(data) % 4)


def done(seq: int, code: int = 0) -> bytes:
    return message(seq, 3, struct.pack("=i", code))


def row(cookie: int) -> bytes:
    body = bytearray(72)
    body[0:2] = b"\2\1"
    struct.pack_into("=Q", body, 44, cookie)
    return bytes(body)


class FakeKernel:
    """Answers each request on its end of a socket pair with what ``reply`` makes of its number.

    ``requests`` are the message types that were asked for.
    """

    def __init__(self, *replies: Reply) -> None:
        self._replies = iter(replies)
        self.connections = 0
        self.requests: list[int] = []

    def connect(self) -> tuple[socket.socket, int]:
        self.connections += 1
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.settimeout(0.2)
        threading.Thread(target=self._serve, args=(far,), daemon=True).start()
        return near, PORTID

    def _serve(self, far: socket.socket) -> None:
        with far:
            while request := far.recv(4096):
                self.requests.append(struct.unpack_from("=H", request, 4)[0])
                for datagram in next(self._replies)(struct.unpack_from("=I", request, 8)[0]):
                    far.send(datagram)
