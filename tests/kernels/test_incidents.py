"""What summary says of the limits of a whole machine and of bad links; silence without them.

It sets limits of the whole machine: it runs where nobody else is, under tests.kernels.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analyzer
from tests.kernels.traffic import CONNECTIONS, SERVER
from tests.recorder.support.recorded import record
from tests.workloads.netns import inside, ip, namespace

pytestmark = pytest.mark.skipif(
    "SOCKREC_GUEST" not in os.environ, reason="needs a machine of its own: make test-kernels"
)

CLIENT = "10.78.0.1"
LINKS = {
    "lossy": "loss 8%",
    "overtaking": "delay 20ms reorder 30%",
    "slow": "rate 20mbit delay 5ms limit 10000",
}


@contextlib.contextmanager
def pair(link: str | None = None, **sysctls: str) -> Iterator[tuple[str, str]]:
    """Join two namespaces; what the client sends goes by netem with these words."""
    with namespace() as client, namespace() as server:
        ip("-n", client, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", server)
        for name, address in ((client, CLIENT), (server, SERVER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        if link:
            words = ("tc", "qdisc", "add", "dev", "cable", "root", "netem", *link.split())
            subprocess.run(inside(client, *words), check=True)
        for name, value in sysctls.items():
            script = f"echo {value} >/proc/sys/net/ipv4/{name}"
            subprocess.run(inside(client, "sh", "-c", script), check=True)
        yield client, server


def found(directory: Path, *, strained: bool) -> dict[str, list[dict[str, Any]]]:
    """Record all traffic; return the findings by name."""
    few = {"tcp_max_tw_buckets": "50"} if strained else {}
    target = directory / "recording"
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(pair(link if strained else None)) for link in LINKS.values()]
        others = {
            kind: stack.enter_context(pair(**few if kind == "short" else {}))
            for kind in ("crowd", "unread", "orphans", "short", "datagrams")
        }
        pairs = [("bulk", names) for names in links] + list(others.items())
        words = [f"{kind}={','.join(names)}" for kind, names in pairs]
        traffic = [sys.executable, "-m", "tests.kernels.traffic"]
        command = [*traffic, "strained" if strained else "at ease", *words]
        options = ("-i", "500ms", "--netns", "all", "--", *command)
        subprocess.run(record(target, *options), check=True, cwd=Path(__file__).parents[2])
    with analyzer.open(target) as opened:
        rows = opened.summary().table().to_pylist()
    names = {row["finding"] for row in rows}
    return {name: [row for row in rows if row["finding"] == name] for name in names}


LIMITS = {"conntrack", "orphans", "tcp_memory", "time_wait", "udp_drops"}


def test_summary_names_each_limit_and_the_link_that_loses(tmp_path: Path) -> None:
    rows = found(tmp_path, strained=True)
    said = "\n".join(row["sentence"] for each in rows.values() for row in each)
    assert rows.keys() >= LIMITS | {"retransmits"}, said
    lost = [row for row in rows["retransmits"] if row["severity"] == "warning"]
    assert [row["subject"] for row in lost] == [SERVER], said  # neither overtaking nor slow
    assert 2 < lost[0]["measured"] < 30, said
    assert f"{CONNECTIONS} of 64 entries" in said


def test_summary_is_silent_without(tmp_path: Path) -> None:
    rows = found(tmp_path, strained=False)
    assert rows.keys() & (LIMITS | {"retransmits"}) == set(), rows
