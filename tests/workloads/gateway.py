"""A gateway that translates addresses between a client and a server, in namespaces of their own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder.support.owners_child import Child
from tests.workloads.netns import MOUNTS, inside, ip, lacking, namespace

LACKING = lacking() or (None if shutil.which("nft") else "needs nft, to have connections tracked")
"""What this machine lacks for it, None if nothing."""

LINKS = [
    (0, "link add eth0 type veth peer name left netns {1}"),
    (2, "link add eth0 type veth peer name right netns {1}"),
    *(
        (1, f"addr add {addr} dev {dev}")
        for dev, addr in (("left", "10.1.0.1/24"), ("right", "10.2.0.1/24"))
    ),
    *(
        (1, f"addr add {addr}/64 dev {dev} nodad")
        for dev, addr in (("left", "fd01::1"), ("right", "fd02::1"))
    ),
    (0, "addr add 10.1.0.2/24 dev eth0"),
    (2, "addr add 10.2.0.2/24 dev eth0"),
    (0, "addr add fd01::2/64 dev eth0 nodad"),
    (2, "addr add fd02::2/64 dev eth0 nodad"),
    *((1, f"link set {dev} up") for dev in ("left", "right")),
    *((at, "link set eth0 up") for at in (0, 2)),
    (0, "route add default via 10.1.0.1"),
    (0, "-6 route add default via fd01::1"),
    (2, "-6 route add default via fd02::1"),
]

RULES = """
table ip nat {
  chain before {
    type nat hook prerouting priority -100
    tcp dport 80 ip daddr 10.1.0.1 dnat to 10.2.0.2:8080
  }
  chain after {
    type nat hook postrouting priority 100
    oifname right masquerade
  }
}
table inet track {
  chain any {
    type filter hook forward priority 0
    ct state new counter
  }
}
"""

STORY = """
def at(number, life):
    def be():
        assert not libc.setns(os.open({paths!r}[number], os.O_RDONLY), 0x40000000)
        life()
    return fork(be)
def serve():
    libc.prctl(15, b"server")
    doors = [socket.create_server(("10.2.0.2", port)) for port in (8080, 9000)]
    doors.append(socket.create_server(("fd02::2", 9000), family=socket.AF_INET6))
    signal.pause()
made = []
def patient(where, family=socket.AF_INET):
    for _ in range(200):
        one = socket.socket(family)
        try: one.connect(where)
        except OSError: time.sleep(0.05)
        else: return one
def call():
    libc.prctl(15, b"caller")
    for _ in range(5): made.append(patient(("10.1.0.1", 80)))
    for _ in range(3): made.append(patient(("10.2.0.2", 9000)))
    for _ in range(2): made.append(patient(("fd02::2", 9000), socket.AF_INET6))
    made.pop(0).close()
    one = socket.socket(type=socket.SOCK_DGRAM)
    for port in (53, 53, 54): one.sendto(b"?", ("10.2.0.77", port))
    open({done!r}, "w").close()
    signal.pause()
at(2, serve), at(0, call)
"""


@contextlib.contextmanager
def gateway(done: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the names of a client, a gateway and a server, once all is open; ``done`` is a path.

    Skips the test where the kernel tracks no connections.
    """
    with namespace() as client, namespace() as middle, namespace() as server, Child() as child:
        names = client, middle, server
        for at, line in LINKS:
            ip("-n", names[at], *line.format(*names).split())
        forward = "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"
        subprocess.run(inside(middle, "sysctl", "-qw", *forward), check=True)
        ruled = subprocess.run(inside(middle, "nft", RULES), capture_output=True, text=True)
        if "Operation not supported" in ruled.stderr or "No such file" in ruled.stderr:
            pytest.skip("needs a kernel with NAT and connection tracking")
        assert not ruled.returncode, ruled.stderr
        child.run(STORY.format(paths=[str(MOUNTS / name) for name in names], done=str(done)))
        child.run(f"while not os.path.exists({str(done)!r}): time.sleep(0.01)")
        yield names
