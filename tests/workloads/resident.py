"""One of two hosts' own process: sockets of every family, the truth of which it tells.

``python -m tests.workloads.resident`` reads an order a line and answers each with one line of
JSON: ``listen``, then on both hosts ``connect``, then on both ``accept``, then ``describe``. It
lives until its standard input closes. Every host has a network namespace of its own, so ports and
abstract names are the same on all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pwd
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.workloads.held import IPPROTO_MPTCP
from tests.workloads.keeper import FAMILY_NAMES, V4, V6, Keeper, Truth, inode_of, lists_bound

COMM = "sockrec-host"
NOBODY_UID = 65534

SEQPACKET = socket.SOCK_SEQPACKET
SO_COOKIE = 57
SO_ATTACH_FILTER = 26
ICMP, ICMP6, UDPLITE = 1, 58, 136
ETH_P_ALL, ETH_P_IP, ETH_P_LOCAL = 3, 0x0800, 0x88B5
NETLINK_XFRM, NETLINK_UEVENT, NETLINK_GENERIC = 6, 15, 16
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
IPV6_V6ONLY = 26
AF_SMC, AF_XDP = 43, 44
SCTP, SCTP_BINDX_ADD, SOCK_DCCP, DCCP, SOL_DCCP, DCCP_SERVICE = 132, 100, 6, 33, 269, 2
SOL_PACKET, PACKET_RX_RING, PACKET_VERSION, PACKET_FANOUT = 263, 5, 10, 18
TIPC_TYPE = 18888

PLAIN, WIDE, QUEUED, MULTIPATH, DATAGRAM, HALF_CLOSED, WAITING = range(7001, 7008)
"""Ports: IPv4, IPv6 of both kinds, never accepted, MPTCP, UDP, closed by one end, by both."""

ONE_TO_ONE, ONE_TO_MANY, CONGESTED, SHARED, MULTIHOMED, FALLEN = range(7011, 7017)
"""Ports of SCTP of both styles, DCCP, SMC, SCTP by all addresses, TCP that is asked for MPTCP."""

ABSENT = frozenset(
    {
        *(errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT, errno.ENOPROTOOPT),
        errno.ENODEV,  # of vsock
    }
)
"""What a kernel answers that cannot make such a socket at all; anything else is a fault."""

CONNECTIONS = 4
"""Connections kept open to each of the ports PLAIN and WIDE, and waiting at QUEUED."""


def cookie_of(one: socket.socket) -> int:
    """Return the cookie, as the public type of the column has it."""
    (value,) = struct.unpack("q", one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    return int(value)


class Resident(Keeper):
    """Makes a host's sockets; ``here`` and ``there`` are (IPv4, IPv6) of both hosts."""

    def __init__(self, here: list[str], there: list[str], dead: str, link: str, run: Path) -> None:
        super().__init__()
        self.here, self.there, self.dead, self.link = here, there, dead, link
        self.missing: list[str] = []
        """What this kernel cannot do, one sentence each."""
        self.unexplained: list[Truth] = []
        """Sockets that are in no table of the kernel."""
        self._run = run
        self._listeners: dict[int, socket.socket] = {}

    def close(self) -> None:
        """Close every socket; what that leaves dies with the namespace."""
        for one in self._open:
            one.close()

    def owner(self, one: socket.socket) -> Truth:
        """Return who holds a socket of this process, and the socket's cookie."""
        return {**super().owner(one), "cookie": cookie_of(one), "owner_by": "fd"}

    @contextlib.contextmanager
    def _or_missing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            self.missing.append(f"{what}: {error.strerror or error}")

    # listen

    def listen_everywhere(self) -> None:
        """Open what peers connect to, and everything that needs no peer."""
        for port, family, address, kind in (
            (PLAIN, V4, self.here[0], 0),
            (WIDE, V6, "::", 0),
            (QUEUED, V4, "0.0.0.0", 0),
            (HALF_CLOSED, V6, self.here[1], 0),
            (WAITING, V4, self.here[0], 0),
            (FALLEN, V4, self.here[0], 0),
            (MULTIPATH, V4, self.here[0], IPPROTO_MPTCP),
        ):
            with self._or_missing(f"protocol {kind}"):
                self._listen(port, family, address, kind)
        self._datagrams()
        self._raw()
        self._unix()
        self._netlink()
        self._packets()
        self._families()
        self._outside()

    def _listen(self, port: int, family: int, address: str, protocol: int) -> None:
        listener = self.keep(socket.socket(family, socket.SOCK_STREAM, protocol))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        self._listeners[port] = listener
        queued = CONNECTIONS if port == QUEUED else 0
        netid = "mptcp" if protocol == IPPROTO_MPTCP else "tcp"
        self.inet(netid, listener, "LISTEN", recv_q=queued, send_q=64)

    def _datagrams(self) -> None:
        for family, address in ((V4, self.here[0]), (V6, self.here[1]), (V6, "::")):
            port = DATAGRAM + (address == "::") * 100
            one = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            one.bind((address, port))
            self.inet("udp", one, "UNCONN", recv_q=0, send_q=0)
        bound = self.keep(socket.socket(V4, socket.SOCK_DGRAM))
        link = self._bound_to_link(bound)
        bound.bind(("0.0.0.0", 0))
        self.inet("udp", bound, "UNCONN", **link)
        for family, address in ((V4, self.here[0]), (V6, "::1")):
            with self._or_missing("UDP-Lite"):
                lite = self.keep(socket.socket(family, socket.SOCK_DGRAM, UDPLITE))
                lite.bind((address, 0))
                self._from_proc("udplite", lite)
            protocol = ICMP if family == V4 else ICMP6
            ping = self.keep(socket.socket(family, socket.SOCK_DGRAM, protocol))
            ping.bind((address, 4242))
            self._from_proc("ping", ping)
        inactive = self.keep(socket.socket(V4))
        inactive.bind((self.here[0], 0))
        if lists_bound():
            self.inet("tcp", inactive, "UNCONN", recv_q=0, send_q=0)
        else:
            self._unlisted("TCP", inactive)

    def _from_proc(self, netid: str, one: socket.socket) -> None:
        """Note a socket that sock_diag may not list: /proc tells no cookie."""
        self.inet(netid, one, "UNCONN", recv_q=0, send_q=0)
        del self.truths[-1]["cookie"]

    def _linked(self) -> Truth:
        return {"interface": socket.if_nametoindex(self.link), "dev": self.link}

    def _bound_to_link(self, one: socket.socket) -> Truth:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.link.encode())
        return self._linked()

    def _raw(self) -> None:
        for family, protocol in ((V4, ICMP), (V6, ICMP6), (V4, socket.IPPROTO_UDP), (V4, 255)):
            one = self.keep(socket.socket(family, socket.SOCK_RAW, protocol))
            _drop_all(one)
            any_address = "0.0.0.0" if family == V4 else "::"
            self._raw_socket(one, protocol, "UNCONN", any_address, any_address)
        connected = self.keep(socket.socket(V4, socket.SOCK_RAW, ICMP))
        connected.connect((self.there[0], 0))
        self._raw_socket(connected, ICMP, "ESTAB", self.here[0], self.there[0])

    def _raw_socket(
        self, one: socket.socket, protocol: int, state: str, local: str, peer: str
    ) -> None:
        self.add(
            "raw",
            state,
            **super().owner(one)
            | {
                "family": FAMILY_NAMES[one.family],
                "local_addr": local,
                "local_port": protocol,
                "peer_addr": peer,
                "protocol": protocol,
            },
        )

    def _unix(self) -> None:
        kinds = {
            "u_str": socket.SOCK_STREAM,
            "u_seq": socket.SOCK_SEQPACKET,
            "u_dgr": socket.SOCK_DGRAM,
        }
        for netid, kind in kinds.items():
            left, right = (self.keep(one) for one in socket.socketpair(socket.AF_UNIX, kind))
            self.unix_socket(netid, left, "ESTAB", right, local_addr=None, recv_q=0)
            self.unix_socket(netid, right, "ESTAB", left, local_addr=None, recv_q=0)
            for name in (f"\0{COMM}.{netid}", str(self._run / netid)):
                server = self.keep(socket.socket(socket.AF_UNIX, kind))
                server.bind(name)
                client = self.keep(socket.socket(socket.AF_UNIX, kind))
                shown = name.replace("\0", "@")
                if netid == "u_dgr":
                    client.connect(name)
                    self.unix_socket(netid, server, None, local_addr=shown)
                    self.unix_socket(netid, client, "ESTAB", server, peer_addr=shown)
                    continue
                server.listen(5)
                client.connect(name)
                waiting: Truth = {"recv_q": 1, "send_q": 5, "icons": str(inode_of(client))}
                self.unix_socket(netid, server, "LISTEN", local_addr=shown, **waiting)
                self.unix_socket(netid, client, "ESTAB", peer_inode=0)
                accepted = self.keep(socket.socket(socket.AF_UNIX, kind))
                accepted.bind(f"{name}.accepted")
                accepted.listen(1)
                peer = self.keep(socket.socket(socket.AF_UNIX, kind))
                peer.connect(f"{name}.accepted")
                end = self.keep(accepted.accept()[0])
                shown = f"{shown}.accepted"
                self.unix_socket(netid, accepted, "LISTEN", local_addr=shown, recv_q=0)
                self.unix_socket(netid, peer, "ESTAB", end, peer_addr=shown)
                self.unix_socket(netid, end, "ESTAB", peer, local_addr=shown)

    def _netlink(self) -> None:
        cases = [
            ("rtnl", socket.NETLINK_ROUTE, 0),
            ("rtnl", socket.NETLINK_ROUTE, 0x11),
            ("xfrm", NETLINK_XFRM, 0),
            ("uevent", NETLINK_UEVENT, 1),
            ("genl", NETLINK_GENERIC, 0),
        ]
        for name, protocol, groups in cases:
            one = self.keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol))
            one.bind((0, groups))
            self._netlink_socket(name, one)
        late = self.keep(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0))
        late.bind((0, 0))
        late.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 30)
        self._netlink_socket("rtnl", late)

    def _netlink_socket(self, name: str, one: socket.socket) -> None:
        self.add(
            "nl",
            "UNCONN",
            **self.owner(one)
            | {"family": "netlink", "local_addr": name, "local_id": one.getsockname()[0]},
        )

    def _packets(self) -> None:
        cases = [
            ("p_raw", socket.SOCK_RAW, ETH_P_ALL, "*", None),
            ("p_dgr", socket.SOCK_DGRAM, ETH_P_IP, "ip", self.link),
            ("p_raw", socket.SOCK_RAW, ETH_P_LOCAL, f"[{ETH_P_LOCAL}]", self.link),
        ]
        for netid, kind, protocol, name, link in cases:
            everywhere = 0 if link else socket.htons(protocol)
            one = self.keep(socket.socket(socket.AF_PACKET, kind, everywhere))
            _drop_all(one)
            if link:
                one.bind((link, protocol))
            if link and kind == socket.SOCK_RAW:
                one.setsockopt(SOL_PACKET, PACKET_VERSION, 1)
                one.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("4I", 4096, 2, 2048, 4))
                one.setsockopt(SOL_PACKET, PACKET_FANOUT, 7)
            bound: Truth = self._linked() if link else {"interface": None, "dev": None}
            self.add(
                netid,
                "UNCONN",
                **self.owner(one)
                | {"family": "packet", "local_addr": name, "recv_q": 0, "send_q": 0}
                | bound,
            )

    def _families(self) -> None:
        """Listen by what needs a module, and connect what is of one host only."""
        with self._or_missing("SCTP"):
            for port, kind in ((ONE_TO_ONE, socket.SOCK_STREAM), (ONE_TO_MANY, SEQPACKET)):
                one = self.keep(socket.socket(V4, kind, SCTP))
                one.bind((self.here[0], port))
                one.listen(5)
                self._listeners[port] = one
                self._endpoint("LISTEN", one, local_port=port)
            one = self._everywhere(MULTIHOMED)
            one.listen(5)
            self._listeners[MULTIHOMED] = one
            self._endpoint("LISTEN", one, "inet6", local_port=MULTIHOMED)
        with self._or_missing("DCCP"):
            one = self._dccp()
            one.bind((self.here[0], CONGESTED))
            one.listen(5)
            self._listeners[CONGESTED] = one
            self._known("dccp", "LISTEN", one, family="inet", local_port=CONGESTED)
        with self._or_missing("SMC"):
            one = self.keep(socket.socket(AF_SMC, socket.SOCK_STREAM))
            _call("bind", one, _inet_address(self.here[0], SHARED))
            one.listen(5)
            self._listeners[SHARED] = one
            self._known("smc", "LISTEN", one, local_port=SHARED)
        with self._or_missing("TIPC"):
            for netid, kind in (("ti_st", socket.SOCK_STREAM), ("ti_sq", SEQPACKET)):
                name = TIPC_TYPE + kind
                one = self.keep(socket.socket(socket.AF_TIPC, kind))
                one.bind((socket.TIPC_ADDR_NAMESEQ, name, 1, 1, socket.TIPC_NODE_SCOPE))
                one.listen(5)
                client = self.keep(socket.socket(socket.AF_TIPC, kind))
                client.setblocking(False)  # it is answered by accept
                with contextlib.suppress(BlockingIOError):
                    client.connect((socket.TIPC_ADDR_NAME, name, 1, 0))
                accepted = self.keep(one.accept()[0])
                self._known(netid, "LISTEN", one)
                self._known(netid, "ESTAB", client)
                self._known(netid, "ESTAB", accepted)
            self._known("ti_rd", None, self.keep(socket.socket(socket.AF_TIPC, socket.SOCK_RDM)))
        with self._or_missing("vsock"):
            if not Path("/sys/module/vsock_loopback").exists():
                raise OSError(errno.ENODEV, "no loopback")
            port = 9000 + int(self.here[0].rpartition(".")[2])  # no namespace has ports of its own
            one = self.keep(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            one.bind((socket.VMADDR_CID_ANY, port))
            one.listen(5)
            client = self.keep(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            client.connect((1, port))
            self._known("v_str", "LISTEN", one, local_id=port)
            self._known("v_str", "ESTAB", client, peer_id=port)
            self._known("v_str", "ESTAB", self.keep(one.accept()[0]), local_id=port)

    def _endpoint(
        self, state: str, one: socket.socket, family: str = "inet", **columns: int
    ) -> None:
        """Note a socket of SCTP beside its association, which has no cookie of its own."""
        self._known("sctp", state, one, family=family, cookie=cookie_of(one), **columns)

    def _everywhere(self, port: int) -> socket.socket:
        """Make a socket of SCTP that is bound to the addresses of both families."""
        one = self.keep(socket.socket(V6, socket.SOCK_STREAM, SCTP))
        one.bind((self.here[1], port))
        port = one.getsockname()[1]
        one.setsockopt(SCTP, SCTP_BINDX_ADD, _inet_address(self.here[0], port))
        return one

    def _dccp(self) -> socket.socket:
        one = self.keep(socket.socket(V4, SOCK_DCCP, DCCP))
        one.setsockopt(SOL_DCCP, DCCP_SERVICE, socket.htonl(42))
        return one

    def _known(
        self, netid: str, state: str | None, one: socket.socket, **columns: int | str | bool | None
    ) -> None:
        """Note a socket whose addresses not all are known."""
        self.add(netid, state, **super().owner(one) | {"owner_by": "fd"} | columns)

    def _outside(self) -> None:
        """Open sockets that the kernel lists nowhere, or where it has a module for that."""
        openers: dict[str, Callable[[], socket.socket]] = {
            "TCP": lambda: socket.socket(V4),
            "UDPv6": lambda: socket.socket(V6, socket.SOCK_DGRAM),
            "AF_VSOCK": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
            "XDP": lambda: socket.socket(AF_XDP, socket.SOCK_RAW),
        }
        for protocol, opened in openers.items():
            with self._or_missing(protocol):
                one = self.keep(opened())
                listed = {"AF_VSOCK": ("vsock_diag", "v_str"), "XDP": ("xsk_diag", "xdp")}
                module, netid = listed.get(protocol, ("", ""))
                if module and Path("/sys/module", module).exists():
                    self._known(netid, "UNCONN", one)
                else:
                    self._unlisted(protocol, one)

    def _unlisted(self, protocol: str, one: socket.socket) -> None:
        known: Truth = {"inode": inode_of(one), "pid": os.getpid(), "fd": one.fileno()}
        self.unexplained.append({**known, "protocol": protocol, "comm": COMM})

    # connect

    def connect_everywhere(self) -> None:
        """Connect to the other host's resident."""
        for number in range(CONNECTIONS):
            for family, address, port in (
                (V4, self.there[0], PLAIN),
                (V6, self.there[1], WIDE),
                (V4, self.there[0], WIDE),
                (V4, self.there[0], QUEUED),
            ):
                one = self.keep(socket.socket(family))
                bound: Truth = {"interface": None, "dev": None}
                if number == 1:
                    bound = self._bound_to_link(one)
                one.connect((address, port))
                if number == 2:
                    os.fchown(one.fileno(), NOBODY_UID, -1)
                uid = NOBODY_UID if number == 2 else 0
                known: Truth = {"uid": uid, "user": pwd.getpwuid(uid).pw_name}
                self.tcp(
                    one,
                    "ESTAB",
                    **({"recv_q": 0, "send_q": 0} | known | bound),
                )
        closing = self.keep(socket.socket(V6))
        closing.connect((self.there[1], HALF_CLOSED))
        closing.shutdown(socket.SHUT_WR)
        self.tcp(closing, "FIN-WAIT-2", recv_q=0, send_q=0, shutdown=2)
        self._leaving = self.keep(socket.socket(V4))
        self._leaving.connect((self.there[0], WAITING))
        unanswered = self.keep(socket.socket(V4))
        unanswered.setblocking(False)
        assert unanswered.connect_ex((self.dead, PLAIN)) == errno.EINPROGRESS
        self.tcp(unanswered, "SYN-SENT", (self.dead, PLAIN), send_q=1, timer="on")
        for family, address in ((V4, self.there[0]), (V6, self.there[1])):
            sender = self.keep(socket.socket(family, socket.SOCK_DGRAM))
            sender.connect((address, DATAGRAM))
            self.inet("udp", sender, "ESTAB", recv_q=0, send_q=0)
        if MULTIPATH in self._listeners:
            several = self.keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            several.connect((self.there[0], MULTIPATH))
            several.sendall(b"x" * 20)
            self._multipath(several)
            fallen = self.keep(socket.socket(V4, socket.SOCK_STREAM, IPPROTO_MPTCP))
            fallen.connect((self.there[0], FALLEN))
            self._multipath(fallen)
            plain = self.keep(socket.socket(V4))
            plain.connect((self.there[0], MULTIPATH))
            self.tcp(plain, "ESTAB", recv_q=0, send_q=0)
        for port, kind in ((ONE_TO_ONE, socket.SOCK_STREAM), (ONE_TO_MANY, SEQPACKET)):
            if port in self._listeners:
                one = self.keep(socket.socket(V4, kind, SCTP))
                one.connect((self.there[0], port))
                self._endpoint("ESTAB" if port == ONE_TO_ONE else "UNCONN", one)
                self._known("sctp", "ESTAB", one, family="inet", peer_port=port)
        if MULTIHOMED in self._listeners:
            one = self._everywhere(0)
            # who is asked at a global address, as IPv6 is here, is told of no private one
            one.connect((f"::ffff:{self.there[0]}", MULTIHOMED))
            self._endpoint("ESTAB", one, "inet6")
            self._known("sctp", "ESTAB", one, family="inet6", peer_port=MULTIHOMED)
        if CONGESTED in self._listeners:
            one = self._dccp()
            one.connect((self.there[0], CONGESTED))
            # as it has had no answer to what ended its handshake
            self._known("dccp", "PARTOPEN", one, family="inet", peer_port=CONGESTED)
            self._parting = self._dccp()
            self._parting.connect((self.there[0], CONGESTED))
        if SHARED in self._listeners:
            one = self.keep(socket.socket(AF_SMC, socket.SOCK_STREAM))
            _call("connect", one, _inet_address(self.there[0], SHARED))
            self._known("smc", "ESTAB", one, peer_port=SHARED)

    def _multipath(self, one: socket.socket) -> None:
        self.inet("mptcp", one, "ESTAB")
        self.add(
            "tcp", "ESTAB", **self.addresses(one), inode=inode_of(one), ulp="mptcp", subflow=True
        )

    # accept

    def accept_everywhere(self) -> None:
        """Accept what the other host's resident connected, as far as it is to be accepted."""
        for port, count in ((PLAIN, CONNECTIONS), (WIDE, 2 * CONNECTIONS)):
            for _ in range(count):
                one = self.keep(self._listeners[port].accept()[0])
                self.tcp(one, "ESTAB", recv_q=0, send_q=0)
        closing = self.keep(self._listeners[HALF_CLOSED].accept()[0])
        self.tcp(closing, "CLOSE-WAIT", recv_q=1, send_q=0, shutdown=1)
        self._left = self.keep(self._listeners[WAITING].accept()[0])
        if MULTIPATH in self._listeners:
            self._multipath(self.keep(self._listeners[MULTIPATH].accept()[0]))
            for port in (FALLEN, MULTIPATH):
                one = self.keep(self._listeners[port].accept()[0])
                self.tcp(one, "ESTAB", recv_q=0, send_q=0)
        for port, netid in (
            *((ONE_TO_ONE, "sctp"), (MULTIHOMED, "sctp")),
            *((CONGESTED, "dccp"), (SHARED, "smc")),
        ):
            if port in self._listeners:
                one = self._listeners[port]
                descriptor = _call("accept", one)
                end = socket.socket(one.family, one.type, one.proto, descriptor)
                self._known(netid, "ESTAB", self.keep(end), local_port=port)
                if netid == "sctp":
                    family = FAMILY_NAMES[end.family]
                    self._endpoint("ESTAB", end, family, local_port=port)
        if CONGESTED in self._listeners:
            self._parted = self._listeners[CONGESTED].accept()[0]
        if ONE_TO_MANY in self._listeners:
            many = self._listeners[ONE_TO_MANY]
            self._known("sctp", "ESTAB", many, family="inet", local_port=ONE_TO_MANY)

    # end

    def leave(self) -> None:
        """Close connections, which will be in TIME-WAIT for a minute, before their peer does."""
        gone: Truth = {"inode": 0, "pid": None, "uid": 0, "timer": "timewait"}
        self.add("tcp", "TIME-WAIT", **self.addresses(self._leaving), **gone)
        self._leaving.close()
        if CONGESTED in self._listeners:
            self.add("dccp", "TIME-WAIT", **self.addresses(self._parting), **gone)
            self._parting.close()

    def be_left(self) -> None:
        """Close the connections that the other host's resident has left."""
        assert self._left.recv(1) == b""
        self._left.close()
        if CONGESTED in self._listeners:
            assert self._parted.recv(1) == b""
            self._parted.close()

    def share_some(self) -> subprocess.Popen[bytes]:
        """Let a younger process hold every third of the plain connections too."""
        chosen = [
            int(truth["fd"] or 0)
            for truth in self.truths
            if truth["netid"] == "tcp" and truth["state"] == "ESTAB" and truth.get("fd")
        ][::3]
        self.share(chosen)
        return subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=chosen,
        )


def _inet_address(address: str, port: int) -> bytes:
    return struct.pack("=H", V4) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


def _call(name: str, one: socket.socket, address: bytes | None = None) -> int:
    """Call libc for a family whose addresses Python does not know."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = None if address is None else len(address)
    answer: int = getattr(libc, name)(one.fileno(), address, length)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def _drop_all(one: socket.socket) -> None:
    """Let a socket receive nothing, so that its queue stands still (BPF_RET of 0 bytes)."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    filters = struct.pack("HP", 1, ctypes.addressof(program))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)
    with contextlib.suppress(BlockingIOError):
        while True:  # what came before the filter
            one.recv(1, socket.MSG_DONTWAIT)


def main() -> None:
    """Obey the orders of standard input."""
    Path("/proc/self/comm").write_text(COMM)
    options = json.loads(sys.argv[1])
    resident = Resident(**options | {"run": Path(options["run"])})
    sharer = None
    for line in sys.stdin:
        match line.strip():
            case "listen":
                resident.listen_everywhere()
            case "connect":
                resident.connect_everywhere()
            case "accept":
                resident.accept_everywhere()
                sharer = resident.share_some()
            case "leave":
                resident.leave()
            case "be left":
                resident.be_left()
            case "describe":
                for truth in resident.truths:
                    if truth.get("pid"):
                        truth["comm"] = COMM
                print(json.dumps([resident.truths, resident.missing, resident.unexplained]))
        if line.strip() != "describe":
            print("[]")
        sys.stdout.flush()
    resident.close()
    if sharer is not None and sharer.stdin is not None:
        sharer.stdin.close()
        sharer.wait(60)


if __name__ == "__main__":
    main()
