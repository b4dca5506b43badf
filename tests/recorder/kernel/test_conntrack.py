"""The connection tracking table of a real gateway, beside the text that the kernel has of it."""

from __future__ import annotations

import collections
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from recorder.kernel import conntrack
from recorder.kernel.conntrack import Conntrack, Look
from tests.recorder.support.recorded import read, record
from tests.workloads.gateway import LACKING, gateway
from tests.workloads.netns import entered, inside, namespace

pytestmark = [pytest.mark.live, pytest.mark.skipif(LACKING is not None, reason=str(LACKING))]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[str]:
    with gateway(tmp_path / "done") as (_, middle, _):
        yield middle


Group = tuple[Any, ...]


def told(text: str) -> collections.Counter[Group]:
    """Count the lines of /proc/net/nf_conntrack by what rows have."""
    counts: collections.Counter[Group] = collections.Counter()
    for line in text.splitlines():
        family, _, protocol, _, _, *words = line.split()
        state = words[0] if "=" not in words[0] else None
        pairs = [word.split("=") for word in words if "=" in word]
        ends = {name: [value for key, value in pairs if key == name] for name in dict(pairs)}
        (source, answers), (destination, answered) = (
            [str(ip_address(text)) for text in ends[name]] for name in ("src", "dst")
        )
        port, reply_port = int(ends["dport"][0]), int(ends["sport"][1])
        moved = (answers, reply_port) != (destination, port)
        counts[
            {"ipv4": "inet", "ipv6": "inet6"}[family],
            protocol,
            source,
            destination,
            port,
            answers if moved else None,
            reply_port if moved else None,
            answered if answered != source else None,
            state,
            "[UNREPLIED]" in words,
        ] += 1
    return counts


NAMES = (
    "family protocol source destination port nat_destination nat_port nat_source state unreplied"
)


def found(look: Look) -> dict[Group, int]:
    return {tuple(row[name] for name in NAMES.split()): row["entries"] for row in look.rows}


def text_of(name: str) -> str:
    path = Path("/proc/thread-self/net/nf_conntrack")
    if not entered(name, path.exists):
        pytest.skip("needs a kernel that shows the table in /proc")
    return str(entered(name, path.read_text))


def test_entries_are_those_that_the_kernel_tells_as_text(table: str) -> None:
    for _ in range(100):  # a state may change between two looks
        before = told(text_of(table))
        look = entered(table, lambda: Conntrack().look(1))
        after = told(text_of(table))
        if before == after:
            break
    assert found(look) == after
    assert look.entries == after.total()
    kept = "inet", "tcp", "10.1.0.2", "10.1.0.1", 80, "10.2.0.2", 8080, "10.2.0.1"
    assert after[*kept, "ESTABLISHED", False] == 4
    assert sum(n for group, n in after.items() if group[:8] == kept) == 5
    assert after["inet6", "tcp", "fd01::2", "fd02::2", 9000, *[None] * 3, "ESTABLISHED", False] == 2
    silent = {group[4]: n for group, n in after.items() if group[1] == "udp"}
    assert silent == {53: 1, 54: 1}
    assert all(group[-1] for group in after if group[1] == "udp")
    assert look.outcome.name == "ok"


def test_what_is_too_much_is_told_by_protocol_and_state(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "MOST_GROUPS", 1)
    look = entered(table, lambda: Conntrack().look(1))
    first, *rest = look.rows
    assert first["source"] is not None
    assert first["entries"] == max(row["entries"] for row in look.rows if row.get("source"))
    assert all(row.get("source") is None for row in rest)
    kinds = [(row["protocol"], row["state"], row["unreplied"]) for row in rest]
    assert len(set(kinds)) == len(kinds)
    assert {"tcp", "udp"} == {row["protocol"] for row in rest}
    assert sum(row["entries"] for row in look.rows) == look.entries


def test_a_table_is_looked_at_again_when_its_time_has_come() -> None:
    now = [100.0]
    looks = Conntrack(clock=lambda: now[0])
    assert looks.is_due(7)
    looks.look(7)
    assert not looks.is_due(7)
    assert looks.is_due(8)
    now[0] += conntrack.EVERY_S
    assert looks.is_due(7)


def test_a_namespace_without_a_table_has_no_entries() -> None:
    with namespace() as name:
        look = entered(name, lambda: Conntrack().look(1))
    assert (look.rows, look.entries) == ([], 0)
    assert socket.if_nameindex()  # and this thread is where it was


def test_what_may_not_be_read_is_told_once(table: str, tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to run without capabilities")
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = record(tmp_path / "r", "--conntrack", "-n", "2", "--netns", "current")
    done = subprocess.run(
        inside(table, *powerless, *command), capture_output=True, text=True, timeout=60, check=True
    )
    unseen = json.loads((tmp_path / "r" / "recording.json").read_text())["unseen"]
    why = [one["why"] for one in unseen if one["what"] == "connection tracking tables"]
    assert why == ["needs CAP_NET_ADMIN"]
    steps = [
        row for row in read(tmp_path / "r", "samples").to_pylist() if row["step"] == "conntrack"
    ]
    assert [row["outcome"] for row in steps] == ["unavailable"]
    assert "Traceback" not in done.stderr
