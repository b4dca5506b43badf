"""A cut is a recording on which reports say what they say of the whole with the same scope."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import analyzer
import sockrec
from analyzer.sql.verify import verify
from recorder.schema import TABLES
from tests.analyzer.support.recordings import (
    FACTS,
    Writer,
    every_table,
    step,
    tcp,
    time_of,
    unix,
)

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "samples/accept_overflow/recording"
REPORTS = ("connections", "counters", "coverage", "listen_queues")
"""Those that look beyond the scope, each at other rows."""

SCOPES: dict[str, dict[str, Any]] = {
    "time": {"start": "+5s", "end": "-4s"},
    "sockets": {"where": "comm LIKE '%e%'", "start": "+3s"},
    "filter": {"filter": "dst 10.0.0.0/8 and not process nginx"},
}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(sockrec.app, list(map(str, words)), prog_name="sockrec")


def options(scope: dict[str, Any]) -> list[str]:
    names = {"start": "--from", "end": "--to", "where": "--where", "filter": "--filter"}
    return [word for name, value in scope.items() for word in (names[name], value)]


def answers(recording: Path, scope: dict[str, Any]) -> Iterator[tuple[str, str]]:
    with analyzer.open(recording) as opened:
        for name in REPORTS:
            yield name, repr(opened.report(name, **scope).table().to_pylist())


BEYOND = set(
    "connections counter_values counters coverage counter_steps left_out newborn doors full_doors "
    "netns_names process_looks interface_steps qdisc_steps ways".split()
)
"""What looks at more than its scope: a cut keeps the rows that it looks at, and no others."""


def test_what_looks_beyond_the_scope_is_known_to_who_cuts() -> None:
    found = {
        path.stem
        for path in (ROOT / "queries").rglob("*.sql")
        if re.search(r"^[^-]*\braw\.", path.read_text(), re.MULTILINE)
    }
    assert found == BEYOND, "see analyzer/sharing/selection.py"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_reports_say_of_a_cut_what_they_say_of_the_whole(
    scope: dict[str, Any], tmp_path: Path
) -> None:
    before = contents(SAMPLE)
    done = run("cut", SAMPLE, "-o", tmp_path / "cut", *options(scope))
    assert done.exit_code == 0, done.output
    assert contents(SAMPLE) == before
    assert dict(answers(tmp_path / "cut", {})) == dict(answers(SAMPLE, scope))
    with analyzer.open(tmp_path / "cut") as opened, analyzer.open(SAMPLE) as whole:
        if "where" in scope:  # which chooses least, and takes its time
            told, wanted = opened.summary(), whole.summary(**scope)
            assert (told.found, told.unchecked) == (wanted.found, wanted.unchecked)
        assert verify(opened.engine).whole
        assert not opened.missing


def test_what_interfaces_did_before_a_cut_is_known_to_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for number in range(5):
        moment = time_of(number)
        eth: dict[str, Any] = {"ifindex": 2, "dev": "eth0", "since": moment}
        counted = dict.fromkeys(("rx_bytes", "rx_packets", "tx_bytes"), 1000 * number)
        writer.sample(
            [tcp(1)],
            steps=[step("tcp"), step("network")],
            interfaces=[eth | counted | {"kind": "ether", "state": "up"}],
            qdiscs=[eth | {"handle": "1:", "kind": "fq", "drops": number, "backlog": 0}],
        )
    done = run("cut", tmp_path / "r", "-o", tmp_path / "cut", "--from", "+2s", "--to", "+4s")
    assert done.exit_code == 0, done.output
    with analyzer.open(tmp_path / "r") as whole, analyzer.open(tmp_path / "cut") as opened:
        told = opened.report("interfaces").table().to_pylist()
        assert told == whole.report("interfaces", start="+2s", end="+4s").table().to_pylist()
        assert [row["rx_packets"] for row in told] == [2000]
        assert verify(opened.engine).whole


def test_a_cut_of_a_cut_and_a_scope_on_a_cut_are_one_cut(tmp_path: Path) -> None:
    run("cut", SAMPLE, "-o", tmp_path / "one", "--where", "comm LIKE '%e%'")
    run("cut", tmp_path / "one", "-o", tmp_path / "two", "--from", "+4s", "--to", "-4s")
    wanted = dict(answers(tmp_path / "one", {"start": "+4s", "end": "-4s"}))
    assert dict(answers(tmp_path / "two", {})) == wanted


def test_live_journals_and_old_segments_are_cut_alike(tmp_path: Path) -> None:
    writer = every_table(tmp_path / "live")
    writer.seal()
    writer.sample([tcp(1), unix(2)], number=9)
    done = run("compact", tmp_path / "live", "-o", tmp_path / "small")
    assert done.exit_code == 0, done.output
    with analyzer.open(tmp_path / "live") as one, analyzer.open(tmp_path / "small") as other:
        for name in TABLES:
            query = f"SELECT * FROM {name} ORDER BY ALL"
            assert other.sql(query).table() == one.sql(query).table()
        assert {segment.number for segment in other.engine.recordings[0].segments} == {1}
        assert not other.engine.recordings[0].journals


def test_what_is_damaged_is_left_out_and_told(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "damaged")
    segment = tmp_path / "damaged/closes/000001.parquet"
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
    done = run("cut", tmp_path / "damaged", "-o", tmp_path / "cut")
    assert done.exit_code == 0, done.output
    assert "missing: closes/000001.parquet" in done.output
    assert not (tmp_path / "cut/closes").exists()


def test_what_is_there_already_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = run("cut", SAMPLE, "-o", tmp_path / "there")
    assert done.exit_code == 1
    assert "is there already" in str(done.exception)
    done = run("cut", SAMPLE, "-o", tmp_path / "new", "--where", "no_such_column = 1")
    assert done.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_several_or_a_file_alone_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    for name in ("host=a", "host=b"):
        Writer(tmp_path / "fleet" / name, host=name).sample([tcp(1)])
    for named, why in (
        (tmp_path / "fleet", "several recordings"),
        (SAMPLE / "sockets/000001.parquet", "a file of one table"),
    ):
        done = run("cut", named, "-o", tmp_path / "cut")
        assert done.exit_code == 1
        assert why in str(done.exception)
        assert not (tmp_path / "cut").exists()


def test_runs_of_one_boot_that_follow_each_other_are_one_recording(tmp_path: Path) -> None:
    for name, numbers, begun in (("a", (0, 1, 2), "15:04:05"), ("b", (10, 11), "15:04:15")):
        writer = Writer(tmp_path / name, started=f"2026-11-22T{begun}.000000Z", skipped=1)
        for number in numbers:
            writer.sample([tcp(1, bytes_acked=100 * number), tcp(number + 5)], number=number)
    done = run("merge", tmp_path / "b", tmp_path / "a", "-o", tmp_path / "both")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "both/recording.json").read_text())
    assert facts["started"].startswith("2026-11-22T15:04:05")
    assert (facts["skipped"], len(facts["runs"])) == (2, 2)
    with analyzer.open(tmp_path / "both") as opened:
        rows = opened.sql("SELECT sample, bytes_acked FROM sockets WHERE cookie = 1 ORDER BY 1")
        acked = [row["bytes_acked"] for row in rows]
        samples = [row["sample"] for row in rows]
    assert acked == [0, 100, 200, 1000, 1100]
    assert samples == [0, 1, 2, 13, 14]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"boot_id": "00000000-0000-4000-8000-000000000001"}, "differ in boot"),
        ({"interval_us": 5}, "differ in interval_us"),
        ({"host": "web2"}, "differ in host"),
        ({}, "are of the same time"),
    ],
)
def test_others_are_not_merged(facts: dict[str, Any], why: str, tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", facts | {"started": "2026-11-22T15:04:06.000000Z"})):
        writer = Writer(tmp_path / name, **(FACTS | more))
        writer.sample([tcp(1)], number=0)
    done = run("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both")
    assert done.exit_code == 1
    assert why in str(done.exception)
    assert not (tmp_path / "both").exists()
