"""Going on in a recording: after an end, a kill and a reboot, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer.sharing.selection import SelectionError, select
from analyzer.sql.verify import verify
from analyzer.sql.views import Scope
from recorder.format.runs import parts_of
from recorder.schema import RECORDING_FILE
from recorder.store import append as append_module
from recorder.store.append import AppendError, continued
from recorder.store.directory import InUseError
from recorder.store.ring import Keep
from recorder.store.save import save
from tests.recorder.store.test_ring import FACTS, Filler, contents
from tests.recorder.support.journals import write

UNBOUNDED = Keep()


def run(path: Path, samples: int, *, boot: str = "b1", end: bool = True, **facts: Any) -> Filler:
    """Go on in a recording for some samples; without an end it is as if it was killed."""
    told = {**FACTS, "boot_id": boot, "started": f"2026-11-29T00:00:0{boot[-1]}Z", **facts}
    filler = Filler(path, UNBOUNDED, facts=told, append=True)
    for _ in range(samples):
        filler.take(100)
    if end:
        filler.writer.end("samples")
    else:
        filler.writer._sealer.finish()
        filler.writer._close()
    return filler


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / RECORDING_FILE).read_text())
    return facts


def test_it_goes_on_after_an_end_and_after_a_kill_as_one_recording(tmp_path: Path) -> None:
    target = tmp_path / "r"
    run(target, 3, labels={"a": "1"})
    run(target, 4, end=False)
    run(target, 2, labels={"b": "2"})
    assert contents(target) == (0, set(range(9)))
    facts = facts_of(target)
    assert (facts["samples"], facts["socket_rows"], facts["exit"]) == (9, 900, "samples")
    assert [run["number"] for run in facts["runs"]] == [1, 2, 3]
    assert [run["before"]["samples"] for run in facts["runs"]] == [0, 3, 7]
    assert [run["exit"] for run in facts["runs"]] == ["samples", None, "samples"]
    assert facts["labels"] == {"a": "1", "b": "2"}
    between = [one["why"] for one in facts["unseen"] if "between" in one["what"]]
    assert len(between) == 2
    assert "the last sample of a killed recorder" in between[1]


def test_sockets_of_two_boots_are_never_joined(tmp_path: Path) -> None:
    """They have the same cookies, of which each boot has its own."""
    target = tmp_path / "r"
    for boot in ("b1", "b2", "b2"):
        run(target, 2, boot=boot)
    with analyzer.open(target) as opened:
        assert verify(opened.engine).whole
        rows = list(opened.sql("SELECT boot, count(DISTINCT ns) AS n FROM sockets GROUP BY ALL"))
        assert sorted(str(row["boot"]) for row in rows) == ["b1", "b2"]
        (row,) = opened.sql("SELECT count(DISTINCT ns) AS n, count(*) AS rows FROM sockets")
        assert row == {"n": 2, "rows": 600}
        told = [recording.facts["samples"] for recording in opened.engine.recordings]
        assert told == [2, 4]
    save(target, tmp_path / "all")
    with analyzer.open(tmp_path / "all") as opened:
        assert verify(opened.engine).whole
        assert len(opened.engine.recordings) == 2
    save(target, tmp_path / "last", lambda times: times.last(1))
    with analyzer.open(tmp_path / "last") as opened:
        assert verify(opened.engine).whole
        (recording,) = opened.engine.recordings
        assert recording.facts["boot_id"] == "b2"
        assert {run["boot_id"] for run in recording.facts["runs"]} == {"b2"}  # type: ignore[attr-defined]
        select(opened.engine, Scope())
    with (
        analyzer.open(target) as opened,
        pytest.raises(SelectionError, match="was recorded in 2 boots or intervals: 'sockrec save"),
    ):
        select(opened.engine, Scope())


def test_what_was_dropped_of_an_earlier_boot_is_counted_to_it(tmp_path: Path) -> None:
    target = tmp_path / "r"
    run(target, 2)
    run(target, 3)
    filler = run(target, 4, boot="b2", end=False)
    filler = Filler(
        target, Keep(seconds=1e9), facts={**FACTS, "boot_id": "b2", "started": "now"}, append=True
    )
    assert filler.writer.ring.full(OSError(28, "full"))
    filler.take(100)
    filler.writer.end("samples")
    with analyzer.open(target) as opened:
        assert verify(opened.engine).whole
        assert [one.facts["samples"] for one in opened.engine.recordings] == [3, 5]
        assert [one.dropped is None for one in opened.engine.recordings] == [False, True]


def test_runs_of_a_crash_loop_do_not_fill_recording_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_module, "MOST_RUNS", 3)
    monkeypatch.setattr(append_module, "MOST_BETWEEN", 2)
    told: dict[str, Any] = {**FACTS, "boot_id": "b1", "started": "then", "trouble": []}
    for number, boot in enumerate(("b1", "b2", "b2", "b2"), 2):
        now = {**FACTS, "boot_id": boot, "started": "now"}
        told = continued(told, now, number, {"samples": number, "socket_rows": None})
    assert [(one["boot_id"], one["number"]) for one in told["runs"]] == [
        ("b1", 1), ("b2", 3), ("b2", 5)
    ]  # fmt: skip
    assert sum("between" in one["what"] for one in told["unseen"]) == 2
    assert [part.number for part in parts_of(told)] == [1, 3]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"filter": "sport = :80"}, "was recorded without a filter"),
        ({"filter": "sport = :80"}, {}, "was recorded by the filter 'sport = :80'"),
    ],
)
def test_a_recording_is_all_of_one_filter(
    before: dict[str, Any], now: dict[str, Any], said: str, tmp_path: Path
) -> None:
    run(tmp_path / "r", 2, **before)
    with pytest.raises(AppendError, match=said):
        run(tmp_path / "r", 2, **now)
    run(tmp_path / "r", 2, **before)
    assert contents(tmp_path / "r") == (0, set(range(4)))


def test_what_cannot_be_gone_on_in_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_module, "LOCK_PATIENCE_S", 0.2)
    target = tmp_path / "r"
    filler = run(target, 1)
    save(target, tmp_path / "s")
    with pytest.raises(AppendError, match="is a part of a recording: record to another directory"):
        run(tmp_path / "s", 1)
    filler = Filler(target, UNBOUNDED, facts={**FACTS, "started": "now"}, append=True)
    with pytest.raises(InUseError, match="is being written"):
        run(target, 1)
    filler.writer.end("samples")
    older = tmp_path / "older"
    older.mkdir(mode=0o700)
    write(older, samples=1)
    (older / RECORDING_FILE).write_text('{"version": 1}')
    with pytest.raises(AppendError, match="has version 1 of the format and this is version 2"):
        run(older, 1)
