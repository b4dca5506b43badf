"""The commands info, reports, report and sql, as a person runs them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import analyzer
from analyzer.cli import app
from analyzer.engine import Engine
from analyzer.info import describe
from analyzer.recording import open_recording
from recorder.schema import SockrecError
from tests.analyzer.recordings import FACTS, Writer, micros, small, step, tcp, time_of

NOW = micros(time_of(4)) / 1e6
OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    small(tmp_path / "r")
    return tmp_path / "r"


def test_sql_prints_a_table(recording: Path) -> None:
    done = run("sql", recording, "SELECT state, count(*) AS n FROM sockets GROUP BY 1 ORDER BY 1")
    assert done.exit_code == 0
    assert done.stdout == "state       n\nESTAB      10\nLISTEN      4\nTIME-WAIT   1\n"


def test_sql_takes_several_files_and_a_scope(recording: Path) -> None:
    writer = small(recording.parent / "s")
    writer.seal()
    writer.sample([tcp(1)])
    writer.seal()
    files = sorted((recording.parent / "s/sockets").glob("*.parquet"))
    assert len(files) == 2
    query = "SELECT count(*) AS n FROM sockets"
    done = run("sql", *files, query, "--from", "-1s", "--format", "csv")
    assert (done.exit_code, done.stdout) == (0, "n\n7\n")


def test_report_takes_parameters_and_a_scope(recording: Path) -> None:
    done = run("report", "states", recording, "-p", "interval=2", "--to", "+2s", "--format", "json")
    assert done.exit_code == 0
    assert [row["state"] for row in json.loads(done.stdout)] == ["ESTAB", "LISTEN"]


def test_reports_lists_and_describes_every_report() -> None:
    assert re.search(r"^states +\w", run("reports").stdout, re.MULTILINE)
    described = run("reports", "states").stdout
    for word in ("columns:", "netid", "parameters", "interval", "DOUBLE"):
        assert word in described


@pytest.mark.parametrize(
    "words",
    [
        ("report", "states"),
        ("report", "state", "."),
        ("report", "states", ".", "-p", "interval"),
        ("report", "states", ".", "-p", "interval=soon"),
        ("report", "states", ".", "-p", "nosuch=1"),
        ("report", "states", ".", "--format", "xml"),
        ("sql", "."),
        ("info",),
        ("info", ".", "--format", "csv"),
        ("report", "states", ".", "--nosuch"),
    ],
)
def test_a_wrong_use_is_status_2(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("info", "/nonexistent"),
        ("reports", "nosuch"),
        ("report", "states", "/etc"),
        ("sql", "{r}", "DROP VIEW sockets"),
        ("sql", "{r}", "SELECT 1", "--from", "soon"),
    ],
)
def test_a_failure_is_a_known_error(words: tuple[str, ...], recording: Path) -> None:
    done = run(*(word.format(r=recording) for word in words))
    assert isinstance(done.exception, SockrecError)
    assert done.stdout == ""


def told(path: Path, now: float = NOW, boot_id: str = FACTS["boot_id"]) -> dict[str, str]:
    with Engine(open_recording(path)) as engine:
        lines = describe(engine, now=now, boot_id=boot_id).lines()
    return {label: "; ".join(t for name, t in lines if name == label) for label, _ in lines}


def test_info_tells_what_a_recording_is(tmp_path: Path) -> None:
    writer = Writer(
        tmp_path / "r",
        unseen=[{"what": "marks", "why": "needs CAP_NET_ADMIN"}, {"what": "x", "why": "y"}],
        unknown_attributes={"tcp": {"23": 17, "24": 1}},
        skipped=2,
        command=["make", "test"],
    )
    writer.sample([tcp(1)])
    writer.sample([tcp(1), tcp(2)], steps=[step("tcp", late_us=100_001)])
    writer.seal()
    writer.sample(
        [],
        steps=[
            step("tcp", outcome="unavailable", detail="no tcp_diag", late_us=99_000, skipped=2),
            step("owners", outcome="partial", unresolved=3, denied=1, skipped=2),
        ],
    )
    found = told(tmp_path / "r")
    assert found["host"] == "web1"
    assert found["kernel"] == "6.18.1 x86_64"
    assert found["command"] == "make test"
    assert found["state"] == "being recorded"
    assert (found["samples"], found["late samples"], found["skipped samples"]) == ("3", "1", "2")
    assert (found["span"], found["interval"], found["most late"]) == ("2 s", "1 s", "0.1 s")
    assert found["rows"] == "sockets 3, samples 8, owners 0"
    assert found["files"] == "segments 3, journals 1"
    assert found["unresolved owners"] == "3"
    assert found["incomplete"] == (
        "owners partial in 1 samples; tcp unavailable in 1 samples: no tcp_diag"
    )
    assert found["unknown attributes"] == "tcp 23:17 24:1"
    assert found["not seen"] == "marks: needs CAP_NET_ADMIN; x: y"
    assert "left out" not in found


def test_info_tells_live_from_ended_from_killed(recording: Path) -> None:
    assert told(recording)["state"] == "being recorded"
    assert told(recording, now=NOW + 60)["state"].startswith("killed")
    assert told(recording, boot_id=OTHER_BOOT)["state"].startswith("killed")
    Writer(recording, ended="2026-11-22T15:04:09Z", exit="signal")
    assert told(recording)["state"] == "ended 2026-11-22T15:04:09Z (signal)"


def test_info_tells_of_a_damaged_tail(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    path = writer.path("sockets", ".arrows")
    damaged = bytearray(path.read_bytes())
    damaged[-40] ^= 1
    path.write_bytes(damaged)
    found = told(tmp_path / "r")
    assert found["samples"] == "3"
    assert re.fullmatch(
        r"[\d,]+ bytes at the end of number 1: sample 3: bytes \d+ to \d+ of sockets are damaged",
        found["left out"],
    )


def test_info_of_an_empty_recording_and_of_a_single_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    assert told(tmp_path / "r")["samples"] == "0"
    writer.sample([tcp(1)])
    writer.seal()
    for table in ("sockets", "samples", "owners"):
        found = told(tmp_path / "r" / table / "000001.parquet")
        assert found["state"] == "part of a recording"
        assert found["samples"] == ("0" if table == "owners" else "1")


@pytest.mark.parametrize(
    "facts",
    [
        {"host": "\x1b[2J\nx", "kernel": ["a"], "command": "x", "unseen": "none"},
        {"unseen": [1, {"what": "\x1b]0;x\x07", "why": None}], "unknown_attributes": [1]},
        {"interval_us": -1, "started": "yesterday", "ended": 3, "skipped": "many"},
        {"interval_us": 1e300, "unknown_attributes": {"tcp": {"23": "x"}, "\x9b": 3}},
    ],
)
def test_info_survives_whatever_recording_json_says(tmp_path: Path, facts: object) -> None:
    assert isinstance(facts, dict)
    Writer(tmp_path / "r", **facts).sample([tcp(1)])
    done = run("info", tmp_path / "r")
    assert done.exit_code == 0, done.exception
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    as_json = run("info", tmp_path / "r", "--format", "json")
    assert json.loads(as_json.stdout)["samples"] == 1


def test_a_real_recording_is_read_while_it_is_made_and_after_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "r"
    recorder = subprocess.Popen(
        [sys.executable, "-m", "sockrec", "record", "-q", "-i", "50ms", "-o", str(path)],
        cwd=Path(__file__).resolve().parents[2],
    )
    query = "SELECT sample, count(*) AS steps FROM samples GROUP BY sample ORDER BY sample"
    seen = 0
    try:
        for _ in range(600):
            if (path / "samples/000001.arrows").exists():
                with analyzer.open(path) as opened:
                    found = opened.sql(query).table().to_pylist()
                assert [row["sample"] for row in found] == list(range(len(found)))
                assert len({row["steps"] for row in found}) <= 1
                assert len(found) >= seen
                seen = len(found)
            if seen >= 5:
                break
            time.sleep(0.05)
    finally:
        recorder.kill()
        recorder.wait()
    assert seen >= 5
    with analyzer.open(path) as opened:
        assert opened.sql(query).table().num_rows >= seen
        assert opened.report("states").table().num_rows > 0
        assert opened.report("process_sockets").table().num_rows > 0
        state = describe(opened.engine).facts["state"]
        assert state == "being recorded"  # for the ten seconds that tell a dead one
        assert "killed" in str(describe(opened.engine, now=time.time() + 60).facts["state"])


def test_importing_the_package_or_its_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, analyzer, analyzer.cli, analyzer.catalog\n"
        "print({'pyarrow', 'duckdb', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_python_interface(recording: Path) -> None:
    with analyzer.open(recording) as opened:
        assert opened.report("states", interval=2).df()["max"].max() == 4
        assert opened.sql("SELECT 1 AS one").table().to_pylist() == [{"one": 1}]
        with pytest.raises(SockrecError, match="one SELECT"):
            opened.sql("DROP VIEW sockets")
        with pytest.raises(SockrecError, match="no parameter"):
            opened.report("states", intervl=2)
