"""Threads that may open nothing but what they were given, and a DuckDB in such a thread."""

import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from analyzer.reading.recording import open_recording
from analyzer.sql import landlock
from analyzer.sql.engine import Engine, _allowed
from analyzer.sql.landlock import CHANGE, READ, Ruleset
from tests.analyzer.support.recordings import small

pytestmark = pytest.mark.skipif(
    not landlock.version(), reason="needs a kernel with Landlock, 5.13 or newer"
)


def within(ruleset: Ruleset, work: Callable[[], object]) -> object:
    """Do something in a thread that the ruleset binds; return its result, or its error."""
    results: list[object] = []

    def run() -> None:
        ruleset.enter()
        try:
            results.append(work())
        except (OSError, duckdb.Error) as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_a_thread_opens_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    given, other, written = (tmp_path / name for name in ("given", "other", "written"))
    for folder in (given, other, written):
        folder.mkdir()
        (folder / "file").write_text("x")
    ruleset = Ruleset([(given, READ), (written, CHANGE), (tmp_path / "nowhere", READ)])
    assert within(ruleset, (given / "file").read_text) == "x"
    assert within(ruleset, lambda: (written / "new").write_text("y")) == 1
    for refused in (
        (other / "file").read_text,
        lambda: (given / "file").write_text("y"),
        lambda: (given / "new").write_text("y"),
        lambda: (given / "file").unlink(),
        lambda: list(other.iterdir()),
    ):
        assert isinstance(within(ruleset, refused), PermissionError)
    assert (other / "file").read_text() == "x"  # this thread is free
    assert (given / "file").read_text() == "x"


def test_a_duckdb_without_any_other_lock_reads_the_recording_only(tmp_path: Path) -> None:
    """What the engine allows its threads is enough for DuckDB, and no secret is in it."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    small(tmp_path / "r").seal()
    recording = open_recording(tmp_path / "r")
    spill = tmp_path / "spill"
    spill.mkdir()
    ruleset = Ruleset(_allowed([recording], spill))
    segment = recording.paths[0]

    def ask(query: str) -> object:
        with duckdb.connect(config={"threads": "2"}) as connection:
            return connection.execute(query).fetchall()

    assert within(ruleset, lambda: ask(f"SELECT count(*) > 0 FROM '{segment}'")) == [(True,)]
    # Run by the threads that DuckDB starts as well.
    assert within(ruleset, lambda: ask("SELECT sum(a.i) FROM range(3000000) a(i)"))
    for query in (
        f"FROM read_csv('{secret}')",
        "FROM read_text('/etc/passwd')",
        "FROM read_text('/proc/self/environ')",
        f"COPY (SELECT 1) TO '{segment}' (USE_TMP_FILE false)",
        f"COPY (SELECT 1) TO '{tmp_path / 'r' / 'x.csv'}'",
        f"COPY (SELECT 1) TO '{tmp_path / 'x.csv'}'",
    ):
        found = within(ruleset, lambda query=query: ask(query))  # type: ignore[misc]
        assert isinstance(found, duckdb.Error), query
        assert "ermission denied" in str(found) or "No files found" in str(found), query
    assert open_recording(tmp_path / "r").paths == recording.paths


def test_the_threads_of_an_engine_are_bound_and_their_caller_is_not(tmp_path: Path) -> None:
    small(tmp_path / "r")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with Engine(open_recording(tmp_path / "r"), threads=2) as engine:
        status = engine.table("SELECT count(*) AS n FROM sockets")
        assert status["n"].to_pylist() == [15]
        assert isinstance(within(engine._ruleset, secret.read_text), PermissionError)
        assert secret.read_text()


def test_without_landlock_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    small(tmp_path / "r")
    with Engine(open_recording(tmp_path / "r")) as engine:
        assert engine.table("SELECT count(*) AS n FROM sockets")["n"].to_pylist() == [15]
