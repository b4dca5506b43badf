"""The netlink sockets: one asks for dumps and hands them over in chunks, one hears of closes."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable

import numpy as np

from recorder.kernel.waiting import MOST_BYTES, Waiting, new_seq, tell_broken
from recorder.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    PAD,
    Decode,
    Dump,
    Framing,
    Outcome,
    Words,
    frame,
    request,
)

NETLINK_SOCK_DIAG = 4
DATAGRAM = 32768
"""Room for one datagram: the kernel fills no more, however large the buffer."""
CHUNK = 4 << 20
"""Bytes that are decoded at once. Smaller chunks fit a cache better but cost more calls: measured
over 100,000 sockets, 0.25 MiB took 2.5 times the bare receive loop, 1 MiB 1.8, 4 MiB 1.55."""
TIMEOUT_S = 10.0
DESTROY_GROUPS = 0b1111
"""Multicast groups 1 to 4: closed sockets of TCP and UDP over IPv4 and IPv6 (sock_diag.h)."""
EVENTS_BUFFER = 32 << 20
"""Bytes asked for; the kernel doubles them and charges 1,280 to an event, so some 52,000 fit."""

# asm-generic/socket.h and linux/netlink.h
_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5


class DiagSocket:
    """A NETLINK_SOCK_DIAG socket of the network namespace in which it is made.

    One dump at a time. After a dump that did not end with NLMSG_DONE or NLMSG_ERROR the socket is
    replaced, so that nothing of it is left for the next one.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[socket.socket, int]] | None = None,
        buffer: Words | None = None,
    ) -> None:
        """``connect`` makes the socket and tells its port number; the default asks the kernel.

        ``buffer``, of ``make_buffer``, may be shared by sockets that dump one after the other.
        """
        self._connect = connect or connect_diag
        self._words = make_buffer() if buffer is None else buffer
        self._view = memoryview(self._words.data).cast("B")
        self._socket, self._portid = self._connect()

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes, decode: Decode, waiting: Waiting | None = None) -> Dump:
        """Run one dump and have its chunks decoded; never raises for what the kernel answers.

        One that is small and ended well is added to ``waiting`` instead, if that is given.
        """
        result = Dump()
        seq = waiting.seq if waiting is not None else new_seq()
        try:
            self._socket.send(request(kind, body, seq))
            ended = self._receive(seq, decode, result, waiting)
        except OSError as error:
            number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno
            result.outcome = Outcome.of_errno(number or errno.EIO, "receiving the dump")
            ended = False
        if not ended:
            self._socket.close()
            with contextlib.suppress(OSError):  # the next dump fails then, and tries again
                self._socket, self._portid = self._connect()
        return result

    def _receive(self, seq: int, decode: Decode, result: Dump, waiting: Waiting | None) -> bool:
        view, receive = self._view, self._socket.recv_into
        ends = _Ends(seq, self._portid)
        corrupt = 0
        first = True
        while True:
            position = 0
            datagrams: list[tuple[int, int]] = []
            truncated = 0
            last = False
            while position < CHUNK and not last:
                room = view[position : position + DATAGRAM]
                size = receive(room, DATAGRAM, socket.MSG_TRUNC)
                result.bytes += size
                if size > DATAGRAM:
                    truncated += 1
                    size = DATAGRAM
                datagrams.append((position, position + size))
                last = ends.are_in(view, position, size)
                position = (position + size + 3) & ~3
            if waiting is not None and first and last and not truncated:
                if position == _DONE_SIZE and ends.well:
                    return True  # nothing but the end
                if position <= MOST_BYTES and ends.well:
                    waiting.add(bytes(view[:position]), datagrams, self._portid, result)
                    return True
            first = False
            view[position : position + PAD] = _ZEROS
            framing = frame(self._words, datagrams, seq, self._portid)
            if truncated:
                framing.corrupt -= min(truncated, framing.corrupt)
                result.outcome = Outcome(
                    "truncated", None, f"{truncated} datagrams were larger than {DATAGRAM} bytes"
                )
            corrupt += framing.corrupt
            if framing.offsets.size:
                decode(self._words[: (position + PAD) // 4], framing, result)
            ended = self._judge(framing, result)
            if ended or (last and corrupt):
                break
        tell_broken(result, corrupt)
        if not ended and result.outcome.name == "ok":
            result.outcome = Outcome("corrupt", None, "the dump ended without its end mark")
        return ended

    def _judge(self, framing: Framing, result: Dump) -> bool:
        for number, where in ((framing.error, "NLMSG_ERROR"), (framing.done, "NLMSG_DONE")):
            if number:
                result.outcome = Outcome.of_errno(number, where)
        return framing.done is not None or framing.error is not None


_ZEROS = bytes(PAD)


def make_buffer() -> Words:
    """Return what a chunk is received into; only what is used of it takes memory."""
    return np.zeros((CHUNK + DATAGRAM + PAD) // 4, np.uint32)


def connect_diag() -> tuple[socket.socket, int]:
    """Open a socket of the kernel's sock_diag family and tell its port number."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    )
    made.bind((0, 0))
    made.settimeout(TIMEOUT_S)
    return made, made.getsockname()[0]


def connect_destroy(buffer: int = EVENTS_BUFFER) -> socket.socket:
    """Open a non-blocking socket that receives an event for each TCP or UDP socket closed.

    It is one of the network namespace of the calling thread, for its life. Any user may have one;
    without CAP_NET_ADMIN its buffer has at most net.core.rmem_max bytes.
    """
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    )
    try:
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        # Else the kernel, once it has dropped one event, drops all until every other is read.
        made.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        made.bind((0, DESTROY_GROUPS))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


class _Ends:
    """Tells a dump's last datagram; no message has its number by accident."""

    def __init__(self, seq: int, portid: int) -> None:
        self._ours = struct.pack("=II", seq, portid)
        self.well = False
        """Whether it ended with NLMSG_DONE and no error."""

    def are_in(self, view: memoryview, start: int, size: int) -> bool:
        """Whether a datagram ends with NLMSG_DONE or is an NLMSG_ERROR."""
        tail = start + max(size - _DONE_SIZE, 0)
        if view[tail : tail + 6] == _DONE and view[tail + 8 : tail + 16] == self._ours:
            self.well = view[tail + 16 : tail + 20] == _NO_ERROR
            return True
        return view[start + 4 : start + 6] == _ERROR and view[start + 8 : start + 16] == self._ours


_DONE_SIZE = 20
_DONE = struct.pack("=IH", _DONE_SIZE, NLMSG_DONE)
_ERROR = struct.pack("=H", NLMSG_ERROR)
_NO_ERROR = bytes(4)
