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
from analyzer.screen.sparkline import read_chart
from analyzer.sql.catalog import find_report, read_catalog
from analyzer.sql.hosts import charted, lacking_each
from analyzer.sql.info import describe
from analyzer.sql.library import pieces
from analyzer.sql.summary import SEVERITIES, lines
from analyzer.sql.verify import verify
from analyzer.sql.views import ScopeError
from recorder.schema import TABLES
from tests.analyzer.support.recordings import Writer, small, step, tcp

SAMPLES = Path(__file__).parents[3] / "samples"
INCIDENTS = ("accept_overflow", "close_wait_leak", "port_exhaustion", "slow_reader", "udp_drops")
"""All but one share boot and namespace, the first two numbers of sockets as well."""
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
    query = "SELECT min(cookie) AS first, max(cookie) AS last FROM sockets"
    one, other, *_ = (opened.sql(query).table().to_pylist()[0] for opened in alone.values())
    assert max(one["first"], other["first"]) < min(one["last"], other["last"])


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
    places = [SEVERITIES.index(row["severity"]) for row in rows]
    assert places == sorted(places)
    text = "\n".join(lines(found, "lake"))
    assert (
        "critical  db0: checkout-api (pid 19) accepted nothing for 16 s: its accept queue" in text
    )


@pytest.mark.parametrize("name", [*TABLES, *(n for n, p in pieces().items() if p.layer == "views")])
def test_a_table_or_view_has_the_rows_of_each_alone(
    name: str, together: Analysis, alone: Mapping[str, Analysis]
) -> None:
    table = alone["db0"].sql(f"SELECT * FROM {name} LIMIT 0").table()
    columns = [column for column in table.column_names if column not in ("host", "boot", "ns")]
    text = ", ".join(f'"{column}"' for column in columns)
    query = f"count(*) AS n, sum(hash({text})) AS all_of_them FROM {name}"
    found = together.sql(f"SELECT host, {query} GROUP BY host ORDER BY host").table().to_pylist()
    assert found == [
        {"host": host} | row
        for host, opened in alone.items()
        for row in opened.sql(f"SELECT {query}").table().to_pylist()
        if row["n"]
    ]
    key = "count(DISTINCT (host, boot, run)) AS n"
    (row,) = together.sql(f"SELECT {key} FROM {name}").table().to_pylist()
    assert row["n"] == len(found)


def test_the_namespaces_of_all_hosts_are_told_apart(together: Analysis) -> None:
    query = "SELECT count(DISTINCT netns) AS netns, count(DISTINCT ns) AS ns FROM connections"
    assert together.sql(query).table().to_pylist() == [{"netns": 2, "ns": len(INCIDENTS)}]
    query = "SELECT count(*) AS n FROM raw.sockets WHERE netns_of(ns) <> netns"
    assert together.sql(query).table().to_pylist() == [{"n": 0}]


def test_a_relative_time_counts_from_each_recordings_own_samples(
    together: Analysis, alone: Mapping[str, Analysis]
) -> None:
    scope: dict[str, Any] = {"start": "+5s", "end": "-5s", "where": "state <> 'LISTEN'"}
    query = "SELECT count(*) AS n, sum(hash(cookie)) AS cookies FROM {}"
    for name in ("sockets", "closes", "baseline", "connections"):
        each = f"{query.format(name)} GROUP BY host ORDER BY host"
        assert together.sql(
            each.replace("count", "host, count", 1), **scope
        ).table().to_pylist() == [
            row
            for host, opened in alone.items()
            for row in named(host, opened.sql(query.format(name), **scope).table().to_pylist())
            if row["n"]
        ]
    assert together.report("states", **scope).table().to_pylist() == [
        row
        for host, opened in alone.items()
        for row in named(host, opened.report("states", **scope).table().to_pylist())
    ]
    with pytest.raises(ScopeError, match="is no condition on a row of sockets"):
        together.sql("SELECT 1 FROM sockets", where="nosuch = 1").table()


def two_runs(tmp_path: Path) -> list[Path]:
    """Two runs of a recorder on one boot, one still in journals, and another boot."""
    runs: dict[str, dict[str, Any]] = {
        "first": {},
        "second": {"started": "2026-11-22T16:00:00.000000Z"},
        "third": {"started": "2026-11-22T17:00:00.000000Z", "boot_id": "another"},
    }
    for name, told in runs.items():
        writer = Writer(tmp_path / name, **told)
        for _ in range(2):
            writer.sample([tcp(7, send_q=len(name))], steps=[step("tcp")])
        if name != "second":
            writer.seal()
    return [tmp_path / name for name in ("third", "first", "second")]


def test_runs_and_boots_of_one_host_are_told_apart(tmp_path: Path) -> None:
    with analyzer.open(*two_runs(tmp_path)) as opened:
        found = opened.report("states").table()
        assert found.column_names[:2] == ["host", "run"]
        assert found["run"].unique().to_pylist() == [
            "2026-11-22T15:04:05.000000Z",
            "2026-11-22T16:00:00.000000Z",
            "2026-11-22T17:00:00.000000Z",
        ]
        query = (
            "SELECT boot, run, ns - netns AS more, cookie, count(*) AS n, any_value(send_q) AS q "
            "FROM sockets GROUP BY ALL ORDER BY run"
        )
        rows = opened.sql(query).table().to_pylist()
        assert [(row["more"] >> 32, row["cookie"], row["n"], row["q"]) for row in rows] == [
            (0, 7, 2, 5),
            (1, 7, 2, 6),
            (2, 7, 2, 5),
        ]
        assert {row["boot"] for row in rows} == {"another", rows[0]["boot"]}


def test_what_recordings_lack_is_told_of_each(tmp_path: Path) -> None:
    small(tmp_path / "a", host="a").seal()
    writer = Writer(tmp_path / "b", host="b")
    writer.sample([tcp(1)], closes=[{"cookie": 9}], steps=[step("tcp"), step("closes", rows=1)])
    with analyzer.open(tmp_path / "a", tmp_path / "b") as opened:
        scope = opened.scope(None, None)
        told = lacking_each(opened.engine, scope, find_report("short_lived"))
        assert "the ends of connections were not recorded (a)" in told
        unchecked = {one.finding: one.why for one in opened.summary().unchecked}
        assert unchecked["conntrack"] == "the kernel's counters were not recorded"
        assert describe(opened.engine, 1).facts["host"] == "b"
        assert [describe(opened.engine, n).facts["samples"] for n in (0, 1)] == [4, 1]


def test_what_is_damaged_is_missing_of_its_own_recording(tmp_path: Path) -> None:
    for host in ("a", "b"):
        small(tmp_path / host, host=host).seal()
    path = tmp_path / "b/sockets/000001.parquet"
    damaged = bytearray(path.read_bytes())
    for place in range(8, 60):
        damaged[place] ^= 255
    path.write_bytes(damaged)
    with analyzer.open(tmp_path / "a", tmp_path / "b") as opened:
        query = "SELECT host, count(*) AS n, sum(hash(sockets)) AS s FROM sockets GROUP BY host"
        assert [row["host"] for row in opened.sql(query).table().to_pylist()] == ["a"]
        told = [str(lost) for lost in opened.engine.news()]
        assert len(told) == 2
        assert all(text.startswith(f"{tmp_path}/b: s") for text in told)
        assert opened.engine.news() == ()
        assert not opened.engine.recordings[0].missing
        found = verify(opened.engine)
        assert not found.whole
        assert {problem.file.partition(":")[0] for problem in found.problems} == {f"{tmp_path}/b"}


def test_a_report_of_ones_own_answers_for_each_host(tmp_path: Path) -> None:
    mine = tmp_path / "mine.sql"
    mine.write_text(
        '-- title = "Mine"\n-- description = "Mine."\n-- [columns]\n-- n = "Rows."\n'
        "SELECT count(*) AS n FROM sockets\n"
    )
    small(tmp_path / "a", host="a")
    small(tmp_path / "b", host="b")
    with analyzer.open(tmp_path / "a", tmp_path / "b") as opened:
        rows = opened.report(str(mine)).table().to_pylist()
        assert rows == [{"host": "a", "n": 15}, {"host": "b", "n": 15}]


def test_a_chart_has_series_of_each_host(together: Analysis) -> None:
    report = find_report("states")
    table = together.report(report).table()
    chart = read_chart(charted(together.engine, report), table.column_names)
    assert chart is not None
    for batch in table.to_batches():
        chart.add(batch)
    names = [line.name for line in chart.lines(10)[0]]
    assert len(set(names)) == len(names)
    assert {name.split()[0] for name in names} == {f"db{n}" for n in range(len(INCIDENTS))}
    with analyzer.open(SAMPLES / "healthy" / "recording") as opened:
        plain = read_chart(report.chart, list(report.columns))
        assert read_chart(charted(opened.engine, report), list(report.columns)) == plain


def test_progress_goes_over_all_hosts(together: Analysis) -> None:
    with together.report("states", top=0).batches() as (_, batches):
        turns = [together.engine.turn for _ in batches]
    assert turns == [(host, len(INCIDENTS)) for host in range(len(INCIDENTS))]
    assert together.engine.turn == (0, 1)
