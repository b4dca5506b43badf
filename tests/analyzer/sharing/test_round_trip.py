"""What a bundle holds says the same as the recording, up to the names: on every sample."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer import Analysis
from analyzer.sharing.output import described, write_recording
from analyzer.sharing.pseudonyms import Pseudonyms, unredact
from analyzer.sharing.redaction import Redaction
from analyzer.sharing.selection import select
from analyzer.sharing.words import Level
from analyzer.sql.catalog import read_catalog
from analyzer.sql.views import WHOLE

SAMPLES = sorted((Path(__file__).resolve().parents[3] / "samples").glob("*/recording"))
REPORTS = list(read_catalog().values())
NETWORKS = {"connections": {"dev", "next_hop"}, "peers": {"dev"}, "network": {"address"}}
"""Columns that rest on networks, which other names for addresses do not keep: nothing is there."""

EACH = 5
"""Of so many reports a sample is asked one, so that each is asked of two samples."""


def redacted(own: Analysis, folder: Path) -> Pseudonyms:
    """Write what a bundle has of a recording, but for its pages; return what names stand for."""
    selection = select(own.engine, WHOLE)
    facts = described(own.engine.recordings[0].facts, selection)
    redaction = Redaction(selection, facts, Level.all)
    write_recording(folder, selection, redaction.facts(facts), rewrite=redaction.rewrite, level=1)
    return redaction.pseudonyms


def rows(opened: Analysis, place: int) -> dict[str, list[str]]:
    """Return all rows of each report, in an order that no name decides."""
    found = {}
    for number, report in zip(count(place), REPORTS, strict=False):
        if number % EACH:
            continue
        top: dict[str, Any] = {"top": 0} if any(one.name == "top" for one in report.params) else {}
        lines = opened.report(report, **top).table().to_pylist()
        lost = NETWORKS.get(report.name, set())
        found[report.name] = [
            repr({k: v for k, v in row.items() if k not in lost}) for row in lines
        ]
    return found


@pytest.mark.parametrize("place", range(len(SAMPLES)), ids=[one.parent.name for one in SAMPLES])
def test_reports_are_the_same_up_to_the_map(place: int, tmp_path: Path) -> None:
    with analyzer.open(SAMPLES[place]) as own:
        pseudonyms = redacted(own, tmp_path / "r")
        wanted = rows(own, place)
    with analyzer.open(tmp_path / "r") as shared:
        found = rows(shared, place)
    assert found != wanted
    for name, lines in wanted.items():
        back = [unredact(line, pseudonyms) for line in found[name]]
        assert sorted(back) == sorted(lines), name


def test_no_next_hop_is_told_of_addresses_that_are_other_ones(tmp_path: Path) -> None:
    (lost,) = (path for path in SAMPLES if path.parent.name == "gateway_lost")
    with analyzer.open(lost) as own:
        redacted(own, tmp_path / "r")
        known = own.report("connections", top=0).table().to_pylist()
    with analyzer.open(tmp_path / "r") as shared:
        rows = shared.report("connections", top=0).table().to_pylist()
        found = {row["finding"] for row in shared.summary().table().to_pylist()}
    assert {row["dev"] for row in known} == {"lo", "eth0"}
    assert {row["dev"] for row in rows} == {"lo", None}
    assert {row["next_hop"] for row in rows} == {None}
    assert found == {"network_stall"}  # not why: the network of its gateway is not known
