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
        found[report.name] = list(map(repr, opened.report(report, **top).table().to_pylist()))
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
