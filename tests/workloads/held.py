"""Sockets that stand still and whose truth is known: what a recorder must find, field by field.

``held()`` holds them in this process, ``held_by_child()`` in another one, whose name is
``sockrec-held``. ``python -m tests.workloads.held`` prints the truth as JSON, one row a line and
then an empty line, and lives until its standard input closes.

A truth is a row in the words of the ``sockets`` table, with only the columns that the workload
knows without asking sock_diag: from the calls it made, from ioctl and from fstat.
"""

from __future__ import annotations

import contextlib
import errno
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
import time
from collections.abc import Iterator
from pathlib import Path

from tests.workloads.keeper import (
    NOBODY,
    V4,
    V6,
    Keeper,
    Truth,
    inode_of,
    lists_bound,
    loopback,
)

COMM = "sockrec-held"

MD5_KEY = "never-record-me"
"""The TCP-MD5 key of one connection."""

SOCKOPT_MARK = 36
IP_TOS, IPV6_TCLASS = 1, 67
TCP_DEFER_ACCEPT, TCP_MD5SIG, TCP_ULP = 9, 14, 31
IPPROTO_MPTCP = 262
SOL_TLS, TLS_TX, TLS_AES_GCM_128, TLS_1_2, TLS_1_3 = 282, 1, 51, 0x0303, 0x0304
SETTLE_SECONDS = 1.2
"""By then delayed acknowledgements are out, and the first SYN was sent again."""


class Workload(Keeper):
    """Makes the sockets of every kind and state."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.missing: list[str] = []
        """What this kernel or user cannot do, one sentence each."""
        self._directory = directory
        self._somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())

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
        self.measure_queues()

    # TCP

    def _connections(self, count: int) -> None:
        ways = [(V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1"), (V4, "127.9.8.7")]
        listeners = [self.listen(family, address) for family, address in ways]
        for number in range(count):
            client, server = self.connect(listeners[number % len(listeners)])
            # sizes below the initial window, so that all of it arrives and is acknowledged
            to_server, to_client = number * 37 % 5000, number * 11 % 700 if number % 3 else 0
            client.sendall(b"x" * to_server)
            server.sendall(b"y" * to_client)
            self.tcp(client, "ESTAB", recv_q=to_client, send_q=0, bytes_received=to_client)
            self.tcp(server, "ESTAB", recv_q=to_server, send_q=0, bytes_received=to_server)

    def _listeners(self) -> None:
        cases = itertools.product([(V4, "127.0.0.1"), (V6, "::1")], [(1, 0), (5, 3), (9999, 7)])
        for (family, address), (backlog, waiting) in cases:
            listener = self.keep(socket.socket(family))
            listener.bind((address, 0))
            listener.listen(backlog)
            for number in range(waiting):
                client = self.keep(socket.socket(family))
                client.connect(listener.getsockname())
                client.sendall(b"z" * number)
                self.tcp(client, "ESTAB", recv_q=0, send_q=0)
                unaccepted = self.addresses(client, swap=True)
                self.add("tcp", "ESTAB", **unaccepted, recv_q=number, send_q=0, **NOBODY)
            limit = min(backlog, self._somaxconn)
            self.tcp(listener, "LISTEN", recv_q=waiting, send_q=limit)
        for v6only in (False, True):
            listener = self.keep(socket.socket(V6))
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            listener.bind(("::", 0))
            listener.listen(3)
            self.tcp(listener, "LISTEN", recv_q=0, send_q=3, v6only=v6only)
        if lists_bound():
            bound = self.keep(socket.socket(V4))
            bound.bind(("127.0.0.1", 0))
            self.tcp(bound, "UNCONN", recv_q=0, send_q=0)
        else:
            self.missing.append("TCP that is bound only: Linux lists it since 6.8")

    def _half_closed(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            for unread in (0, 100):
                client, server = self.connect(self.listen(family, address))
                client.sendall(b"x" * unread)
                client.shutdown(socket.SHUT_WR)
                self.tcp(client, "FIN-WAIT-2", recv_q=0, send_q=0, shutdown=2)
                # the FIN counts as one byte
                self.tcp(server, "CLOSE-WAIT", recv_q=unread + 1, send_q=0, shutdown=1)

    def _stuck(self) -> None:
        """Fill the peer's window: send queues that stand still while their timers run."""
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            client, server = self.connect(self.listen(family, address, rcvbuf=4096))
            self._overfill(client)
            self.tcp(client, "ESTAB")
            self.tcp(server, "ESTAB")
        client, server = self.connect(self.listen(V4, "127.0.0.1", rcvbuf=4096))
        self._overfill(client)
        client.shutdown(socket.SHUT_WR)
        self.tcp(client, "FIN-WAIT-1", shutdown=2)
        self.tcp(server, "ESTAB", shutdown=0)
        listener = self.listen(V4, "127.0.0.1")
        client, server = self.connect(listener, rcvbuf=4096)
        self._overfill(server)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        server.shutdown(socket.SHUT_WR)
        self.tcp(client, "FIN-WAIT-2", shutdown=2)
        self.tcp(server, "LAST-ACK", shutdown=3)

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
        full = self.keep(socket.socket(V4))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        client = self.keep(socket.socket(V4))
        client.connect(full.getsockname())
        self.tcp(client, "ESTAB", recv_q=0, send_q=0)
        self.tcp(full, "LISTEN", recv_q=1, send_q=0)
        unanswered = self.keep(socket.socket(V4))
        unanswered.setblocking(False)
        assert unanswered.connect_ex(full.getsockname()) == errno.EINPROGRESS
        self.tcp(unanswered, "SYN-SENT", full.getsockname(), recv_q=0, send_q=1, timer="on")
        for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
            deferring = self.listen(family, address)
            deferring.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, 60)
            silent = self.keep(socket.socket(family))
            silent.connect(deferring.getsockname())
            self.tcp(silent, "ESTAB", recv_q=0, send_q=0)
            request = self.addresses(silent, swap=True)
            self.add("tcp", "SYN-RECV", **request, recv_q=0, send_q=0, timer="on", uid=0, **NOBODY)

    def _time_waits(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1")):
            listener = self.listen(family, address)
            for _ in range(4):
                client, server = self.connect(listener, keep=False)
                addresses = self.addresses(client)
                client.close()
                server.close()
                self.add(
                    "tcp",
                    "TIME-WAIT",
                    **addresses,
                    **NOBODY,
                    recv_q=0,
                    send_q=0,
                    timer="timewait",
                    uid=0,
                )

    def _options(self) -> None:
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
        for name in available.split():
            client, server = self.connect(self.listen(V4, "127.0.0.1"))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            client.sendall(b"x" * 10)
            # dctcp without ECN calls itself dctcp-reno
            known = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            name = known.rstrip(b"\0").decode()
            self.tcp(client, "ESTAB", recv_q=0, send_q=0, cong=name)
            self.tcp(server, "ESTAB", recv_q=10, send_q=0)
        settings: list[tuple[int, str, int, int, int | bytes, Truth]] = [
            (V4, "127.0.0.1", socket.SOL_SOCKET, SOCKOPT_MARK, 0x5EC, {"mark": 0x5EC}),
            (V4, "127.0.0.1", socket.SOL_SOCKET, socket.SO_PRIORITY, 5, {"class_id": 5}),
            (V4, "127.0.0.1", socket.IPPROTO_IP, IP_TOS, 0x10, {"tos": 0x10}),
            (V6, "::1", socket.IPPROTO_IPV6, IPV6_TCLASS, 0x20, {"tclass": 0x20}),
            (V4, "127.0.0.1", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo", loopback()),
            (V6, "::1", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo", loopback()),
        ]
        for family, address, level, option, value, truth in settings:
            client = self.keep(socket.socket(family))
            try:
                client.setsockopt(level, option, value)
            except OSError as error:
                self.missing.append(f"{next(iter(truth))}: {error.strerror}")
                continue
            listener = self.listen(family, address)
            client.connect(listener.getsockname())
            server = self.keep(listener.accept()[0])
            self.tcp(client, "ESTAB", recv_q=0, send_q=0, **truth)
            self.tcp(server, "ESTAB", recv_q=0, send_q=0)
        self._upper_layers()
        self._signed()

    def _upper_layers(self) -> None:
        for version in (None, TLS_1_2, TLS_1_3):
            client, _ = self.connect(self.listen(V4, "127.0.0.1"))
            try:
                client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
                if version is not None:  # with a key of zeros
                    key = struct.pack("=HH36x", version, TLS_AES_GCM_128)
                    client.setsockopt(SOL_TLS, TLS_TX, key)
            except OSError as error:
                self.missing.append(f"TLS in the kernel: {error.strerror}")
                break
            self.tcp(client, "ESTAB", ulp="tls", tls_version=version)
        try:
            listener = self.keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            client = self.keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            client.connect(listener.getsockname())
            client.sendall(b"x" * 20)
            server = self.keep(listener.accept()[0])
        except OSError as error:
            self.missing.append(f"MPTCP: {error.strerror}")
            return
        for end in (client, server):
            self.add("tcp", "ESTAB", **self.addresses(end), **self.owner(end), ulp="mptcp")

    def _signed(self) -> None:
        """Connect under a TCP-MD5 key, which must never be seen in a recording."""
        listener = self.listen(V4, "127.0.0.1")
        client = self.keep(socket.socket(V4))
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
        server = self.keep(listener.accept()[0])
        self.tcp(client, "ESTAB", md5_keys=1)
        self.tcp(server, "ESTAB", md5_keys=1)
        self.tcp(listener, "LISTEN", md5_keys=1)

    # UDP

    def _datagrams(self) -> None:
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V4, "0.0.0.0"), (V6, "::")):
            server = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            server.bind((address, 0))
            self.inet("udp", server, "UNCONN", recv_q=0, send_q=0)
        for family, address in ((V4, "127.0.0.1"), (V6, "::1"), (V6, "::ffff:127.0.0.1")):
            receiver = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            receiver.bind((address, 0))
            sender = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            sender.connect(receiver.getsockname())
            for size in (100, 100):
                sender.send(b"x" * size)
            self.inet("udp", receiver, "UNCONN", send_q=0)
            self.inet("udp", sender, "ESTAB", recv_q=0, send_q=0)

    # unix

    def _unix(self) -> None:
        kinds = {"u_str": socket.SOCK_STREAM, "u_seq": socket.SOCK_SEQPACKET}
        for (netid, kind), abstract in itertools.product(kinds.items(), (False, True)):
            name = f"{COMM}.{os.getpid()}.{netid}"
            path = f"@{name}" if abstract else str(self._directory / name)
            listener = self.keep(socket.socket(socket.AF_UNIX, kind))
            listener.bind(path.replace("@", "\0") if abstract else path)
            listener.listen(8)
            client = self.keep(socket.socket(socket.AF_UNIX, kind))
            client.connect(listener.getsockname())
            server = self.keep(listener.accept()[0])
            client.send(b"x" * 33)
            self.unix_socket(netid, client, "ESTAB", server, recv_q=0)
            self.unix_socket(netid, server, "ESTAB", client, local_addr=path, recv_q=33, send_q=0)
            waiting = []
            for _ in range(3):
                one = self.keep(socket.socket(socket.AF_UNIX, kind))
                one.connect(listener.getsockname())
                self.unix_socket(netid, one, "ESTAB", recv_q=0, send_q=0, peer_inode=0)
                waiting.append(str(inode_of(one)))
            bound: Truth = {} if abstract else {"vfs_inode": os.stat(path).st_ino}
            clients: Truth = {"icons": ",".join(waiting)}
            self.unix_socket(
                netid, listener, "LISTEN", local_addr=path, recv_q=3, send_q=8, **bound, **clients
            )
        left, right = (self.keep(one) for one in socket.socketpair())
        left.send(b"x" * 10)
        left.shutdown(socket.SHUT_WR)
        self.unix_socket("u_str", left, "ESTAB", right, local_addr=None, shutdown=2)
        self.unix_socket("u_str", right, "ESTAB", left, recv_q=10, send_q=0, shutdown=1)
        path = str(self._directory / "dgram with blank")
        receiver = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(path)
        self.unix_socket("u_dgr", receiver, None, local_addr=path, recv_q=7, send_q=0)
        sender = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sender.connect(path)
        for size in (7, 70):  # Recv-Q is the size of the first datagram
            sender.send(b"x" * size)
        self.unix_socket("u_dgr", sender, "ESTAB", receiver, local_addr=None)
        alone = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.unix_socket("u_str", alone, "UNCONN", local_addr=None, recv_q=0, send_q=0)


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
        [sys.executable, "-m", "tests.workloads.held", str(connections)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            lines = list(itertools.takewhile(lambda line: line != "\n", child.stdout))
            if not lines:
                raise RuntimeError(f"the workload ended with {child.wait(60)} before it was made")
            truths: list[Truth] = [json.loads(line) for line in lines[1:]]
            yield truths, json.loads(lines[0])
        finally:
            child.stdin.close()
            child.wait(60)


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
