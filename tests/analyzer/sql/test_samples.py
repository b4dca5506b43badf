"""Every report on every sample: what it says there, and that it says it whole."""

import io
import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

import analyzer
from analyzer import Analysis
from analyzer.screen.render import Format, write
from analyzer.sql.catalog import find_report, read_catalog

SAMPLES = Path(__file__).parents[3] / "samples"
NAMES = sorted(path.parent.name for path in SAMPLES.glob("*/truth.json"))
TOP = 4


def test_there_are_the_incidents() -> None:
    assert NAMES == [
        "accept_overflow",
        "close_wait_leak",
        "descriptor_leak",
        "gateway_lost",
        "healthy",
        "port_exhaustion",
        "short_connections",
        "slow_reader",
        "stalled_sender",
        "time_wait_storm",
        "udp_drops",
    ]


def truth(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / name / "truth.json").read_text())
    return found


@pytest.fixture(scope="module", params=NAMES)
def sample(request: pytest.FixtureRequest) -> Iterator[Analysis]:
    with analyzer.open(SAMPLES / request.param / "recording") as opened:
        yield opened


@pytest.mark.parametrize("report", read_catalog())
def test_a_report_says_what_it_said(
    sample: Analysis, report: str, snapshot: SnapshotAssertion
) -> None:
    out = io.StringIO()
    with sample.report(report, top=TOP).batches() as (schema, batches):
        rows = list(batches)
        assert schema.names == list(find_report(report).columns)
        write(schema, rows, Format.csv, out)
    numbers = [value for batch in rows for row in batch.to_pylist() for value in row.values()]
    assert [one for one in numbers if isinstance(one, float) and not isfinite(one)] == []
    if any(batch.num_rows for batch in rows):
        assert out.getvalue() == snapshot


@pytest.mark.parametrize("report", ["time_wait", "port_exhaustion"])
def test_a_condition_that_leaves_out_listeners_makes_no_server_a_client(report: str) -> None:
    with analyzer.open(SAMPLES / "short_connections" / "recording") as opened:
        whole = opened.report(report, top=0).table()
        assert opened.report(report, top=0, where="peer_port > 0").table() == whole
