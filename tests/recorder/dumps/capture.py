#!/usr/bin/env python3
"""Capture raw sock_diag dumps of the running kernel as test data.

    python tests/recorder/dumps/capture.py [DIRECTORY]

needs root. It makes a small mixed population in a network namespace of its own, so that nothing of
this machine is captured, asks the kernel with plain sockets (no code of the recorder), and writes
one file per table: the datagrams of one dump one after the other, NLMSG_DONE included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SEQ = 20_251_122
"""Sequence number of every request, and so of every message of the answers."""

TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY = 18, 20
NLMSG_DONE, INET_DIAG_MD5SIG = 3, 18
CLONE_NEWNET = 0x40000000
CONNECTIONS = 18


def request(kind: int, body: bytes) -> bytes:
    """Return a dump request."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0x301, SEQ, 0) + body


def requests() -> dict[str, bytes]:
    """Name the dumps: every extension (0xff), every TCP state to 13, everything unix can show."""
    sockid, states = bytes(48), 0x3FFE
    legacy = struct.pack("=BBBB", socket.AF_INET, 0, 0, 0xFF) + sockid
    udp = struct.pack("=BBxI", socket.IPPROTO_UDP, 0xFF, states) + sockid
    unix = struct.pack("=BBxxIIIII", socket.AF_UNIX, 0, 0xFFFFFFFF, 0, 0x7F, 0, 0)
    return {
        "tcp": request(TCPDIAG_GETSOCK, legacy + struct.pack("=II", states, 0)),
        "udp4": request(SOCK_DIAG_BY_FAMILY, bytes([socket.AF_INET]) + udp),
        "udp6": request(SOCK_DIAG_BY_FAMILY, bytes([socket.AF_INET6]) + udp),
        "unix": request(SOCK_DIAG_BY_FAMILY, unix),
    }


def dump(body: bytes) -> bytes:
    """Return the datagrams of one dump, joined."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
        diag.bind((0, 0))
        diag.send(body)
        answer = b""
        while True:
            datagram = diag.recv(32_768)
            answer += datagram
            if _ends(datagram):
                return answer


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at : at + length]
        at += (length + 3) & ~3


def _ends(datagram: bytes) -> bool:
    return any(kind == NLMSG_DONE for kind, _ in _messages(datagram))


def _carries_md5(data: bytes) -> bool:
    for kind, message in _messages(data):
        at = 16 + 72
        while kind in (TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY) and at + 4 <= len(message):
            length, attribute = struct.unpack_from("=HH", message, at)
            if attribute == INET_DIAG_MD5SIG:
                return True
            at += (max(length, 4) + 3) & ~3
    return False


def populate(keep: contextlib.ExitStack) -> None:
    """Open sockets of many layouts: families, congestion controls, states, options."""
    inet, inet6 = socket.AF_INET, socket.AF_INET6
    ways = [(inet, "127.0.0.1"), (inet6, "::1"), (inet6, "::ffff:127.0.0.1")]
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    turns = [None, *available]
    for number in range(CONNECTIONS):
        family, address = ways[number % 3]
        listener = keep.enter_context(socket.socket(family))
        listener.bind((address, 0))
        listener.listen(2)
        client = keep.enter_context(socket.socket(family))
        turn = turns[number // 3 % len(turns)]
        if turn:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, turn.encode())
        if number % 5 == 0:
            client.setsockopt(socket.SOL_SOCKET, 36, 0x5EC)  # SO_MARK
        client.connect(listener.getsockname())
        if number % 4 != 3:  # else it stays in the accept queue
            server = keep.enter_context(listener.accept()[0])
            server.sendall(b"x" * number)
            if number % 6 == 1:
                client.shutdown(socket.SHUT_WR)
            elif number % 6 == 2:
                server.close()
                client.close()  # the server's side goes to TIME-WAIT
    with contextlib.suppress(OSError):
        listener = keep.enter_context(socket.socket(inet, socket.SOCK_STREAM, 262))  # MPTCP
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = keep.enter_context(socket.socket(inet, socket.SOCK_STREAM, 262))
        client.connect(listener.getsockname())
        keep.enter_context(listener.accept()[0])
    for number in range(24):
        family, address = ways[number % 3]
        receiver = keep.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        receiver.bind((address, 0))
        sender = keep.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sender.connect(receiver.getsockname())
        sender.send(b"x" * number)
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        for name in ("\0sockrec-dump", f"/tmp/sockrec-dump-{kind}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name.lstrip("\0"))
            listener = keep.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(name + f".{kind}" if name[0] == "\0" else name)
            if name[0] != "\0":
                keep.callback(os.unlink, name)
            listener.listen(8)
            for _ in range(4):
                client = keep.enter_context(socket.socket(socket.AF_UNIX, kind))
                client.connect(listener.getsockname())
            keep.enter_context(listener.accept()[0])
    for _ in range(30):
        for one in socket.socketpair():
            keep.enter_context(one)


def main() -> None:
    """Write the dumps to the directory named, or to this one."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise SystemExit(f"unshare: {os.strerror(ctypes.get_errno())}; run as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with contextlib.ExitStack() as keep:
        populate(keep)
        time.sleep(0.5)
        for name, body in requests().items():
            data = dump(body)
            assert len(data) <= 60_000, (name, len(data))
            assert not _carries_md5(data), name
            (directory / f"{name}.bin").write_bytes(data)
            print(f"{name}: {len(data)} bytes, {sum(1 for _ in _messages(data)) - 1} sockets")


if __name__ == "__main__":
    main()
