"""What summary says of recordings by tests.kernels.incidents: the kernel counted the same itself.

They were made under other kernels, where limits of a whole machine may be set, and are read here.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import analyzer

FOLDER = os.environ.get("SOCKREC_INCIDENTS", "")
"""Where the recordings are."""

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs recordings of a machine of its own: make test-kernels"
)

PAGE = 4096


@dataclass(frozen=True)
class Incidents:
    """What summary says of a recording, and what the kernel said itself, by what was done."""

    rows: list[dict[str, Any]]
    truth: dict[str, dict[str, int]]

    def of(self, finding: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return what was found, of the whole host or of the namespaces of a kind."""
        ends = [self.truth[kind][end] for end in ("client", "server")] if kind else [None]
        return [row for row in self.rows if row["finding"] == finding and row["netns"] in ends]

    def the_only(
        self, finding: str, kind: str | None = None, end: str = "client"
    ) -> dict[str, Any]:
        """Return what was found once, of the whole host or at one end."""
        found = self.of(finding, kind)
        (row,) = (row for row in found if kind is None or row["netns"] == self.truth[kind][end])
        return row


def of(name: str) -> Incidents:
    folder = Path(FOLDER) / name
    with analyzer.open(folder / "recording") as opened:
        rows = opened.summary().table().to_pylist()
    return Incidents(rows, json.loads((folder / "truth.json").read_text()))


@pytest.fixture(scope="module")
def links() -> Incidents:
    return of("links")


@pytest.fixture(scope="module")
def table() -> Incidents:
    return of("table")


@pytest.fixture(scope="module")
def memory() -> Incidents:
    return of("memory")


def number(pattern: str, row: dict[str, Any]) -> int:
    """Return the number that a sentence has where the pattern has a group."""
    found = re.search(pattern, row["sentence"])
    assert found, row["sentence"]
    return int(found[1].replace(",", ""))


def test_what_a_link_lost_is_told_as_lost_and_counted(links: Incidents) -> None:
    row = links.the_only("retransmits", "lossy")
    assert row["severity"] == "warning"
    dropped = links.truth["lossy"]["dropped"]
    again = number(r"([\d,]+) segments on", row)
    # the handshake, its end and acknowledgements carry no data; one that was lost may be probed for
    assert abs(again - dropped) <= 5 + dropped // 20, (row["sentence"], dropped)


def test_nothing_else_is_told_as_lost(links: Incidents) -> None:
    """Segments that overtook each other, a far peer and a slow link lose nothing."""
    assert links.truth["overtaking"]["dropped"] == 0
    for kind in ("overtaking", "far", "slow"):
        assert [row for row in links.of("retransmits", kind) if "lost" in row["sentence"]] == []
    told = links.of("retransmits", "overtaking")
    assert [row["severity"] for row in told] in ([], ["note"])


def test_a_full_queue_of_a_slow_link_is_told_and_a_far_peer_is_not(links: Incidents) -> None:
    assert links.of("bufferbloat", "slow") != []
    assert links.of("bufferbloat", "far") == []


def test_a_connection_table_that_is_nearly_full_is_told(table: Incidents) -> None:
    row = table.the_only("conntrack", "crowd")
    entries = table.truth["crowd"]["entries"]
    assert (row["severity"], row["measured"], row["threshold"]) == ("warning", entries, 64)
    assert f"{entries} of 64 entries" in row["sentence"]


def test_a_connection_table_that_overflows_is_told(table: Incidents) -> None:
    dropped = table.truth["overflow"]["dropped"]
    assert dropped > 0
    row = table.the_only("conntrack", "overflow")
    assert (row["severity"], row["measured"]) == ("critical", dropped)
    assert "64 of 64 entries (100 %)" in row["sentence"]


def test_memory_of_tcp_above_what_it_should_be_is_told(memory: Incidents) -> None:
    row = memory.the_only("tcp_memory")
    lasting, peak = (
        max(memory.truth[kind][name] for kind in ("unread", "orphans"))
        for name in ("lasting", "peak")
    )
    # two samples a second see at least what lasted
    assert lasting <= row["measured"] <= peak, (lasting, peak)
    assert row["threshold"] == 200
    assert f"{row['measured'] * PAGE / 1e6:,.1f} MB" in row["sentence"]


def test_connections_reset_for_want_of_room_for_orphans_are_told(memory: Incidents) -> None:
    row = memory.the_only("orphans", "orphans")
    reset = memory.truth["orphans"]["reset"]
    assert reset > 0
    assert (row["severity"], row["measured"]) == ("critical", reset)


def test_time_wait_that_was_cut_short_is_told(links: Incidents) -> None:
    row = links.the_only("time_wait", "short")
    assert row["measured"] == links.truth["short"]["dropped"] > 0
    assert "50 allowed" in row["sentence"]


def test_datagrams_dropped_for_want_of_memory_are_told_as_that(memory: Incidents) -> None:
    row = memory.the_only("udp_drops", "datagrams", "server")
    truth = memory.truth["datagrams"]
    assert row["measured"] == truth["memory"] + truth["buffer"] > 0
    assert "of the 0.2 MB that they may have together (udp_mem)" in row["sentence"]


LIMITS = (
    "conntrack",
    "orphans",
    "tcp_memory",
    "time_wait",
    "udp_drops",
    "retransmits",
    "bufferbloat",
)


def test_the_same_without_limits_and_bad_links_is_silent() -> None:
    at_ease = of("at_ease")
    assert [row["sentence"] for row in at_ease.rows if row["finding"] in LIMITS] == []
