"""Keeps sockets open and notes what is true of them, in the words of the ``sockets`` table."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from typing import TypeAlias

Truth: TypeAlias = dict[str, int | str | bool | None]

V4, V6 = socket.AF_INET, socket.AF_INET6
FAMILY_NAMES: dict[int, str] = {V4: "inet", V6: "inet6"}

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: close() resets the connection and leaves no TIME-WAIT socket."""

NOBODY: Truth = {"inode": 0, "pid": None}
"""Sockets no descriptor leads to."""


def loopback() -> Truth:
    """Return what is true of a socket bound to the loopback interface."""
    return {"interface": socket.if_nametoindex("lo")}


def inode_of(one: socket.socket) -> int:
    """Return the inode of a socket."""
    return os.fstat(one.fileno()).st_ino


def lists_bound() -> bool:
    """Tell whether this kernel lists TCP sockets that are bound and neither listen nor connect."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor.partition("-")[0])) >= (6, 8)


def _ioctl(one: socket.socket, request: int) -> int:
    (value,) = struct.unpack("i", fcntl.ioctl(one.fileno(), request, bytes(4)))
    return int(value)


class Keeper:
    """Keeps what a workload opens; ``truths`` grows as sockets are made."""

    def __init__(self) -> None:
        self.truths: list[Truth] = []
        self._open: list[socket.socket] = []
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Reset every connection and close every socket."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def share(self, descriptors: list[int]) -> None:
        """Note that another process, younger than this one, holds these descriptors too."""
        for truth in self.truths:
            if truth.get("fd") in descriptors and truth.get("pid") == os.getpid():
                truth["holders"] = 2

    def duplicate(self, descriptor: int) -> None:
        """Open a second descriptor, a higher one, for the same socket."""
        self._descriptors.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, descriptor))

    def keep(self, one: socket.socket) -> socket.socket:
        """Keep a socket open as long as this keeper."""
        self._open.append(one)
        return one

    def listen(self, family: int, address: str, rcvbuf: int = 0) -> socket.socket:
        """Open a listener that is not noted; accepted sockets inherit its receive buffer."""
        listener = self.keep(socket.socket(family))
        if rcvbuf:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        listener.bind((address, 0))
        listener.listen(16)
        return listener

    def connect(
        self, listener: socket.socket, *, keep: bool = True, rcvbuf: int = 0
    ) -> tuple[socket.socket, socket.socket]:
        """Open a connection to a listener; return the client's end and the accepted one."""
        client = socket.socket(listener.family)
        if rcvbuf:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        client.connect(listener.getsockname())
        server = listener.accept()[0]
        if keep:
            self.keep(client)
            self.keep(server)
        return client, server

    def add(self, netid: str, state: str | None, **columns: int | str | bool | None) -> None:
        """Note a socket of which only these columns are known."""
        truth: Truth = {"netid": netid}
        if state is not None:
            truth["state"] = state
        self.truths.append(truth | columns)

    def owner(self, one: socket.socket) -> Truth:
        """Return the columns that say who holds a socket of this process."""
        return {"inode": inode_of(one), "pid": os.getpid(), "fd": one.fileno(), "holders": 1}

    def addresses(
        self, one: socket.socket, *, peer: tuple[str, int] | None = None, swap: bool = False
    ) -> Truth:
        """Return both addresses of a socket, or those of its peer's end."""
        local = one.getsockname()
        if peer is None:
            try:
                peer = one.getpeername()
            except OSError:
                peer = ("::" if one.family == V6 else "0.0.0.0", 0)
        first, second = (peer, local) if swap else (local, peer)
        return {
            "family": FAMILY_NAMES[one.family],
            "local_addr": first[0],
            "local_port": first[1],
            "peer_addr": second[0],
            "peer_port": second[1],
        }

    def inet(
        self,
        netid: str,
        one: socket.socket,
        state: str,
        peer: tuple[str, int] | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        """Note a TCP or UDP socket; ``peer`` is needed where getpeername fails."""
        known = self.addresses(one, peer=peer) | self.owner(one)
        known["uid"] = os.getuid()
        self.add(netid, state, **(known | columns))

    def tcp(
        self,
        one: socket.socket,
        state: str,
        peer: tuple[str, int] | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        """Note a TCP socket."""
        self.inet("tcp", one, state, peer, **columns)

    def unix_socket(
        self,
        netid: str,
        one: socket.socket,
        state: str | None,
        peer: socket.socket | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        """Note a unix socket and the peer it is connected to."""
        known: Truth = {"family": "unix", "uid": os.getuid(), **self.owner(one)}
        if peer is not None:
            known["peer_inode"] = inode_of(peer)
        self.add(netid, state, **(known | columns))

    def measure_queues(self) -> None:
        """Check the queues against ioctl, and take from it those of full windows."""
        mine = {one.fileno(): one for one in self._open if one.family in (V4, V6)}
        for truth in self.truths:
            one = mine.get(int(truth.get("fd") or -1))
            if truth["netid"] != "tcp" or one is None or truth.get("ulp") == "mptcp":
                continue
            if truth["state"] in ("LISTEN", "UNCONN", "SYN-SENT"):
                continue
            sent = _ioctl(one, termios.TIOCOUTQ)
            received = _ioctl(one, termios.FIONREAD)
            fin = truth["state"] in ("CLOSE-WAIT", "LAST-ACK")  # a FIN received counts
            if "recv_q" not in truth:
                truth |= {"recv_q": received + fin, "send_q": sent}
            assert truth["send_q"] == sent, (truth, sent)
            assert truth["recv_q"] == received + fin, (truth, received)
