"""Records what meets the limits of a whole machine and goes over bad links, and the same without.

``python -m tests.kernels.incidents FOLDER`` makes a folder of each of ``INCIDENTS`` in it, with a
recording and what the kernel said itself (truth.json). It sets limits of the whole machine: it runs
where nobody else is, under tests.kernels.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.kernels.traffic import KINDS, LINKS, SERVER
from tests.recorder.support.recorded import record
from tests.workloads.netns import inside, ip, namespace

CLIENT = "10.78.0.1"
NETEM = {
    "lossy": "loss 8%",
    "overtaking": "delay 20ms reorder 30%",
    "far": "delay 100ms",
    "slow": "rate 8mbit limit 10000",
}
"""What the client's link does where it is strained."""

FEW = {"short": {"tcp_max_tw_buckets": "50"}}
"""Limits of one namespace where it is strained."""

LIMITS = {
    "links": {},
    "table": {"netfilter/nf_conntrack_max": "64"},
    "memory": {
        "ipv4/tcp_mem": "100 200 40000",
        "ipv4/tcp_max_orphans": "8",
        "ipv4/udp_mem": "16 32 48",
    },
    "at_ease": {},
}
"""Limits of the machine that are lowered for a recording."""

INCIDENTS = {
    "links": (*LINKS, "short"),
    "table": ("crowd", "overflow"),
    "memory": ("unread", "orphans", "datagrams"),
    "at_ease": (*LINKS, *KINDS),
}
"""What is done in each recording."""


@contextlib.contextmanager
def pair(kind: str, *, strained: bool) -> Iterator[str]:
    """Join two namespaces by a link; yield their names."""
    with namespace() as client, namespace() as server:
        ip("-n", client, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", server)
        for name, address in ((client, CLIENT), (server, SERVER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            # netem drops whole bundles of segments, and counts one
            ip("-n", name, "link", "set", "cable", "gso_max_segs", "1", "up")
        if strained and kind in NETEM:
            words = ("tc", "qdisc", "add", "dev", "cable", "root", "netem", *NETEM[kind].split())
            subprocess.run(inside(client, *words), check=True)
        for name, value in FEW.get(kind, {}).items() if strained else ():
            script = f"echo {value} >/proc/sys/net/ipv4/{name}"
            subprocess.run(inside(client, "sh", "-c", script), check=True)
        yield f"{client},{server}"


@contextlib.contextmanager
def lowered(limits: dict[str, str]) -> Iterator[None]:
    """Set limits of the machine, and set them back."""
    paths = {Path("/proc/sys/net") / name: value for name, value in limits.items()}
    before = {path: path.read_text() for path in paths}
    for path, value in paths.items():
        path.write_text(value)
    try:
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


def make(folder: Path, name: str) -> None:
    """Record one of ``INCIDENTS`` into a folder."""
    with contextlib.ExitStack() as stack:
        words = [
            f"{kind}={stack.enter_context(pair(kind, strained=name != 'at_ease'))}"
            for kind in INCIDENTS[name]
        ]
        stack.enter_context(lowered(LIMITS[name]))
        traffic = [sys.executable, "-m", "tests.kernels.traffic", str(folder / "truth.json")]
        options = ("-i", "500ms", "-A", "tcp,udp", "--netns", "all", "--", *traffic, *words)
        subprocess.run(
            record(folder / "recording", *options), check=True, cwd=Path(__file__).parents[2]
        )


def main() -> None:
    """Make all; they are written elsewhere first, as the folder may be of another kernel."""
    for name in INCIDENTS:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), name)
            shutil.copytree(folder, Path(sys.argv[1]) / name)


if __name__ == "__main__":
    main()
