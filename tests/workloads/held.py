"""Sockets that stand still and whose truth is known: what a recorder must find, field by field.

``held()`` holds them in this process, ``held_by_child()`` in another one, whose name is
``sockrec-held``. Run as a script it prints the truth as JSON, one row a line and then an empty
line, and lives until its standard input closes.

A truth is a row in the words of the ``sockets`` table, with only the columns that the workload
knows without asking sock_diag: from the calls it made, from ioctl and from fstat.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Truth: TypeAlias = dict[str, int | str | bool | None]

COMM = "sockrec-held"

MD5_KEY = "never-record-me"
"""The TCP-MD5 key of one connection."""

SOCKOPT_MARK = 36
IP_TOS, IPV6_TCLASS = 1, 67
TCP_DEFER_ACCEPT, TCP_MD5SIG, TCP_ULP = 9, 14, 31
IPPROTO_MPTCP = 262
RESET = struct.pack("ii", 1, 0)
SETTLE_SECONDS = 1.2
"""By then delayed acknowledgements are out, and the first SYN was sent again."""

V4, V6 = socket.AF_INET, socket.AF_INET6
FAMILY_NAMES: dict[int, str] = {V4: "inet", V6: "inet6"}


class Workload:
    """Makes the sockets and keeps them open; ``truths`` grows as they are made."""

    def __init__(self, directory: Path) -> None:
        self.truths: list[Truth] = []
        self.missing: list[str] = []
        """What this kernel or user cannot do, one sentence each."""
        self._directory = directory
        self._open: list[socket.socket] = []
        self._descriptors: list[int] = []
        self._somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def fill(self, connections: int) -> None:
        """Make everything; ``connections`` is the number of plain established connections."""
        self._connections(connections)
        self._listeners()
        self._half_closed()
        self._stuck()
        self._unfinished()
        self._time_waits()
        self._options()
        self._datagrams()
        self._unix()
        time.sleep(SETTLE_SECONDS)
        self._measure_queues()

    # TCP

    def _connections(self, count: int) -> None:
        ways = [(V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1"), (V4, "127.9.8.7")]
        listeners = [self._listen(family, address) for family, address in ways]
        for number in range(count):
            client, server = self._connect(listeners[number % len(listeners)])
            # sizes below the initial window, so that all of it arrives and is acknowledged
            to_server, to_client = number * 37 % 5000, number * 11 % 700 if number % 3 else 0
            client.sendall(b"x" * to_server)
            server.sendall(b"y" * to_client)
            self._tcp(client, "ESTAB", recv_q=to_client, send_q=0, bytes_received=to_client)
            self._tcp(server, "ESTAB", recv_q=to_server, send_q=0, bytes_received=to_server)

    def _listeners(self) -> None:
        cases = itertools.product([(V4, "127.0.0.1"), (V6, "::1")], [(1, 0), (5, 3), (9999, 7)])
        for (family, address), (backlog, waiting) in cases:
            listener = self._keep(socket.socket(family))
            listener.bind((address, 0))
            listener.listen(backlog)
            for number in range(waiting):
                client = self._keep(socket.socket(family))
                client.connect(listener.getsockname())
                client.sendall(b"z" * number)
                self._tcp(client, "ESTAB", recv_q=0, send_q=0)
                unaccepted = self._addresses(client, swap=True)
                self._add("tcp", "ESTAB", **unaccepted, recv_q=number, send_q=0, **_NOBODY)
            limit = min(backlog, self._somaxconn)
            self._tcp(listener, "LISTEN", recv_q=waiting, send_q=limit)
        for v6only in (False, True):
            listener = self._keep(socket.socket(V6))
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            listener.bind(("::", 0))
            listener.listen(3)
            self._tcp(listener, "LISTEN", recv_q=0, send_q=3, v6only=v6only)
        bound = self._keep(socket.socket(V4))
        bound.bind(("127.0.0.1", 0))
        self._tcp(bound, "UNCONN", recv_q=0, send_q=0)

    def _half_closed(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            for unread in (0, 100):
                client, server = self._connect(self._listen(family, address))
                client.sendall(b"x" * unread)
                client.shutdown(socket.SHUT_WR)
                self._tcp(client, "FIN-WAIT-2", recv_q=0, send_q=0, shutdown=2)
                # the FIN counts as one byte
                self._tcp(server, "CLOSE-WAIT", recv_q=unread + 1, send_q=0, shutdown=1)

    def _stuck(self) -> None:
        """Fill the peer's window: send queues that stand still while their timers run."""
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            client, server = self._connect(self._listen(family, address, rcvbuf=4096))
            self._overfill(client)
            self._tcp(client, "ESTAB")
            self._tcp(server, "ESTAB")
        client, server = self._connect(self._listen(V4, "127.0.0.1", rcvbuf=4096))
        self._overfill(client)
        client.shutdown(socket.SHUT_WR)
        self._tcp(client, "FIN-WAIT-1", shutdown=2)
        self._tcp(server, "ESTAB", shutdown=0)
        listener = self._listen(V4, "127.0.0.1")
        client, server = self._connect(listener, rcvbuf=4096)
        self._overfill(server)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        server.shutdown(socket.SHUT_WR)
        self._tcp(client, "FIN-WAIT-2", shutdown=2)
        self._tcp(server, "LAST-ACK", shutdown=3)

    def _overfill(self, sender: socket.socket) -> None:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
        idle = 0
        while idle < 5:
            try:
                sender.send(b"x" * 4096)
                idle = 0
            except BlockingIOError:
                idle += 1
                time.sleep(0.02)

    def _unfinished(self) -> None:
        """Leave connections whose handshake cannot end."""
        full = self._keep(socket.socket(V4))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        client = self._keep(socket.socket(V4))
        client.connect(full.getsockname())
        self._tcp(client, "ESTAB", recv_q=0, send_q=0)
        self._tcp(full, "LISTEN", recv_q=1, send_q=0)
        unanswered = self._keep(socket.socket(V4))
        unanswered.setblocking(False)
        assert unanswered.connect_ex(full.getsockname()) == errno.EINPROGRESS
        self._tcp(unanswered, "SYN-SENT", full.getsockname(), recv_q=0, send_q=1, timer="on")
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            deferring = self._listen(family, address)
            deferring.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, 60)
            silent = self._keep(socket.socket(family))
            silent.connect(deferring.getsockname())
            self._tcp(silent, "ESTAB", recv_q=0, send_q=0)
            request = self._addresses(silent, swap=True)
            self._add(
                "tcp", "SYN-RECV", **request, recv_q=0, send_q=0, timer="on", uid=0, **_NOBODY
            )

    def _time_waits(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1")):
            listener = self._listen(family, address)
            for _ in range(4):
                client, server = self._connect(listener, keep=False)
                addresses = self._addresses(client)
                client.close()
                server.close()
                self._add(
                    "tcp",
                    "TIME-WAIT",
                    **addresses,
                    **_NOBODY,
                    recv_q=0,
                    send_q=0,
                    timer="timewait",
                    uid=0,
                )

    def _options(self) -> None:
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
        for name in available.split():
            client, server = self._connect(self._listen(V4, "127.0.0.1"))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            client.sendall(b"x" * 10)
            self._tcp(client, "ESTAB", recv_q=0, send_q=0, cong=name)
            self._tcp(server, "ESTAB", recv_q=10, send_q=0)
        settings: list[tuple[int, str, int, int, int | bytes, Truth]] = [
            (V4, "127.0.0.1", socket.SOL_SOCKET, SOCKOPT_MARK, 0x5EC, {"mark": 0x5EC}),
            (V4, "127.0.0.1", socket.SOL_SOCKET, socket.SO_PRIORITY, 5, {"class_id": 5}),
            (V4, "127.0.0.1", socket.IPPROTO_IP, IP_TOS, 0x10, {"tos": 0x10}),
            (V6, "::1", socket.IPPROTO_IPV6, IPV6_TCLASS, 0x20, {"tclass": 0x20}),
            (V4, "127.0.0.1", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo", _lo()),
            (V6, "::1", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo", _lo()),
        ]
        for family, address, level, option, value, truth in settings:
            client = self._keep(socket.socket(family))
            try:
                client.setsockopt(level, option, value)
            except OSError as error:
                self.missing.append(f"{next(iter(truth))}: {error.strerror}")
                continue
            listener = self._listen(family, address)
            client.connect(listener.getsockname())
            server = self._keep(listener.accept()[0])
            self._tcp(client, "ESTAB", recv_q=0, send_q=0, **truth)
            self._tcp(server, "ESTAB", recv_q=0, send_q=0)
        self._upper_layers()
        self._signed()

    def _upper_layers(self) -> None:
        client, _ = self._connect(self._listen(V4, "127.0.0.1"))
        try:
            client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            self._tcp(client, "ESTAB", ulp="tls")
        except OSError as error:
            self.missing.append(f"TLS in the kernel: {error.strerror}")
        try:
            listener = self._keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            client = self._keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            client.connect(listener.getsockname())
            client.sendall(b"x" * 20)
            server = self._keep(listener.accept()[0])
        except OSError as error:
            self.missing.append(f"MPTCP: {error.strerror}")
            return
        for end in (client, server):
            self._add("tcp", "ESTAB", **self._addresses(end), **self._owner(end), ulp="mptcp")

    def _signed(self) -> None:
        """Connect under a TCP-MD5 key, which must never be seen in a recording."""
        listener = self._listen(V4, "127.0.0.1")
        client = self._keep(socket.socket(V4))
        address = struct.pack("=HH4s", V4, 0, socket.inet_aton("127.0.0.1")).ljust(128, b"\0")
        key = MD5_KEY.encode()
        option = address + struct.pack("=BBHi80s", 0, 0, len(key), 0, key)
        try:
            listener.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, option)
            client.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, option)
        except OSError as error:
            self.missing.append(f"TCP-MD5: {error.strerror}")
            return
        client.connect(listener.getsockname())
        server = self._keep(listener.accept()[0])
        self._tcp(client, "ESTAB", md5_keys=1)
        self._tcp(server, "ESTAB", md5_keys=1)
        self._tcp(listener, "LISTEN", md5_keys=1)

    # UDP

    def _datagrams(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V4, "0.0.0.0"), (V6, "::")):
            server = self._keep(socket.socket(family, socket.SOCK_DGRAM))
            server.bind((address, 0))
            self._inet("udp", server, "UNCONN", recv_q=0, send_q=0)
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1")):
            receiver = self._keep(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((address, 0))
            sender = self._keep(socket.socket(family, socket.SOCK_DGRAM))
            sender.connect(receiver.getsockname())
            for size in (100, 100):
                sender.send(b"x" * size)
            self._inet("udp", receiver, "UNCONN", send_q=0)
            self._inet("udp", sender, "ESTAB", recv_q=0, send_q=0)

    # unix

    def _unix(self) -> None:
        kinds = {"u_str": socket.SOCK_STREAM, "u_seq": socket.SOCK_SEQPACKET}
        for (netid, kind), abstract in itertools.product(kinds.items(), (False, True)):
            name = f"{COMM}.{os.getpid()}.{netid}"
            path = f"@{name}" if abstract else str(self._directory / name)
            listener = self._keep(socket.socket(socket.AF_UNIX, kind))
            listener.bind(path.replace("@", "\0") if abstract else path)
            listener.listen(8)
            client = self._keep(socket.socket(socket.AF_UNIX, kind))
            client.connect(listener.getsockname())
            server = self._keep(listener.accept()[0])
            client.send(b"x" * 33)
            self._unix_socket(netid, client, "ESTAB", server, recv_q=0)
            self._unix_socket(netid, server, "ESTAB", client, local_addr=path, recv_q=33, send_q=0)
            waiting = []
            for _ in range(3):
                one = self._keep(socket.socket(socket.AF_UNIX, kind))
                one.connect(listener.getsockname())
                self._unix_socket(netid, one, "ESTAB", recv_q=0, send_q=0, peer_inode=0)
                waiting.append(str(_inode(one)))
            bound: Truth = {} if abstract else {"vfs_inode": os.stat(path).st_ino}
            clients: Truth = {"icons": ",".join(waiting)}
            self._unix_socket(
                netid, listener, "LISTEN", local_addr=path, recv_q=3, send_q=8, **bound, **clients
            )
        left, right = (self._keep(one) for one in socket.socketpair())
        left.send(b"x" * 10)
        left.shutdown(socket.SHUT_WR)
        self._unix_socket("u_str", left, "ESTAB", right, local_addr=None, shutdown=2)
        self._unix_socket("u_str", right, "ESTAB", left, recv_q=10, send_q=0, shutdown=1)
        path = str(self._directory / "dgram with blank")
        receiver = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(path)
        self._unix_socket("u_dgr", receiver, None, local_addr=path, recv_q=7, send_q=0)
        sender = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sender.connect(path)
        for size in (7, 70):  # Recv-Q is the size of the first datagram
            sender.send(b"x" * size)
        self._unix_socket("u_dgr", sender, "ESTAB", receiver, local_addr=None)
        alone = self._keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._unix_socket("u_str", alone, "UNCONN", local_addr=None, recv_q=0, send_q=0)

    # sharing

    def share(self, descriptors: list[int]) -> None:
        """Note that another process, younger than this one, holds these descriptors too."""
        for truth in self.truths:
            if truth.get("fd") in descriptors and truth.get("pid") == os.getpid():
                truth["holders"] = 2

    def duplicate(self, descriptor: int) -> None:
        """Open a second descriptor, a higher one, for the same socket."""
        self._descriptors.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, descriptor))

    # what all have in common

    def _keep(self, one: socket.socket) -> socket.socket:
        self._open.append(one)
        return one

    def _listen(self, family: int, address: str, rcvbuf: int = 0) -> socket.socket:
        listener = self._keep(socket.socket(family))
        if rcvbuf:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        listener.bind((address, 0))
        listener.listen(16)
        return listener

    def _connect(
        self, listener: socket.socket, *, keep: bool = True, rcvbuf: int = 0
    ) -> tuple[socket.socket, socket.socket]:
        client = socket.socket(listener.family)
        if rcvbuf:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        client.connect(listener.getsockname())
        server = listener.accept()[0]
        if keep:
            self._keep(client)
            self._keep(server)
        return client, server

    def _add(self, netid: str, state: str | None, **columns: int | str | bool | None) -> None:
        truth: Truth = {"netid": netid}
        if state is not None:
            truth["state"] = state
        self.truths.append(truth | columns)

    def _owner(self, one: socket.socket) -> Truth:
        return {"inode": _inode(one), "pid": os.getpid(), "fd": one.fileno(), "holders": 1}

    def _addresses(
        self, one: socket.socket, *, peer: tuple[str, int] | None = None, swap: bool = False
    ) -> Truth:
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

    def _inet(
        self,
        netid: str,
        one: socket.socket,
        state: str,
        peer: tuple[str, int] | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        known = self._addresses(one, peer=peer) | self._owner(one)
        known["uid"] = os.getuid()
        self._add(netid, state, **(known | columns))

    def _tcp(
        self,
        one: socket.socket,
        state: str,
        peer: tuple[str, int] | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        self._inet("tcp", one, state, peer, **columns)

    def _unix_socket(
        self,
        netid: str,
        one: socket.socket,
        state: str | None,
        peer: socket.socket | None = None,
        /,
        **columns: int | str | bool | None,
    ) -> None:
        known: Truth = {"family": "unix", "uid": os.getuid(), **self._owner(one)}
        if peer is not None:
            known["peer_inode"] = _inode(peer)
        self._add(netid, state, **(known | columns))

    def _measure_queues(self) -> None:
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


_NOBODY: Truth = {"inode": 0, "pid": None}
"""Sockets no descriptor leads to."""


def _lo() -> Truth:
    return {"interface": socket.if_nametoindex("lo")}


def _inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def _ioctl(one: socket.socket, request: int) -> int:
    (value,) = struct.unpack("i", fcntl.ioctl(one.fileno(), request, bytes(4)))
    return int(value)


@contextlib.contextmanager
def held(connections: int = 500) -> Iterator[Workload]:
    """Hold the workload in this process."""
    directory = Path(tempfile.mkdtemp(prefix=f"{COMM}-"))
    workload = Workload(directory)
    try:
        workload.fill(connections)
        yield workload
    finally:
        workload.close()
        shutil.rmtree(directory)


@contextlib.contextmanager
def held_by_child(connections: int = 500) -> Iterator[tuple[list[Truth], list[str]]]:
    """Hold the workload in a child named COMM; yield its truths and what was missing.

    Every 50th connection is held by a second process too, every 70th by a second descriptor.
    """
    with subprocess.Popen(
        [sys.executable, __file__, str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            lines = list(itertools.takewhile(lambda line: line != "\n", child.stdout))
            if not lines:
                raise RuntimeError(f"the workload ended with {child.wait()} before it was made")
            truths: list[Truth] = [json.loads(line) for line in lines[1:]]
            yield truths, json.loads(lines[0])
        finally:
            child.stdin.close()
            child.wait()


def main() -> None:
    """Hold the workload until standard input closes."""
    Path("/proc/self/comm").write_text(COMM)
    connections = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with held(connections) as workload:
        established = [
            int(truth["fd"] or 0)
            for truth in workload.truths
            if truth["netid"] == "tcp" and truth["state"] == "ESTAB" and truth.get("fd")
        ]
        shared = established[::50]
        for descriptor in established[::70]:
            workload.duplicate(descriptor)
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=shared,
        ) as sharer:
            assert sharer.stdin is not None
            workload.share(shared)
            random.Random(0).shuffle(workload.truths)
            print(json.dumps(workload.missing))
            for truth in workload.truths:
                print(json.dumps(truth | {"comm": COMM} if truth.get("pid") else truth))
            print(flush=True)
            sys.stdin.read()
            sharer.stdin.close()


if __name__ == "__main__":
    main()
