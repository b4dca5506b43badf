"""The commands info, reports, report and sql, as a person runs them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import analyzer
import sockrec
from analyzer.cli import app
from analyzer.reading.recording import open_recording
from analyzer.screen.render import Format
from analyzer.sql.catalog import FINDING_COLUMNS, read_findings
from analyzer.sql.engine import Engine
from analyzer.sql.info import describe
from recorder.schema import SockrecError
from tests.analyzer.support.recordings import (
    FACTS,
    Writer,
    counter,
    micros,
    small,
    step,
    tcp,
    time_of,
)
from tests.analyzer.support.terminals import Terminal

ROOT = Path(__file__).resolve().parents[2]
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
        ("report", "state", "."),
        ("report", "states", ".", "-p", "interval"),
        ("report", "states", ".", "-p", "interval=soon"),
        ("report", "states", ".", "-p", "nosuch=1"),
        ("report", "states", ".", "--format", "xml"),
        ("report", "states", ".", "--tz", "Europe/Berlim"),
        ("report", "states", ".", "--threads", "0"),
        ("report", "states", ".", "--memory", "lots"),
        ("report", "states", ".", "--timeout", "0"),
        ("report", "states", ".", "--timeout", "-1"),
        ("report", "states", ".", "--top", "-1"),
        ("report", "states", ".", "--top", "3", "-p", "top=3"),
        ("report", "./nosuch.sql", "."),
        ("report", "states.sql", "."),
        ("sql", ".", "SELECT 1", "--tz", "../../etc/passwd"),
        ("reports", "--format", "csv"),
        ("sql", "."),
        ("verify",),
        ("info", ".", "--format", "csv"),
        ("reports", "nosuch"),
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
        ("report", "states", "/etc"),
        ("sql", "{r}", "DROP VIEW sockets"),
    ],
)
def test_a_failure_is_a_known_error(words: tuple[str, ...], recording: Path) -> None:
    done = run(*(word.format(r=recording) for word in words))
    assert isinstance(done.exception, SockrecError)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "soon"), "--from: 'soon' is no time: write 2026-11-22T15:04:05, 15:04"),
        (("--to", "+9s", "--from", "+9s"), "--from: +9s is not before +9s"),
        (
            ("--from", "+9s"),
            "--from: +9s is after the last sample; the recording lasts from "
            "2026-11-22 15:04:05 to 15:04:08 UTC",
        ),
        (
            ("--to", "14:00", "--tz", "Europe/Berlin"),
            "--to: 14:00 is not after the first sample; the recording lasts from "
            "2026-11-22 16:04:05 to 16:04:08 +01:00",
        ),
        (("--where", "nosuch = 1"), "--where: 'nosuch = 1' is no condition on a row of sockets"),
        (("--where", "1) OR (1"), "--where: "),
        (("--memory", "1kB"), "--memory: '1kB' is too little"),
        (("--memory", "lots"), "--memory: 'lots' is not a size"),
        (("--threads", "0"), "--threads: '0' is not a whole number from 1 to 1,024"),
        (("--threads", "two"), "--threads: 'two' is not a whole number"),
        (("--format", "xml"), "--format: 'xml' is not one of 'table', 'csv'"),
        (("-o", "answer.xlsx"), "'.xlsx' stands for no format: use one of .table, "),
    ],
)
@pytest.mark.parametrize("command", ["sql", "report", "summary"])
def test_a_wrong_option_is_named(
    recording: Path, command: str, words: tuple[str, ...], says: str
) -> None:
    given = {"sql": (recording, "SELECT 1 FROM sockets"), "report": ("states", recording)}
    words = (command, *map(str, given.get(command, (recording,))), *words)
    done = CliRunner().invoke(sockrec.app, words, env={"COLUMNS": "1000"})
    assert done.exit_code == 2
    assert done.stderr.startswith("sockrec: -")
    assert says in done.stderr.splitlines()[0]
    assert not re.search("Value error|Input should|Traceback|Errno", done.stderr)


@pytest.mark.parametrize(
    ("condition", "line"),
    [
        ("state = 'LISTEN' AND\n  cmdlin = 'x'", "  cmdlin = 'x'"),
        ("local_port = 80 AND comm = nginx", "local_port = 80 AND comm = nginx"),
        ("local_port = = 80", "local_port = = 80"),
    ],
)
def test_a_wrong_condition_is_shown_with_a_mark_below(
    recording: Path, condition: str, line: str
) -> None:
    done = run("report", "states", recording, "--where", condition)
    assert done.exit_code == 2
    *_, shown, mark = done.stderr.splitlines()
    assert shown == f"  {line}"
    wrong = next(word for word in ("cmdlin", "nginx", "= 80") if word in line)
    assert mark == " " * (2 + line.index(wrong)) + "^"


def test_info_says_whether_sql_is_kept_from_other_files(recording: Path) -> None:
    from analyzer.sql import landlock

    told = json.loads(run("info", recording, "--format", "json").stdout)["sandbox"]
    assert told.startswith(f"Landlock {landlock.version()}: " if landlock.version() else "none: ")


def test_times_mean_what_the_zone_says(recording: Path) -> None:
    query = "SELECT count(DISTINCT sample) AS n FROM sockets"
    for words, n in [
        (("--from", "15:04:07"), 2),
        (("--from", "16:04:07", "--tz", "Europe/Berlin"), 2),
        (("--from", "15:04", "--to", "15:04:06"), 1),
        (("--from", "-1s"), 2),
    ]:
        assert run("sql", recording, query, *words, "--format", "csv").stdout == f"n\n{n}\n"


@pytest.mark.parametrize(
    "command", [("summary", "--only", "coverage"), ("info",), ("report", "states")]
)
def test_without_a_recording_the_newest_is_read_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    none = run(*command)
    assert none.exit_code == 2
    assert "name one: none was found in or below this directory" in " ".join(none.stderr.split())
    (tmp_path / "a").mkdir()
    small(tmp_path / "old", started="2026-11-22T10:00:00.000000Z")
    small(tmp_path / "a/new", started="2026-11-22T15:04:05.000000Z")
    done = run(*command)
    assert done.exit_code == 0
    assert done.stderr.startswith("sockrec: the newest recording here: a/new\n")
    assert done.stdout == run(*command, "a/new").stdout


def test_explain_shows_the_plan_and_runs_nothing(recording: Path) -> None:
    done = run("sql", recording, "EXPLAIN SELECT state FROM sockets WHERE pid = 1")
    assert done.exit_code == 0
    assert done.stdout.count("\n") > 5
    assert "pid" in done.stdout
    for query in ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN COPY (SELECT 1) TO 'x'", "EXPLAIN ;"):
        assert isinstance(run("sql", recording, query).exception, SockrecError)


def test_the_place_of_an_error_is_shown(recording: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sockrec", "sql", recording, 'SELECT 1 FROM sockets\nWHERE x="E"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        'sockrec: there is no column x\n  WHERE x="E"\n        ^\n'
        if "column x" in done.stderr
        else "sockrec: there is no column E; text goes in single quotes: 'E'\n"
        '  WHERE x="E"\n           ^\n'
    )


def test_fail_on_says_by_the_exit_status_what_was_found(tmp_path: Path) -> None:
    samples = ROOT / "samples"
    overflow, storm = (samples / name / "recording" for name in ("accept_overflow", "healthy"))
    for words, status in [
        ((overflow, "--only", "accept_queue"), 0),
        ((overflow, "--only", "accept_queue", "--fail-on", "critical"), 3),
        ((overflow, "--only", "accept_queue", "--fail-on", "warning"), 3),
        ((overflow, "--only", "orphans", "--fail-on", "warning"), 0),
        ((overflow, "--only", "next_hop", "--fail-on", "warning"), 4),  # it has no network beneath
        ((storm, "--fail-on", "warning"), 0),
        ((storm, "--fail-on", "warning", "--to", "+100ms"), 4),
        ((storm, "--only", "accept"), 2),
    ]:
        assert run("summary", *words).exit_code == status, words
    Writer(tmp_path / "empty")
    assert run("summary", tmp_path / "empty").exit_code == 0
    assert run("summary", tmp_path / "empty", "--fail-on", "critical").exit_code == 4


def test_a_summary_in_json_is_one_object_as_its_page_describes(tmp_path: Path) -> None:
    sample = ROOT / "samples/accept_overflow/recording"
    words = ("--from", "+1s", "--where", "local_port = 8081", "--format", "json")
    found = json.loads(run("summary", sample, *words).stdout)
    page = (ROOT / "docs/summary.md").read_text()
    assert list(found) == re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert (found["version"], found["verdict"]) == (1, "critical")
    assert found["asked"] == {
        "from": "2026-11-22T22:26:53.453Z",
        "to": None,
        "where": "local_port = 8081",
        "filter": None,
        "only": None,
    }
    assert found["findings"][0]["finding"] == "accept_queue"
    assert set(found["findings"][0]) == {"finding", *FINDING_COLUMNS}
    assert found["span"]["samples"] > 10
    assert found["coverage"]["share_percent"] > 99
    assert found["missing"] == []
    told = {*found["checked"], *(one["finding"] for one in found["could_not_check"])}
    assert told == set(read_findings())
    words = ("--only", "resets", "--only", "next_hop", "--format", "json")
    some = json.loads(run("summary", sample, *words).stdout)
    assert some["asked"]["only"] == ["next_hop", "resets"]
    assert {one["finding"] for one in some["findings"]} == set(some["checked"]) == {"resets"}
    assert [one["finding"] for one in some["could_not_check"]] == ["next_hop"]
    Writer(tmp_path / "empty")
    empty = json.loads(run("summary", tmp_path / "empty", "--format", "json").stdout)
    assert (empty["verdict"], empty["checked"], empty["findings"]) == ("unknown", [], [])
    assert {one["why"] for one in empty["could_not_check"]} == {"no sockets are in it"}
    assert empty["span"] == {"first": None, "last": None, "samples": 0}


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
            step("tcp", outcome="truncated", detail="cut", late_us=99_000, skipped=2),
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
    assert found["rows"] == (
        "sockets 3, closes 0, samples 8, counters 0, owners 0, processes 0, settings 0, "
        "namespaces 0, cgroups 0, unexplained 0, marks 0, interfaces 0, qdiscs 0, addresses 0, "
        "routes 0, rules 0, neighbours 0, conntrack 0"
    )
    assert found["files"] == "segments 2, journals 1"
    assert found["unresolved owners"] == "3"
    assert found["incomplete"] == (
        "owners partial in 1 of 3 samples; tcp truncated in 1 of 3 samples: cut"
    )
    assert found["unknown attributes"] == "tcp 23:17 24:1"
    assert found["not seen"] == "marks: needs CAP_NET_ADMIN; x: y"
    assert "left out" not in found


def test_info_tells_how_each_table_was_read_and_what_was_missed(tmp_path: Path) -> None:
    why = "NLMSG_DONE: No such file or directory"
    writer = Writer(
        tmp_path / "r",
        reading=[
            {"step": "tcp", "source": "diag", "why": None, "namespaces": 2},
            {"step": "udp", "source": "diag", "why": None, "namespaces": 1},
            {"step": "udp", "source": None, "why": "busy", "namespaces": 3},
            {"step": "raw", "source": "proc", "why": why, "namespaces": 1200},
            {"step": "raw6", "source": "proc", "why": why, "namespaces": 1200},
            {"step": "sctp", "source": None, "why": "no handler", "namespaces": None},
            {"step": "xdp", "source": None, "why": None, "namespaces": 0},
        ],
        missing_sysctls=["net.ipv4.tcp_plb_enabled", "net.mptcp.enabled"],
    )
    names = ("Tcp.ActiveOpens", "Tcp.PassiveOpens")
    for sample, opens in enumerate([1000, 6000]):
        writer.sample(
            [tcp(1)],
            steps=[
                step("counters"),
                step("tcp", opened=4000),
                step(
                    "closes",
                    opened=5997 if sample else 0,
                    rows=6500,
                    lost=1 + 2 * sample,
                    outcome="partial",
                    detail=f"{1 + 2 * sample} events lost as the buffer was full",
                ),
                step("all", netns=7, outcome="rotated" if sample else "skipped_empty"),
                step("counters_after"),
                step("raw", outcome="skipped_empty"),
                step("sctp", outcome="unavailable", detail="no handler"),
            ],
            counters=[counter(name, opens) for name in names],
            namespaces=[
                {"home": True, "entered": True, "valid_from": time_of(0)},
                {"netns": 7, "comm": "box", "entered": False, "valid_from": time_of(0)},
            ]
            if sample == 0
            else (),
        )
    found = told(tmp_path / "r")
    assert found["reading"] == (
        "tcp, udp by diag; udp not at all in 3 namespaces: busy; "
        f"raw, raw6 by proc in 1,200 namespaces: {why}; "
        "sctp not at all: no handler; xdp never: no such sockets"
    )
    assert found["missing sysctls"] == "net.ipv4.tcp_plb_enabled; net.mptcp.enabled"
    assert found["namespaces"] == "found 2, entered 1"
    assert found["closes"] == "events 13,000, lost 4"
    assert found["coverage"] == "saw 99.97 % of connections, 4 announcements lost"
    assert found["incomplete"] == (
        "whole namespaces rotated in 1 of 2 samples; "
        "closes partial in 2 of 2 samples: 4 events lost"
    )
    facts = json.loads(run("info", tmp_path / "r", "--format", "json").stdout)
    assert facts["coverage"] == {
        "says": "saw 99.97 % of connections, 4 announcements lost",
        "seen": 9997,
        "kernel": 10000,
        "margin": 0,
        "share_percent": 99.97,
    }
    assert facts["closes"] == {"events": 13000, "lost": 4}
    assert facts["incomplete"][2:] == [
        {"step": "sctp", "outcome": "unavailable", "samples": 2, "detail": "no handler"}
    ]
    assert facts["namespaces"] == {"found": 2, "entered": 1}
    assert facts["reading"][3] == {
        "step": "raw",
        "source": "proc",
        "why": why,
        "namespaces": 1200,
    }


def test_what_a_recording_does_not_say_is_null_and_has_no_line(tmp_path: Path) -> None:
    small(tmp_path / "r", version=1).seal()
    found = told(tmp_path / "r")
    assert not {"coverage", "closes", "namespaces", "reading", "missing sysctls"} & set(found)
    facts = json.loads(run("info", tmp_path / "r", "--format", "json").stdout)
    assert set(facts["coverage"].values()) == {None}
    assert facts["closes"] == {"events": None, "lost": None}
    assert facts["namespaces"] == {"found": None, "entered": None}
    assert (facts["reading"], facts["missing_sysctls"]) == ([], [])


def test_the_facts_of_info_stay(recording: Path) -> None:
    """Programs read them: a name may be added, none may go."""
    facts = json.loads(run("info", recording, "--format", "json").stdout)
    assert (
        list(facts)
        == (
            "recording state host kernel command filter first_sample last_sample span_s interval_s "
            "samples late_samples most_late_s skipped_samples rows bytes files namespaces reading "
            "coverage closes unresolved_owners most_unresolved_owners unreadable_processes "
            "incomplete unknown_attributes missing_sysctls not_seen trouble labels marks dropped "
            "missing sandbox left_out"
        ).split()
    )


def test_several_recordings_are_told_apart(tmp_path: Path) -> None:
    for host in ("web1", "web2"):
        small(tmp_path / f"host={host}", host=host)
    told = run("info", tmp_path)
    assert (told.exit_code, told.stdout.count("\n\n")) == (0, 1)
    assert re.findall(r"^host +(\w+)$", told.stdout, re.MULTILINE) == ["web1", "web2"]
    facts = json.loads(run("info", tmp_path, "--format", "json").stdout)
    assert [one["host"] for one in facts] == ["web1", "web2"]
    query = "SELECT count(*) AS n FROM sockets"
    assert run("sql", tmp_path, query, "--from", "-1s", "--format", "csv").stdout == "n\n20\n"
    report = run("report", "states", tmp_path / "host=web1", tmp_path / "host=web2")
    assert report.stdout.startswith("host  time")
    assert run("verify", tmp_path).stdout.splitlines()[-1].startswith("whole")
    summary = run("summary", tmp_path, "--format", "csv")
    assert summary.stdout.startswith("host,finding,severity")


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
    writer.sample([tcp(1)], owners=[{"pid": 100, "valid_from": time_of(0)}])
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
        {"reading": [1, {"step": "\x1b[2J", "source": 7, "why": "\x9b\n", "namespaces": "x"}]},
        {"reading": {"step": "raw"}, "missing_sysctls": ["\x1b]0;x\x07", 3]},
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
        cwd=ROOT,
    )
    query = (
        "SELECT sample, count(*) FILTER (WHERE step = 'owners') AS owners FROM samples "
        "GROUP BY sample ORDER BY sample"
    )
    seen = 0
    try:
        for _ in range(600):
            if (path / "samples/000001.arrows").exists():
                with analyzer.open(path) as opened:
                    found = opened.sql(query).table().to_pylist()
                assert [row["sample"] for row in found] == list(range(len(found)))
                assert {row["owners"] for row in found} <= {1}
                assert len(found) >= seen
                seen = len(found)
            if seen >= 5:
                break
            time.sleep(0.05)
    finally:
        recorder.kill()
        recorder.wait(60)
    assert seen >= 5
    with analyzer.open(path) as opened:
        assert opened.sql(query).table().num_rows >= seen
        assert opened.report("states").table().num_rows > 0
        assert opened.report("process_sockets").table().num_rows > 0
        state = describe(opened.engine).facts["state"]
        assert state == "being recorded"  # for the ten seconds that tell a dead one
        assert "killed" in str(describe(opened.engine, now=time.time() + 60).facts["state"])


MINE = """\
-- title = "Mine"
-- description = "Sockets by state."
-- needs = ["sockets", "closes"]
--
-- [columns]
-- state = "State."
-- n = "Sockets."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "Rows listed."
--
-- [params.name]
-- type = "VARCHAR"
-- default = "%"
-- doc = "States like this."
SELECT state, n
FROM (
  SELECT state, count(*) AS n, row_number() OVER (ORDER BY count(*) DESC, state) AS place
  FROM sockets CROSS JOIN params
  WHERE state LIKE params.name
  GROUP BY state
) AS counted
CROSS JOIN params
WHERE place <= params.top OR params.top = 0
ORDER BY place
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.sql"
    path.write_text(MINE)
    return path


def test_report_runs_a_file_of_ones_own(recording: Path, mine: Path) -> None:
    done = run("report", mine, recording, "--format", "csv")
    assert (done.exit_code, done.stdout) == (0, "state,n\nESTAB,10\nLISTEN,4\nTIME-WAIT,1\n")
    assert run("report", mine, recording, "--top", "1", "--format", "csv").stdout.count("\n") == 2
    assert run("report", mine, recording, "--top", "0", "--format", "csv").stdout.count("\n") == 4
    described = run("reports", mine).stdout
    assert "mine: Mine\n" in described
    assert "needs: sockets, closes" in described


def test_where_selects_sockets(recording: Path, mine: Path) -> None:
    done = run("report", mine, recording, "--where", "state <> 'ESTAB'", "--format", "csv")
    assert done.stdout == "state,n\nLISTEN,4\nTIME-WAIT,1\n"
    query = "SELECT count(*) AS n FROM sockets"
    done = run("sql", recording, query, "--where", "state = 'LISTEN'", "--format", "ndjson")
    assert done.stdout == '{"n": 4}\n'


def test_a_report_without_rows_says_so_and_why_beside_the_output(
    recording: Path, mine: Path
) -> None:
    words = ("report", mine, recording, "-p", "name=nosuch")
    done = run(*words)
    assert (done.exit_code, done.stdout) == (0, "state  n\n")
    assert re.fullmatch(r"sockrec: no rows: [^\n]+\n", done.stderr)
    assert run(*words, "--format", "json").stdout == "[]\n"
    told = (
        "sockrec: what rests on it is missing or too low: the ends of connections were not recorded"
    )
    assert run("report", mine, recording).stderr == told + "\n"


def test_the_ending_of_a_file_says_its_format(recording: Path, tmp_path: Path) -> None:
    query = "SELECT count(*) AS n FROM owners"
    for name, text in [("a.csv", "n\n1\n"), ("a.jsonl", '{"n": 1}\n'), ("a.txt", "n\n1\n")]:
        assert run("sql", recording, query, "-o", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_text() == text
    assert run("sql", recording, query, "-o", tmp_path / "b.parquet").exit_code == 0
    assert pq.read_table(tmp_path / "b.parquet").to_pylist() == [{"n": 1}]
    assert run("sql", recording, query, "-o", tmp_path / "c.csv", "--format", "json").exit_code == 0
    assert json.loads((tmp_path / "c.csv").read_text()) == [{"n": 1}]


def test_summary_tells_what_is_wrong_and_what_to_read_next() -> None:
    sample = Path(__file__).parents[2] / "samples/accept_overflow/recording"
    done = run("summary", sample, "--from", "+1s", "--where", "local_port = 8081")
    assert (done.exit_code, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith(
        "critical  checkout-api (pid 19) accepted nothing for 16 s: "
        "its accept queue on 10.0.0.11:8081"
    )
    assert second.endswith(
        f"→ sockrec report listen_queues {sample} --from +1s --where 'local_port = 8081'"
    )
    done = run("summary", sample, "--to", "+3s")
    assert done.stdout.startswith("nothing found in the part that was asked for\n")
    done = run("summary", sample, "-p", "accept_queue.nosuch=1")
    assert done.exit_code == 2
    assert "accept_queue has no parameter 'nosuch'" in done.output


def test_a_condition_on_processes_says_what_it_cannot_find() -> None:
    sample = Path(__file__).parents[2] / "samples/time_wait_storm/recording"
    query = "SELECT count(*) AS n FROM connections"
    only = ("--only", "time_wait")
    done = run("summary", sample, *only, "--where", "comm = 'checkout-api'")
    assert "closed connections no process is known" in done.stderr
    done = run("summary", sample, *only, "--where", "peer_port = 8443")
    assert done.stderr == ""
    assert done.stdout.startswith("warning   checkout-api (pid 21)")
    done = run("sql", sample, query, "--where", "peer_port = 8443", "--format", "csv")
    assert done.stdout == "n\n2161\n"  # one came before the incident


def test_a_time_zone_is_of_what_is_shown_and_of_what_is_given(recording: Path) -> None:
    query = "SELECT DISTINCT sample_time FROM sockets ORDER BY 1"
    berlin = ("--tz", "Europe/Berlin", "--format", "csv")
    done = run("sql", recording, query, *berlin, "--from", "2026-11-22T16:04:07")
    assert done.stdout.splitlines()[1:] == [
        "2026-11-22T16:04:07+01:00",
        "2026-11-22T16:04:08+01:00",
    ]
    done = run("sql", recording, query, *berlin, "--to", "2026-11-22T15:04:06Z")
    assert done.stdout.splitlines()[1:] == ["2026-11-22T16:04:05+01:00"]
    utc = run("sql", recording, query, "--format", "csv").stdout
    assert utc.splitlines()[1] == "2026-11-22T15:04:05Z"
    assert run("sql", recording, query, "--tz", "utc", "--format", "csv").stdout == utc


@pytest.mark.parametrize("form", list(Format))
def test_every_format_is_written_to_a_file_and_to_a_pipe(
    recording: Path, tmp_path: Path, form: Format
) -> None:
    words = ("sql", recording, "SELECT sample_time, state FROM sockets", "--format", form)
    piped = run(*words)
    assert piped.exit_code == 0, piped.output
    done = run(*words, "-o", tmp_path / "answer")
    assert (done.exit_code, done.stdout) == (0, "")
    written = (tmp_path / "answer").read_bytes()
    if form is Format.parquet:
        found = pq.read_table(tmp_path / "answer")
    elif form is Format.arrow:
        assert written == piped.stdout_bytes
        found = pa.ipc.open_stream(written).read_all()
    else:
        assert written == piped.stdout_bytes
        return
    assert found.num_rows == 15
    assert found.schema.types == [pa.timestamp("us", "UTC"), pa.string()]


def test_a_query_that_fails_leaves_the_file_that_was_there(recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "answer.csv"
    target.write_text("old")
    # Rows come before the error does.
    query = "SELECT CASE WHEN i < 900000 THEN i ELSE error('late') END FROM range(1000000) t(i)"
    done = run("sql", recording, query, "--format", "csv", "-o", target)
    assert isinstance(done.exception, SockrecError)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.csv", "r"]


@pytest.mark.parametrize("name", ["recording.json", "sockets/000001.arrows", "new.csv", "."])
def test_an_answer_is_not_written_into_the_recording(recording: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()}
    done = run("sql", recording, "SELECT 1", "-o", recording / name, "--format", "csv")
    assert isinstance(done.exception, SockrecError)
    after = {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()}
    assert after == before


def test_the_limits_reach_the_engine(recording: Path) -> None:
    query = (
        "SELECT current_setting('threads') AS threads, current_setting('memory_limit') AS memory"
    )
    words = ("sql", recording, query, "--format", "ndjson")
    found = json.loads(run(*words, "--threads", "1", "--memory", "500MiB").stdout)
    assert found == {"threads": 1, "memory": "500.0 MiB"}
    begun = time.monotonic()
    slow = "SELECT count(*) FROM range(1000000000000) AS a, range(1000) AS b"
    done = run("sql", recording, slow, "--timeout", "300ms")
    assert isinstance(done.exception, SockrecError)
    assert "longer than 0.3 s" in str(done.exception)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("last", ["SELECT 1 AS a", "(SELECT 1 AS a)", "FROM (SELECT 1 AS a);"])
def test_the_last_word_is_the_query(recording: Path, last: str) -> None:
    assert run("sql", recording, last, "--format", "csv").stdout == "a\n1\n"


def test_a_recording_may_have_a_name_with_blanks(tmp_path: Path) -> None:
    small(tmp_path / "my recording")
    done = CliRunner().invoke(
        app, ["sql", str(tmp_path / "my recording"), "--format", "csv"], input="SELECT 1 AS a;\n"
    )
    assert (done.exit_code, done.stdout) == (0, "a\n1\n")


def test_a_query_without_its_recording_is_wrong_use() -> None:
    done = run("sql", "SELECT 1")
    assert done.exit_code == 2
    assert "name a recording before the query" in done.stderr


def test_reports_are_listed_for_programs() -> None:
    found = json.loads(run("reports", "--format", "json").stdout)
    (states,) = (report for report in found if report["name"] == "states")
    assert list(states) == ["name", "title", "description", "needs", "columns", "params"]
    assert "interval" in {p["name"] for p in states["params"]}
    (alone,) = json.loads(run("reports", "states", "--format", "json").stdout)
    assert alone == states


def test_a_header_from_a_stranger_says_nothing_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sql"
    evil = "\\u001b[2J\\u009b31m"
    path.write_text(
        MINE.replace('"Mine"', f'"{evil}"')
        .replace('"Sockets by state."', f'"{evil}"')
        .replace('"State."', f'"{evil}"')
        .replace('"Rows listed."', f'"{evil}"')
        .replace('"%"', f'"{evil}"')
    )
    for words in (("reports", path), ("reports", path, "--format", "json")):
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    path.write_text(f'-- "{evil}" = 1\nSELECT 1')
    done = run("report", path, tmp_path)
    assert done.exit_code == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.output)


SLOW = "SELECT count(*) FROM range(1000000000000) AS a, range(1000) AS b"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a directory for temporary files, to see what is left in it."""
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_no_terminal_is_given_bytes(recording: Path, form: str) -> None:
    terminal = Terminal("sql", recording, "SELECT 1", "--format", form)
    try:
        assert terminal.wait() == 2
        assert terminal.shown.replace("\r\n", "\n") == (
            f"sockrec: {form} is not for a terminal: redirect it, or say -o FILE\n"
        )
    finally:
        terminal.close()


def test_a_terminal_is_shown_a_bar_that_goes_and_then_the_error(
    recording: Path, private: Path
) -> None:
    terminal = Terminal("sql", recording, SLOW, "--timeout", "2500ms", TMPDIR=private)
    try:
        terminal.wait_for("━")
        terminal.wait_for("\x1b[1A\x1b[2K")
        assert terminal.wait() == 1
        assert terminal.shown == "sockrec: the query took longer than 2.5 s\r\n"
    finally:
        terminal.close()
    assert list(private.iterdir()) == []


@pytest.mark.parametrize(
    "query", [SLOW, "SELECT length(repeat('a', 4000000000)) AS n"], ids=["slow", "unstoppable"]
)
def test_ctrl_c_ends_a_command_and_leaves_nothing(
    recording: Path, private: Path, query: str
) -> None:
    target = private.parent / "answer.csv"
    terminal = Terminal(
        *("sql", recording, query, "-o", target, "--format", "csv", "--memory", "8GB"),
        TMPDIR=private,
    )
    try:
        terminal.wait_for("━")
        begun = time.monotonic()
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert time.monotonic() - begun < 5
        assert "Traceback" not in terminal.shown
        said = re.sub(r"\x1b\[[\d;]*[a-zA-Z]|\^C|\d+(%| s)|[\s━╸╺]", "", terminal.shown)
        assert said == ""
    finally:
        terminal.close()
    assert list(private.iterdir()) == []
    assert sorted(path.name for path in private.parent.iterdir()) == ["r", "tmp"]


def test_a_pipe_is_shown_no_bar(recording: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sockrec", "sql", str(recording), SLOW, "--timeout", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sockrec: the query took longer than 2 s\n"


def test_importing_the_package_or_its_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, analyzer, analyzer.cli, analyzer.sql.catalog\n"
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
