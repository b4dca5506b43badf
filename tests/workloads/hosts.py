"""Two hosts made of network namespaces and a cable: nginx on one, redis on the other.

Each also has a resident process with sockets of every family (tests.workloads.resident), and
clients that keep connections to the other host's server. Once made, nothing moves but timers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workloads.keeper import Truth
from tests.workloads.netns import inode_of, inside, ip, namespace
from tests.workloads.resident import COMM, QUEUED

NGINX_PORT, REDIS_PORT = 80, 6379
SETTLE_SECONDS = 1.5
"""By then delayed acknowledgements are out, and the first SYN was sent again."""

KEPT = 6
"""Connections each host keeps to the other's server, every other one over IPv6."""

_ADDRESSES = (["10.77.0.1", "fd00:77::1"], ["10.77.0.2", "fd00:77::2"])
_DEAD = "10.77.0.99"
_DEAD_LINK = "02:00:00:00:00:99"

_NGINX = """
daemon off;
worker_processes 2;
pid {run}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; accept_mutex off; }}
http {{
  access_log off;
  keepalive_timeout 3600s;
  client_body_temp_path {run}; proxy_temp_path {run}; fastcgi_temp_path {run};
  uwsgi_temp_path {run}; scgi_temp_path {run};
  server {{ listen {v4}:{port}; listen [{v6}]:{port}; location / {{ return 200 "ok"; }} }}
}}
"""


@dataclass
class Host:
    """A namespace, and what is true in it."""

    name: str
    netns: int
    addresses: list[str]
    link: str
    truths: list[Truth] = field(default_factory=list)
    """The sockets of the resident, as rows of ``sockets``."""
    unexplained: list[Truth] = field(default_factory=list)
    """Sockets of the resident that no table shows, as rows of ``unexplained``."""
    missing: list[str] = field(default_factory=list)
    """What this kernel cannot do."""
    served: list[tuple[str, int]] = field(default_factory=list)
    """Peer address and port of every connection the host's server holds."""
    server: str = ""
    """Name of the server's processes."""


class _Resident:
    """The resident process of a host, which obeys."""

    def __init__(self, host: Host, peer: Host, run: Path) -> None:
        run.mkdir()
        os.chmod(run, 0o755)
        options = {
            "here": host.addresses,
            "there": peer.addresses,
            "dead": _DEAD,
            "link": host.link,
            "run": str(run),
        }
        command = [sys.executable, "-m", "tests.workloads.resident", json.dumps(options)]
        self.process = subprocess.Popen(
            inside(host.name, *command),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def obey(self, order: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the resident ended with {self.process.wait(60)} at {order!r}")
        return json.loads(answer)

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(60)


def _wire(left: Host, right: Host) -> None:
    """Join both namespaces by a pair of virtual interfaces that make no traffic of their own."""
    ip(
        *("-n", left.name, "link", "add", left.link, "type", "veth"),
        *("peer", "name", right.link, "netns", right.name),
    )
    for host in (left, right):
        sysctls = [
            f"net/ipv6/conf/{host.link}/router_solicitations=0",
            f"net/ipv6/conf/{host.link}/accept_dad=0",
            "net/ipv4/ping_group_range=0 2147483647",
            # a FIN repeated by a busy machine would end what is in TIME-WAIT: RFC 1337
            "net/ipv4/tcp_rfc1337=1",
        ]
        write = 'for pair; do echo "${pair#*=}" >"/proc/sys/${pair%%=*}"; done'
        subprocess.run(inside(host.name, "sh", "-ec", write, "sh", *sysctls), check=True)
        v4, v6 = host.addresses
        ip("-n", host.name, "address", "add", f"{v4}/24", "dev", host.link)
        ip("-n", host.name, "address", "add", f"{v6}/64", "dev", host.link, "nodad")
        ip("-n", host.name, "link", "set", host.link, "up")
        dead = ("neighbour", "add", _DEAD, "lladdr", _DEAD_LINK, "dev", host.link)
        ip("-n", host.name, *dead, "nud", "permanent")


@contextlib.contextmanager
def _serving(host: Host, command: list[str], port: int) -> Iterator[None]:
    """Run a server on a host and wait until it listens."""
    with subprocess.Popen(
        inside(host.name, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            limit = time.monotonic() + 20
            wanted = f":{port:04X} "
            tables = [Path(f"/proc/{server.pid}/net/{name}") for name in ("tcp", "tcp6")]
            while not all(_listens(table, wanted) for table in tables):
                if server.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(f"{command[0]} does not serve on {host.name}")
                time.sleep(0.02)
            yield
        finally:
            server.terminate()


def _listens(table: Path, port: str) -> bool:
    return any(
        port in line and line.split()[3] == "0A" for line in table.read_text().splitlines()[1:]
    )


@contextlib.contextmanager
def _kept(client: Host, server: Host, port: int, request: str) -> Iterator[None]:
    """Keep connections from one host to the other's server, each used once and idle since."""
    source = f"""
import json, socket, sys
kept = []
for number in range({KEPT}):
    one = socket.create_connection(({server.addresses!r}[number % 2], {port}))
    one.sendall({request!r}.encode())
    one.recv(4096)
    kept.append(one)
print(json.dumps([one.getsockname()[:2] for one in kept]), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        inside(client.name, sys.executable, "-c", source),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            answer = keeper.stdout.readline()
            if not answer:
                raise RuntimeError(f"no connection to port {port} of {server.name}")
            server.served = [(address, number) for address, number in json.loads(answer)]
            yield
        finally:
            keeper.stdin.close()


@contextlib.contextmanager
def two_hosts(directory: Path) -> Iterator[tuple[Host, Host]]:
    """Make both hosts and everything on them; ``directory`` must be empty."""
    os.chmod(directory, 0o755)
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(namespace()) for _ in range(2)]
        left, right = (
            Host(name, inode_of(name), addresses, f"cable{number}")
            for number, (name, addresses) in enumerate(zip(names, _ADDRESSES, strict=True))
        )
        _wire(left, right)
        run = directory / "nginx"
        run.mkdir()
        v4, v6 = left.addresses
        config = directory / "nginx.conf"
        config.write_text(_NGINX.format(run=run, v4=v4, v6=v6, port=NGINX_PORT))
        nginx = ["nginx", "-c", str(config), "-p", str(run)]
        left.server = "nginx"
        stack.enter_context(_serving(left, nginx, NGINX_PORT))
        redis = [
            *("redis-server", "--port", str(REDIS_PORT), "--bind", *right.addresses),
            *("--save", "", "--appendonly", "no", "--protected-mode", "no"),
            *("--dir", str(directory), "--tcp-keepalive", "0", "--timeout", "0"),
            *("--unixsocket", str(directory / "redis.sock")),
        ]
        right.server = "redis-server"
        stack.enter_context(_serving(right, redis, REDIS_PORT))
        residents = []
        for host, peer in ((left, right), (right, left)):
            resident = _Resident(host, peer, directory / host.name)
            stack.callback(resident.end)
            residents.append(resident)
        for order in ("listen", "connect", "accept"):
            for resident in residents:
                resident.obey(order)
        request = "GET / HTTP/1.1\r\nHost: left\r\n\r\n"
        stack.enter_context(_kept(right, left, NGINX_PORT, request))
        stack.enter_context(_kept(left, right, REDIS_PORT, "PING\r\n"))
        for order in ("leave", "be left"):  # last, as what they leave lives for a minute only
            for resident in residents:
                resident.obey(order)
        time.sleep(SETTLE_SECONDS)
        for host, resident in zip((left, right), residents, strict=True):
            host.truths, host.missing, host.unexplained = resident.obey("describe")
        for host, peer in ((left, right), (right, left)):
            host.truths += _queued(host, peer)
        yield left, right


def _queued(host: Host, peer: Host) -> list[Truth]:
    """Return the connections in a host's accept queue, which no descriptor leads to."""
    (listener,) = (
        truth
        for truth in host.truths
        if (truth.get("state"), truth.get("local_port")) == ("LISTEN", QUEUED)
    )
    return [
        {
            **{name: truth[name] for name in ("netid", "state", "family")},
            **{name: truth[_SWAPPED[name]] for name in _SWAPPED},
            "pid": listener["pid"],
            "fd": None,
            "inode": 0,
            "comm": COMM,
            "owner_by": "listener",
            "recv_q": 0,
            "send_q": 0,
        }
        for truth in peer.truths
        if truth.get("peer_port") == QUEUED
    ]


_SWAPPED = {
    "local_addr": "peer_addr",
    "local_port": "peer_port",
    "peer_addr": "local_addr",
    "peer_port": "local_port",
}
