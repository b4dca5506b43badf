"""What other programs are given says what the recording says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import analyzer
import sockrec
from tests.analyzer.support.recordings import small


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "r"
    small(place).seal()
    return place


def export(recording: Path, form: str, out: Path) -> Result:
    words = ["export", str(recording), "--format", form, "-o", str(out)]
    return CliRunner().invoke(sockrec.app, words, prog_name="sockrec")


def test_a_database_has_every_table_and_view_for_any_client(
    recording: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    words = ["cut", str(recording), "-o", str(cut), "--from", "+2s"]
    assert CliRunner().invoke(sockrec.app, words, prog_name="sockrec").exit_code == 0
    for number, source in enumerate((recording, cut)):
        out = tmp_path / f"{number}.duckdb"
        done = export(source, "duckdb", out)
        assert done.exit_code == 0, (done.output, done.exception)
        with analyzer.open(source) as own, duckdb.connect(str(out), read_only=True) as other:
            for name in ("sockets", "baseline", "samples", "owners", "connections", "listeners"):
                query = f"SELECT * FROM {name} ORDER BY ALL"
                assert other.execute(query).fetchall() == [
                    tuple(row.values()) for row in own.sql(query).table().to_pylist()
                ], name


def test_flat_files_have_every_socket_row(recording: Path, tmp_path: Path) -> None:
    assert export(recording, "parquet", tmp_path / "x.parquet").exit_code == 0
    assert export(recording, "csv", tmp_path / "x.csv").exit_code == 0
    with analyzer.open(recording) as own:
        wanted = own.sql("SELECT * FROM sockets").table()
    flat = pq.read_table(tmp_path / "x.parquet")
    keys = [("cookie", "ascending"), ("sample", "ascending")]
    assert flat.sort_by(keys) == wanted.sort_by(keys)
    with (tmp_path / "x.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == wanted.num_rows
    assert {line["peer"] for line in lines} >= {"127.0.0.1:40010"}


def test_a_trace_has_each_connection_on_its_process(recording: Path, tmp_path: Path) -> None:
    assert export(recording, "perfetto", tmp_path / "x.json").exit_code == 0
    events = json.loads((tmp_path / "x.json").read_text())["traceEvents"]
    with analyzer.open(recording) as own:
        connections = own.sql("SELECT * FROM connections WHERE first_us IS NOT NULL")
        wanted = {f"{row['ns']}/{row['cookie']}": row for row in connections}
    begun = {event["id"]: event for event in events if event["ph"] == "b"}
    ended = {event["id"]: event for event in events if event["ph"] == "e"}
    assert begun.keys() == ended.keys() == wanted.keys()
    for key, row in wanted.items():
        assert begun[key]["ts"] == row["first_us"]
        assert ended[key]["ts"] >= begun[key]["ts"]
        assert begun[key]["pid"] == (row["pid"] or 0)
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names[100] == "nginx"


def test_what_is_there_is_not_replaced(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    done = export(recording, "csv", tmp_path / "x.csv")
    assert done.exit_code == 1
    assert "is there already" in str(done.exception)
    assert (tmp_path / "x.csv").read_text() == "mine"
