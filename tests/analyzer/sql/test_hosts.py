"""Several hosts and runs opened together: each answers as it does alone, and nothing mixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer import Analysis
from analyzer.sql.catalog import find_report, read_catalog
from analyzer.sql.library import pieces
from analyzer.sql.summary import lines
from recorder.schema import TABLES

SAMPLES = Path(__file__).parents[3] / "samples"
INCIDENTS = ("accept_overflow", "close_wait_leak", "port_exhaustion", "slow_reader", "udp_drops")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Five incidents, each as if of a host of its own."""
    folder = tmp_path_factory.mktemp("hosts")
    paths = {}
    for number, incident in enumerate(INCIDENTS):
        path = folder / f"host=db{number}" / "day=22"
        shutil.copytree(SAMPLES / incident / "recording", path)
        facts = json.loads((path / "recording.json").read_text()) | {"host": f"db{number}"}
        (path / "recording.json").write_text(json.dumps(facts))
        paths[f"db{number}"] = path
    return paths


@pytest.fixture(scope="module")
def together(hosts: Mapping[str, Path]) -> Iterator[Analysis]:
    with analyzer.open(*reversed(list(hosts.values()))) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(hosts: Mapping[str, Path]) -> Iterator[Mapping[str, Analysis]]:
    with ExitStack() as stack:
        yield {host: stack.enter_context(analyzer.open(path)) for host, path in hosts.items()}


def named(host: str, rows: list[Row]) -> list[Row]:
    return [{"host": host, **row} for row in rows]


def test_the_hosts_could_be_mixed_up(alone: Mapping[str, Analysis]) -> None:
    """Some share a namespace's number, a boot, and numbers of samples and processes."""
    query = "SELECT DISTINCT netns, boot, sample FROM sockets WHERE sample = 7"
    found = [str(opened.sql(query).table().to_pylist()) for opened in alone.values()]
    assert len(set(found)) == 2


@pytest.mark.parametrize("report", read_catalog())
def test_a_report_of_five_hosts_has_the_rows_of_each_alone(
    report: str, together: Analysis, alone: Mapping[str, Analysis]
) -> None:
    given: dict[str, Any] = {"top": 3}
    found = together.report(report, **given).table()
    assert found.column_names == ["host", *find_report(report).columns]
    assert found.to_pylist() == [
        row
        for host, opened in alone.items()
        for row in named(host, opened.report(report, **given).table().to_pylist())
    ]


def test_the_findings_of_five_hosts_are_those_of_each_alone(
    together: Analysis, alone: Mapping[str, Analysis]
) -> None:
    found = together.summary()
    rows = found.table().to_pylist()
    assert {row["host"] for row in rows} == alone.keys()
    for host, opened in alone.items():
        summary = opened.summary()
        expected = named(host, summary.table().to_pylist())
        assert [row for row in rows if row["host"] == host] == expected
        assert {query.name for query in summary.checked} <= {query.name for query in found.checked}
    severities = [row["severity"] for row in rows]
    assert severities == sorted(severities)  # critical, note, warning: of these there is no note
    text = "\n".join(lines(found, "lake"))
    assert "critical  db0: checkout-api (pid 19) lets its accept queue" in text


@pytest.mark.parametrize("name", [*TABLES, *(n for n, p in pieces().items() if p.layer == "views")])
def test_a_table_or_view_has_the_rows_of_each_alone(
    name: str, together: Analysis, alone: Mapping[str, Analysis]
) -> None:
    # What there is once for each host is told apart by host, not mixed into one.
    whole = f"SELECT * FROM {name}"
    columns = [c for c in alone["db0"].sql(f"{whole} LIMIT 0").table().column_names if c != "ns"]
    text = ", ".join(f'"{column}"' for column in columns)
    query = f"SELECT count(*) AS n, sum(hash({text}) % 1000003) AS rows FROM {name}"
    found = together.sql(query + " GROUP BY host ORDER BY host".replace("GROUP BY host", ""))
    if "host" in columns:
        expected = sum_of(opened.sql(query).table().to_pylist()[0] for opened in alone.values())
        assert sum_of(together.sql(query).table().to_pylist()) == expected
    by_host = f"SELECT host, boot, run, count(*) AS n FROM {name} GROUP BY ALL ORDER BY host"
    counts = {row["host"]: row["n"] for row in together.sql(by_host).table().to_pylist()}
    del found
    assert counts == {
        host: n
        for host, opened in alone.items()
        if (n := opened.sql(f"SELECT count(*) AS n FROM {name}").table().to_pylist()[0]["n"])
    }
