"""The diagnosis: the truth of every sample first, what could not be checked, order and text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from syrupy.assertion import SnapshotAssertion
from typer.testing import CliRunner

import analyzer
from analyzer.cli import app
from analyzer.reading.segment import Missing
from analyzer.sql.catalog import (
    FINDING_COLUMNS,
    CatalogError,
    ParameterError,
    Query,
    read_findings,
)
from analyzer.sql.engine import Engine
from analyzer.sql.library import closure, named_again
from analyzer.sql.shared import Shared
from analyzer.sql.summary import SEVERITIES, Summary, Unchecked, lacking, lines
from analyzer.sql.views import WHOLE, Scope
from tests.analyzer.support.recordings import (
    FACTS,
    NETNS,
    Row,
    Writer,
    counter,
    micros,
    small,
    step,
    tcp,
    time_of,
    unix,
    write_segment,
)

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
INCIDENTS = (
    "time_wait_storm close_wait_leak accept_overflow slow_reader stalled_sender port_exhaustion "
    "short_connections descriptor_leak udp_drops gateway_lost healthy"
).split()

# What else is true of an incident and may be told after its cause.
RELATED = {
    "time_wait_storm": {"short_connections"},
    "accept_overflow": {"resets"},
    "port_exhaustion": {"idle_connections"},
    "descriptor_leak": {"udp_waiting"},
}

Numbers = Mapping[str, Any]
TOLD: Mapping[str, Callable[[Numbers], list[tuple[float, float]]]] = {
    "time_wait_storm": lambda n: [(n["opened"], 0.01), (n["ports"], 0), (n["ports_percent"], 0.02)],
    "close_wait_leak": lambda n: [(n["leaked"], 0)],
    "accept_overflow": lambda n: [(n["listen_overflows"], 0.01), (n["backlog"], 0)],
    "slow_reader": lambda n: [(n["bytes_read_slowly"] / 1000, 0.15)],
    "stalled_sender": lambda n: [(n["send_q_at_end"] / 1000, 0.001)],
    "port_exhaustion": lambda n: [(n["held"], 0), (n["ports"], 0)],
    "short_connections": lambda n: [(n["opened"], 0.005)],
    "descriptor_leak": lambda n: [(n["leaked"], 0.01), (n["limit"], 0)],
    "udp_drops": lambda n: [(n["dropped"], 0.001)],
    "gateway_lost": lambda n: [],
}
"""What the sentence has to say of the numbers that the workload itself knows, and how exactly."""


def summary(path: Path, **options: Any) -> Summary:
    with analyzer.open(path) as opened:
        return opened.summary(**options)


@cache
def diagnosis(incident: str, end: str | None = None) -> Summary:
    return summary(SAMPLES / incident / "recording", end=end)


def numbers_in(sentence: str) -> list[float]:
    return [
        float(text.replace(",", "")) for text in re.findall(r"[0-9][0-9,]*(?:\.\d+)?", sentence)
    ]


def truth_of(incident: str) -> dict[str, Any]:
    truth = SAMPLES / incident / "truth.json"
    if not truth.exists():
        pytest.skip(f"needs samples/{incident}: make samples, as root")
    known: dict[str, Any] = json.loads(truth.read_text())
    return known


@pytest.mark.parametrize("incident", INCIDENTS)
def test_a_sample_s_culprit_comes_first_and_nothing_is_false(incident: str) -> None:
    truth = truth_of(incident)
    found = diagnosis(incident).found
    if truth["finding"] is None:
        assert found == ()
        return
    first = found[0]
    assert [first[key] for key in ("finding", "comm", "pid", "subject")] == [
        truth[key] for key in ("finding", "comm", "pid", "subject")
    ]
    assert {row["finding"] for row in found[1:]} <= RELATED.get(incident, set())
    sentence = cast(str, first["sentence"])
    assert f"{truth['comm']} (pid {truth['pid']})" in sentence
    assert truth["subject"].removeprefix("next hop ") in sentence
    for wanted, tolerance in TOLD[incident](truth["numbers"]):
        said = numbers_in(sentence)
        assert any(abs(n - wanted) <= tolerance * wanted for n in said), (wanted, sentence)
    began = datetime.fromtimestamp(truth["numbers"]["began_us"] / 1e6, UTC).replace(tzinfo=None)
    since = cast(datetime, first["since"])
    assert since >= began - timedelta(seconds=1.5), "told of the healthy beginning"


@pytest.mark.parametrize("incident", INCIDENTS)
def test_everything_is_checked_in_a_sample(incident: str) -> None:
    """All but what needs the network beneath, which is younger than most samples."""
    truth_of(incident)
    lacks = {unchecked.finding for unchecked in diagnosis(incident).unchecked}
    younger = {name for name, query in read_findings().items() if "network" in query.needs}
    assert lacks == (set() if incident == "gateway_lost" else younger)


@pytest.mark.parametrize("incident", INCIDENTS)
def test_the_healthy_beginning_of_a_sample_is_healthy(incident: str) -> None:
    truth_of(incident)
    assert [row["sentence"] for row in diagnosis(incident, "+5s").found] == []


# What could not be checked.


def reasons(path: Path, **options: Any) -> dict[str, str]:
    """Return what could not be checked and why, but for want of time, which has its own tests."""
    unchecked = summary(path, **options).unchecked
    return {u.finding: u.why for u in unchecked if not u.why.startswith("it needs samples of ")}


def test_a_whole_recording_lacks_nothing(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    assert reasons(tmp_path / "r") == {}


def whole(path: Path, **tables: Any) -> Writer:
    """Write three samples of a busy listener with every table that findings need."""
    writer = Writer(path, journals=False)  # a segment is read in less time than a journal
    steps = [step(n) for n in ("tcp", "udp", "unix", "owners", "counters", "closes", "network")]
    for sample in range(3):
        writer.sample(
            [tcp(1, "LISTEN", send_q=16, recv_q=17 * min(sample, 1)), unix(2)],
            steps=tables.get("steps", steps),
            owners=[{"pid": 100, "start_us": 5_000_000, "comm": "nginx", "fd_limit": 1024}]
            if sample == 0
            else [],
            settings=[{"name": "net.ipv4.ip_local_port_range", "value": "32768 60999"}]
            if sample == 0
            else [],
            counters=[counter("Tcp.PassiveOpens", 10 * sample)],
        )
    writer.seal()
    return writer


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    small(tmp_path / "r")
    assert reasons(tmp_path / "r") == {
        "conntrack": "the kernel's counters were not recorded",
        "descriptor_leak": "the limits of processes were not recorded",
        "duplicate_address": "the network beneath was not recorded",
        "failed_attempts": "the kernel's counters were not recorded",
        "interface_faults": "the network beneath was not recorded",
        "interface_queue": "the network beneath was not recorded",
        "next_hop": "the network beneath was not recorded",
        "orphans": "the kernel's counters were not recorded",
        "port_exhaustion": "the kernel's settings were not recorded",
        "resets": "the ends of connections were not recorded",
        "short_connections": "the ends of connections were not recorded",
        "syn_backlog": "the kernel's counters were not recorded",
        "tcp_memory": "the kernel's counters were not recorded",
        "time_wait": "the kernel's settings were not recorded",
    }


@pytest.mark.parametrize(
    ("report", "lacks"),
    [
        ("processes", "what processes did was not recorded"),
        ("interfaces", "the network beneath was not recorded"),
        ("network", "the network beneath was not recorded"),
        ("conntrack", "connection tracking tables were not recorded"),
    ],
)
def test_an_older_recording_opens_and_says_what_it_lacks(report: str, lacks: str) -> None:
    """One of before there were tables of processes and of the network beneath."""
    path = Path(__file__).parents[3] / "samples/healthy/recording"
    assert not {"processes", "interfaces", "conntrack"} & {folder.name for folder in path.iterdir()}
    done = CliRunner().invoke(app, ["report", report, str(path)])
    assert done.exit_code == 0, done.output
    assert lacks in done.output
    with analyzer.open(path) as opened:
        connections = opened.report("connections", top=0).table().to_pylist()
    assert connections != []
    assert {(row["dev"], row["next_hop"]) for row in connections} == {(None, None)}


def test_why_the_kernel_did_not_show_it_is_said(tmp_path: Path) -> None:
    steps = [
        step("tcp"),
        step("udp", outcome="unavailable", detail="No such file or directory"),
        step("udp6", outcome="skipped_empty"),
        step("unix", outcome="error"),
        step("owners", outcome="partial"),
        step("counters"),
        step("closes", outcome="unavailable", detail="not permitted"),
        step("network"),
    ]
    whole(tmp_path / "r", steps=steps)
    closes = "the ends of connections were not recorded: unavailable, not permitted"
    sockets = "unix sockets were not recorded: error, no reason given"
    assert reasons(tmp_path / "r") == {
        "resets": closes,
        "short_connections": closes,
        "unix_backlog": sockets,
        "unix_unread": sockets,
    }


def test_a_namespace_without_sockets_is_checked(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=[step("all", outcome="skipped_empty"), step("counters")])
    with analyzer.open(tmp_path / "r") as opened:
        assert {"tcp", "udp", "unix"}.isdisjoint(lacking(opened.engine))


def test_what_was_left_out_on_purpose_is_not_taken_for_empty(tmp_path: Path) -> None:
    """``-A tcp`` beside a namespace without sockets."""
    steps = [step("tcp"), step("all", outcome="skipped_empty", netns=NETNS + 1)]
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1)], steps=steps)
    with analyzer.open(tmp_path / "r") as opened:
        lacks = lacking(opened.engine)
    assert lacks["udp"] == "UDP sockets were not recorded"
    assert "tcp" not in lacks


def test_a_table_that_was_always_another_s_turn_was_not_seen(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([], steps=[step("tcp", outcome="rotated")])
    with analyzer.open(tmp_path / "r") as opened:
        assert lacking(opened.engine)["tcp"].startswith("TCP sockets were not recorded: rotated")


@pytest.mark.parametrize(
    ("source", "lacks"), [("diag", set()), ("proc", {"tcp_info", "timers", "skmem"})]
)
def test_what_proc_does_not_tell_of_sockets_is_lacking(
    source: str, lacks: set[str], tmp_path: Path
) -> None:
    """Counters are always read from /proc: they say nothing of how sockets were."""
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1)], steps=[step("tcp", source=source), step("counters", source="proc")])
    with analyzer.open(tmp_path / "r") as opened:
        found = lacking(opened.engine).keys()
    assert found & {"tcp_info", "timers", "skmem", "inodes", "listeners", "drops"} == lacks


def test_a_file_of_sockets_alone_is_checked_for_what_it_can_tell(tmp_path: Path) -> None:
    full = {"recv_q": 17, "send_q": 16}
    rows = [
        {"sample": n, "sample_time": time_of(n), "netns": NETNS} | tcp(1, "LISTEN", **full)
        for n in range(3)
    ]
    path = tmp_path / "sockets.parquet"
    write_segment(path, "sockets", rows, FACTS)
    found = summary(path)
    assert [row["finding"] for row in found.found] == ["accept_queue"]
    too_short = {name for name, finding in read_findings().items() if finding.seconds({}) > 2}
    assert {u.finding for u in found.unchecked} == too_short | {
        "conntrack",
        "coverage",
        "descriptor_leak",
        "duplicate_address",
        "failed_attempts",
        "interface_faults",
        "next_hop",
        "orphans",
        "port_exhaustion",
        "resets",
        "short_connections",
        "syn_backlog",
        "tcp_memory",
        "time_wait",
    }


def test_a_time_without_a_sample_is_no_healthy_one(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    found = summary(tmp_path / "r", start="+100ms", end="+900ms")
    assert found.found == ()
    assert {u.why for u in found.unchecked} == {"no sample lies in that time"}
    assert next(lines(found, "r")) == "nothing could be checked"
    Writer(tmp_path / "empty")
    assert set(reasons(tmp_path / "empty").values()) == {"no sockets are in it"}


def test_one_sample_is_not_called_healthy(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "samples/healthy/recording"
    found = summary(path, end="+100ms")
    assert (found.found, found.checked) == ((), ())
    assert next(lines(found, "r")) == "nothing could be checked"
    assert "one sample does not show what changes: record for longer" in {
        one.why for one in found.unchecked
    }
    assert {one.finding for one in found.unchecked} == set(read_findings())
    both = summary(path, end="+1500ms")
    assert next(lines(both, "r")) == "nothing found"


def test_what_needs_time_and_did_not_have_it_could_not_be_checked() -> None:
    path = SAMPLES / "healthy/recording"
    wanted = {"network_stall": 5.0, "short_connections": 10.0}
    for seconds in (4, 6, 11):
        found = summary(path, end=f"+{seconds}s", only=[*wanted])
        unsure = {one.finding: one.why for one in found.unchecked}
        named = {finding.name for finding in found.checked}
        for finding, needed in wanted.items():
            assert (finding in unsure) == (needed > seconds) == (finding not in named)
            if finding in unsure:
                said = f"it needs samples of {needed:g} s, and these are "
                assert unsure[finding].startswith(said)
    sooner = {"network_stall.seconds": 2.0}
    short = summary(path, end="+4s", parameters=sooner, only=["network_stall"])
    assert "network_stall" in {finding.name for finding in short.checked}


def test_what_one_sample_shows_is_found(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "samples/accept_overflow/recording"
    found = summary(path, start="+20s", end="+20400ms", parameters={"accept_queue.full_samples": 1})
    names = {row["finding"] for row in found.found}
    assert names
    assert {finding.name for finding in found.checked} == names
    assert not {one.finding for one in found.unchecked} & names


# Parameters, scope and order.


def test_a_parameter_is_named_with_its_finding(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    path = tmp_path / "r"
    only = ["accept_queue"]
    assert [row["finding"] for row in summary(path).found] == only
    assert summary(path, parameters={"accept_queue.full_samples": 3}, only=only).found == ()
    assert summary(path, parameters={"accept_queue.full_samples": "3"}, only=only).found == ()
    for wrong, said in {
        "full_samples": "full_samples: give FINDING.NAME; the findings are accept_queue, ",
        "accept.full_samples": "give FINDING.NAME",
        "accept_queue.samples": "accept_queue has no parameter 'samples': it has seconds, ",
    }.items():
        with pytest.raises(ParameterError, match=re.escape(said)):
            summary(path, parameters={wrong: 3})
    with pytest.raises(ParameterError, match="a BIGINT is wanted"):
        summary(path, parameters={"accept_queue.full_samples": "many"})


def test_a_scope_bounds_what_is_looked_at(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    only = ["accept_queue", "unix_backlog", "coverage"]
    assert summary(tmp_path / "r", end="+2s", only=only).found == ()
    assert summary(tmp_path / "r", where="local_port = 81", only=only).found == ()
    assert len(summary(tmp_path / "r", where="comm = 'nginx'", only=only).found) == 1


def test_what_is_named_is_looked_for_and_nothing_else(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    everything = summary(tmp_path / "r")
    assert everything.only is None
    for only in (("short_connections", "accept_queue"), ("conntrack",)):
        asked = summary(tmp_path / "r", only=only)
        assert asked.only == tuple(sorted(only))
        assert asked.checked == tuple(one for one in everything.checked if one.name in only)
        assert asked.unchecked == tuple(u for u in everything.unchecked if u.finding in only)
        assert [*asked.found] == [row for row in everything.found if row["finding"] in only]
        assert len(asked.checked) == 1  # ten seconds are needed to tell short connections
    told = list(lines(asked, "r", narrowed=True))
    others = len(read_findings()) - 1
    assert told == [
        "nothing found of conntrack in the part that was asked for",
        "",
        "checked:  conntrack",
        f"others:   {others} were not asked for",
    ]
    assert "others:" not in "".join(lines(everything, "r"))
    assert next(lines(summary(tmp_path / "r", only=()), "r")) == "nothing could be checked"
    with pytest.raises(CatalogError, match=r"no finding 'closewait': did you mean close_wait\?"):
        summary(tmp_path / "r", only=["closewait"])
    with pytest.raises(ParameterError, match="those asked for are conntrack"):
        summary(tmp_path / "r", only=["conntrack"], parameters={"accept_queue.full_samples": 3})


def test_progress_is_told(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    told: list[tuple[int, int]] = []
    from analyzer.sql.summary import summarize

    only = ["accept_queue", "coverage", "resets"]
    with analyzer.open(tmp_path / "r") as opened:
        summarize(opened.engine, report=lambda done, of: told.append((done, of)), only=only)
    assert told == [(n, 3) for n in range(3)]


@pytest.mark.parametrize("incident", INCIDENTS)
def test_what_findings_share_changes_nothing(incident: str) -> None:
    """The answer is what each finding says by itself."""
    truth_of(incident)
    with analyzer.open(SAMPLES / incident / "recording") as opened:
        alone = {
            name: opened.engine.table(finding.sql, parameters=finding.values({}), few=True).num_rows
            for name, finding in read_findings().items()
        }
    assert Counter(row["finding"] for row in diagnosis(incident).found) == Counter(
        {name: rows for name, rows in alone.items() if rows}
    )


NUMBERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "accept_queue": ("listen_queues", "queue_peak", {}),
    "close_wait": ("close_wait", "oldest_s", {}),
    "descriptor_leak": ("process_sockets", "peak", {"by": "process"}),
    "port_exhaustion": ("port_exhaustion", "peak", {}),
    "time_wait": ("time_wait", "sockets", {"interval": 1e6}),
    "udp_drops": ("udp_drops", "drops", {}),
}
"""Where the report of a finding has the number that was measured."""


@pytest.mark.parametrize("incident", INCIDENTS)
def test_a_findings_number_is_that_of_the_report_it_names(incident: str) -> None:
    truth_of(incident)
    with analyzer.open(SAMPLES / incident / "recording") as opened:
        for row in diagnosis(incident).table().to_pylist():
            if row["finding"] not in NUMBERS:
                continue
            report, column, given = NUMBERS[row["finding"]]
            assert row["report"] == report
            values = opened.report(report, top=0, **given).table().column(column).to_pylist()
            assert round(row["measured"], 1) in values


def kept_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[tuple[str, bool]], list[Mapping[str, object]]]:
    """Return what a summary computes for several findings, if it is kept, and what it finds."""
    asked: list[tuple[str, bool]] = []
    keep = Engine.keep

    def told(engine: Engine, name: str, *arguments: Any) -> bool:
        kept = keep(engine, name, *arguments)
        asked.append((name, kept))
        return kept

    monkeypatch.setattr(Engine, "keep", told)
    found = list(summary(path))
    return asked, found


def test_what_findings_share_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(tmp_path / "r")
    asked, _ = kept_in(tmp_path / "r", monkeypatch)
    names = [name for name, _ in asked]
    assert len(names) == len(set(names))
    # By themselves, through others, or twice by one.
    assert {"doors", "full_spells", "listeners", "sysctls", "table_reads", "rtt_sockets"} <= set(
        names
    )
    assert not {"losses", "history"} & set(
        names
    )  # used by one finding only; a row for each of sockets
    findings = list(read_findings().values())
    below = [piece.query for piece in closure({name for one in findings for name in one.uses})]
    shared = named_again((query.sql, query.uses) for query in (*findings, *below))
    assert dict(asked) == dict.fromkeys(shared, True)


def test_what_is_not_looked_for_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(tmp_path / "r").sample([tcp(1)])  # no settings, so no ports can run out
    assert "port_use" not in dict(kept_in(tmp_path / "r", monkeypatch)[0])


def test_what_is_too_large_to_be_kept_each_computes_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(tmp_path / "r")
    expected = list(summary(tmp_path / "r"))
    monkeypatch.setattr("analyzer.sql.shared.MOST_ROWS", 1)
    asked, found = kept_in(tmp_path / "r", monkeypatch)
    assert dict(asked)["pace"]
    assert not dict(asked)["table_reads"]
    assert found == expected


def test_a_file_that_turns_out_damaged_is_not_in_what_is_shared(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        engine = opened.engine
        finding = read_findings()["accept_queue"]

        def tables() -> set[str]:
            query = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'kept'"
            return set(engine.table(query)["table_name"].to_pylist())

        with closing(Shared(engine, WHOLE, list(read_findings().values()))) as shared:
            assert "listeners" in shared.of(finding)
            assert set(shared.of(finding)) <= tables()
            lost = Missing("sockets/000009.parquet", "damaged", 1, None, None)
            engine.recordings[0] = replace(engine.recordings[0], missing=(lost,))
            assert not shared.of(finding)  # each by itself, from what there is now
            assert not tables()
            assert "listeners" in shared.of(finding)
        assert not tables()


def test_the_worst_comes_first(tmp_path: Path) -> None:
    """A full queue that drops, then one that only is full, then what the recording missed."""
    writer = Writer(tmp_path / "r")
    queue = {"send_q": 16, "recv_q": 17}
    for sample in range(4):
        fuller = queue if sample else {"send_q": 16, "recv_q": 0}
        writer.sample(
            [
                tcp(1, "LISTEN", comm="full", local_port=81, **queue),
                tcp(2, "LISTEN", comm="drops", local_port=82, drops=9 * sample, **fuller),
                tcp(3, "LISTEN", comm="less", local_port=83, **fuller),
            ],
            steps=[step("tcp", skipped=9)],
        )
    found = summary(tmp_path / "r")
    rows = [(row["severity"], row["score"], row["comm"]) for row in found.found]
    assert rows == [
        ("critical", 0.875, "drops"),
        ("warning", 1.0, "full"),
        ("warning", 0.75, "less"),
        ("note", 0.9, None),
    ]
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=SEVERITIES.index)


# Machine formats and text.


def test_the_table_has_the_columns_of_findings(tmp_path: Path) -> None:
    whole(tmp_path / "r")
    found = summary(tmp_path / "r", only=["accept_queue"])
    table = found.table()
    assert table.column_names == ["finding", *FINDING_COLUMNS]
    assert table.num_rows == 1
    nothing = Summary((), (), ()).table()
    assert nothing.schema == table.schema
    assert list(map(str, found.df().dtypes)) == list(map(str, Summary((), (), ()).df().dtypes))


def finding(**columns: Any) -> Row:
    return {
        "finding": "accept_queue",
        "severity": "critical",
        "score": 0.5,
        "subject": "0.0.0.0:80",
        "netns": NETNS,
        "pid": 812,
        "comm": "checkout-api",
        "since": time_of(0),
        "until": time_of(30),
        "measured": 129.0,
        "threshold": 128.0,
        "sentence": "checkout-api (pid 812) lets its accept queue on 0.0.0.0:80 overflow: full "
        "(129 waited, 128 may) in 12 of 30 samples, 1,204 connection attempts dropped",
        "report": "listen_queues",
    } | columns


def checked(*names: str) -> tuple[Query, ...]:
    return tuple(read_findings()[name] for name in names)


def test_text(snapshot: SnapshotAssertion) -> None:
    late = {"since": time_of(30), "until": time_of(86_400)}
    told = Summary(
        (
            finding(),
            finding(severity="warning", until=time_of(0)),
            finding(severity="note", finding="coverage", report="coverage", **late),
            *[finding(severity="note", finding="retransmits")] * 7,
        ),
        checked("accept_queue", "coverage"),
        (
            Unchecked("time_wait", "TIME-WAIT …", "the kernel's settings were not recorded"),
            Unchecked("port_exhaustion", "Local …", "the kernel's settings were not recorded"),
            Unchecked("unix_backlog", "Unix …", "unix sockets were not recorded"),
        ),
    )
    assert "\n".join(lines(told, "'my incident'")) == snapshot(name="unbounded, UTC")
    zone = ZoneInfo("Europe/Berlin")
    assert "\n".join(lines(told, "incident", zone=zone, width=80)) == snapshot(name="80 wide")


def test_text_when_nothing_was_found() -> None:
    reason = (Unchecked("time_wait", "TIME-WAIT …", "why"),)
    assert list(lines(Summary((), checked("orphans"), reason), "r")) == [
        "nothing found",
        "",
        "checked:  orphans",
        "could not check: time_wait because why",
    ]
    assert next(lines(Summary((), (), reason), "r")) == "nothing could be checked"


def test_text_of_a_summer_s_end_and_of_no_time() -> None:
    before, after = datetime(2026, 10, 24, 23), datetime(2026, 10, 25, 12)
    row = finding(since=before, until=after)
    told = list(lines(Summary((row,), (), ()), "r", zone=ZoneInfo("Europe/Berlin")))
    assert "2026-10-25 01:00:00 +02:00 – 2026-10-25 13:00:00 +01:00 →" in told[1]
    for moment in (None, "unreadable", datetime.max, datetime.min):
        row = finding(since=moment, until=moment)
        for zone in (UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-9))):
            assert len(list(lines(Summary((row,), (), ()), "r", zone=zone))) >= 3


HOSTILE = "\x1b]0;x\x07\x1b[31m\nfine: \u202eevil\u2028`rm`|[bold]"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    path = tmp_path_factory.mktemp("hostile") / "r"
    writer = Writer(path)
    for _ in range(3):
        writer.sample(
            [unix(1, state="LISTEN", recv_q=2, send_q=1, comm=HOSTILE, local_addr=HOSTILE)]
        )
    return summary(path, only=["unix_backlog"])


@pytest.mark.parametrize("width", [None, 1, 40, 200])
def test_no_line_harms_a_terminal(width: int | None, hostile: Summary) -> None:
    assert hostile.found[0]["comm"] == HOSTILE
    told = list(lines(hostile, HOSTILE, width=width))
    assert all(line.isprintable() for line in told)
    assert "\\x1b[31m\\nfine" in "".join(told).replace(" ", "").replace("fine:", "fine")


def test_hostile_reasons_are_printed_inert(tmp_path: Path) -> None:
    steps = [step("tcp"), step("unix", outcome="error", detail=HOSTILE)]
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1)], steps=steps)
    found = summary(tmp_path / "r", only=["unix_backlog", "unix_unread"])
    assert len(found.unchecked) == 2
    assert all(line.isprintable() for line in lines(found, "r"))


def test_a_time_that_no_calendar_has_is_no_traceback(tmp_path: Path) -> None:
    rows = [{"sample": n, "netns": NETNS} | tcp(1, "LISTEN", recv_q=9, send_q=1) for n in range(3)]
    path = tmp_path / "sockets.parquet"
    write_segment(path, "sockets", rows, FACTS)
    found = summary(path, only=["accept_queue"])
    assert found.table().num_rows == 1
    assert "at an unknown time" in "\n".join(lines(found, "r"))


def test_the_order_does_not_depend_on_threads(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(3):
        writer.sample(
            [tcp(n, "LISTEN", recv_q=2, send_q=1, local_port=n, comm=f"p{n}") for n in range(1, 40)]
        )
    shown = set()
    for threads in (1, 4):
        with analyzer.open(tmp_path / "r", threads=threads) as opened:
            shown.add("\n".join(lines(opened.summary(only=["accept_queue"]), "r")))
    assert len(shown) == 1


def test_a_scope_in_the_past_of_a_counter(tmp_path: Path) -> None:
    """What they did until the last reading before --from, the baseline, is not found again."""
    writer = Writer(tmp_path / "r")
    steps = [step("tcp"), step("counters")]
    for value in (0, 5, 5, 5):
        rows = [counter("TcpExt.TCPReqQFullDrop", value, source="netstat")]
        writer.sample([tcp(1)], steps=steps, counters=rows)
    with analyzer.open(tmp_path / "r") as opened:
        query = read_findings()["syn_backlog"]
        for start, count in ((0, 1), (1, 1), (2, 0)):
            scope = Scope(start=micros(time_of(start)))
            assert opened.engine.table(query.sql, scope, query.values({})).num_rows == count


def test_alike_findings_are_one_and_how_many_are_like_it(tmp_path: Path) -> None:
    """Seventeen workers of one name, each with a full queue; and one of another name."""
    writer = Writer(tmp_path / "r")
    full = {"recv_q": 9, "send_q": 1}
    workers = [
        tcp(n, "LISTEN", local_port=8000 + n, pid=100 + n, comm="worker", **full) for n in range(18)
    ]
    for _ in range(3):
        writer.sample([*workers, tcp(50, "LISTEN", comm="other", **full)])
    found = summary(tmp_path / "r", only=["accept_queue"])
    assert len(found) == 19
    told = [line.strip() for line in lines(found, "r") if "UTC" not in line]
    assert [line.split("its accept")[0] for line in told[:3]] == [
        "warning   other (pid 100) accepts too slowly: ",
        "warning   worker (pid 100) accepts too slowly: ",
        "and 17 like this: pid 101, 102, 103, 104, 105 and 12 others",
    ]


def test_workers_of_a_pool_are_one_though_some_have_it_worse() -> None:
    """Not one that does not read something else, nor one of another name."""
    stuck = "nginx (pid {}) does not read fast enough what 10.0.0.{} sends: its receive queue"
    found = [
        finding(finding="reader_stalled", comm="nginx", **row)
        for row in (
            {"pid": 7, "sentence": stuck.format(7, 9) + "; 2 of its connections are like that"},
            {"pid": 8, "sentence": stuck.format(8, 9), "severity": "warning"},
            {"pid": 9, "sentence": stuck.format(9, 8) + " was full; 9 more"},
        )
    ]
    other = finding(finding="reader_stalled", comm="app", pid=7, sentence=stuck.format(7, 9))
    told = [line.strip() for line in lines(Summary((*found, other), (), ()), "r")]
    assert [line for line in told if line.startswith("and")] == ["and 1 like this: pid 8"]
    assert sum("does not read" in line for line in told) == 3


def test_a_table_has_the_names_of_network_namespaces(tmp_path: Path) -> None:
    """Where there are several; a number that is not known stays one."""
    writer = Writer(tmp_path / "r")
    names = {NETNS: None, NETNS + 1: "blue"}
    rows = [
        {"netns": place, "name": name, "home": place == NETNS, "entered": True}
        | {"valid_from": time_of(0)}
        for place, name in names.items()
    ]
    doors = [tcp(n, "LISTEN", netns=NETNS + n) for n in range(3)]
    for n in range(3):
        others: dict[str, Any] = {"namespaces": rows} if n == 0 else {}
        writer.sample(doors, **others)
    done = CliRunner().invoke(app, ["report", "listen_queues", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    head, *told = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    shown = [row[head.index("netns")] for row in told]
    assert sorted(shown) == sorted([str(NETNS), "blue", str(NETNS + 2)])
    plain = CliRunner().invoke(
        app, ["report", "listen_queues", str(tmp_path / "r"), "--format", "json"]
    )
    assert {row["netns"] for row in json.loads(plain.stdout)} == {NETNS, NETNS + 1, NETNS + 2}


@pytest.mark.parametrize("several", [False, True])
def test_a_finding_says_in_which_namespace_it_is_where_there_are_several(
    several: bool, tmp_path: Path
) -> None:
    """By its name, else by its pod; of the recorder's own nothing is said."""
    writer = Writer(tmp_path / "r")
    names = {NETNS: None, NETNS + 1: "blue", NETNS + 2: None}
    places = list(names)[: 3 if several else 1]
    rows = [
        {"netns": place, "name": names[place], "home": place == NETNS, "entered": True}
        | {"valid_from": time_of(0)}
        for place in places
    ]
    owners = [
        {"pid": 100 + n, "start_us": 5, "comm": "web", "pod": f"pod{n}", "valid_from": time_of(0)}
        for n in range(len(places))
    ]
    listening = [
        {"netns": place, "recv_q": 9, "send_q": 1, "pid": 100 + n, "start_us": 5, "comm": "web"}
        for n, place in enumerate(places)
    ]
    for n in range(3):
        others: dict[str, Any] = {"namespaces": rows, "owners": owners} if n == 0 else {}
        writer.sample([tcp(k, "LISTEN", **row) for k, row in enumerate(listening)], **others)
    found = summary(tmp_path / "r", only=["accept_queue"])
    ends = [str(row["sentence"]).partition("3 samples")[2] for row in found]
    assert sorted(ends) == (
        ["", f", in network namespace {NETNS + 2} of pod pod2", ", in network namespace blue"]
        if several
        else [""]
    )
