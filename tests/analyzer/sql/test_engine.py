"""The engine: one SELECT over the recording's own files, and a way out of a long one."""

import gc
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analyzer
from analyzer.reading.recording import open_recording
from analyzer.sql.engine import Engine
from analyzer.sql.views import lay_scope, streams
from analyzer.sql.work import QueryError, columns_read
from recorder.schema import TABLES, VERSION
from tests.analyzer.support.recordings import FACTS, Writer, small, tcp

ROOT = Path(__file__).resolve().parents[3]
ENDLESS = "SELECT count(*) FROM range(1000000000000) AS a(i) WHERE i % 7 = 8"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with a segment and a journal, beside a file that is none of its business."""
    folder = tmp_path_factory.mktemp("engine")
    writer = small(folder / "r")
    writer.seal()
    writer.sample([tcp(1)])
    (folder / "secret.csv").write_text("secret\n1\n")
    return folder / "r"


@pytest.fixture(scope="module")
def engine(recording: Path) -> Iterator[Engine]:
    with Engine(open_recording(recording)) as engine:
        yield engine


def test_a_failed_query_leaves_the_engine_usable(engine: Engine) -> None:
    with pytest.raises(QueryError, match="nosuch"):
        engine.table("SELECT nosuch FROM sockets")
    assert engine.table("SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    "query",
    [
        "FROM sockets",
        "WITH s AS (SELECT 1 AS a) SELECT a FROM s",
        "VALUES (1)",
        "SELECT 1;",
        "-- a comment\nSELECT 1 -- another",
        "/* a */ SELECT 1",
        "SELECT (SELECT max(sample) FROM samples)",
        "SUMMARIZE sockets",
        "DESCRIBE sockets",
    ],
)
def test_every_form_of_one_select_is_taken(query: str, engine: Engine) -> None:
    assert engine.table(query).num_rows > 0


def test_segments_and_journals_are_one_table(engine: Engine) -> None:
    found = engine.table(
        "SELECT sample, count(*) AS n FROM sockets GROUP BY sample ORDER BY sample"
    )
    assert [row["n"] for row in found.to_pylist()] == [2, 3, 4, 6, 1]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM sockets ORDER BY sample, cookie",
        "SELECT state, recv_q FROM sockets WHERE cookie > 1 ORDER BY sample, cookie",
        "SELECT count(*) AS n FROM sockets",
        "SELECT count(*) AS n FROM sockets WHERE local_port = 80 AND peer_port > 40000",
        "SELECT max(t_us) AS t, arg_max(comm, sample) AS comm FROM sockets",
        "SELECT COLUMNS('rtt.*|state') FROM sockets ORDER BY ALL",
        "SELECT s.state, t.step FROM sockets AS s JOIN samples AS t USING (sample) ORDER BY ALL",
        "SELECT a.cookie, b.recv_q FROM sockets AS a JOIN sockets AS b ON a.cookie = b.cookie "
        "AND b.sample = a.sample + 1 ORDER BY ALL",
        "SELECT state FROM sockets WHERE cookie IN (SELECT max(cookie) FROM sockets) ORDER BY ALL",
        "SELECT sockets FROM sockets ORDER BY sockets.sample, sockets.cookie",
        "SELECT DISTINCT ON (cookie) cookie, state FROM sockets ORDER BY cookie, sample",
        "SELECT sum(recv_q) OVER (PARTITION BY cookie ORDER BY sample) AS q FROM sockets "
        "ORDER BY sample, cookie",
        "WITH s AS MATERIALIZED (SELECT * FROM sockets) SELECT max(bytes_acked) AS b FROM s",
    ],
)
def test_a_journal_gives_what_its_segment_gives(query: str, tmp_path: Path) -> None:
    """Only the columns that the plan mentions are read: a wrong guess would show as NULL."""
    writer = small(tmp_path / "r")
    with Engine(open_recording(tmp_path / "r")) as live:
        from_journals = live.table(query)
    writer.seal()
    with Engine(open_recording(tmp_path / "r")) as sealed:
        from_segments = sealed.table(query)
    assert from_journals.to_pylist() == from_segments.to_pylist()
    assert from_journals.schema == from_segments.schema


def test_only_what_a_query_reads_is_read_from_a_journal(tmp_path: Path) -> None:
    small(tmp_path / "r")
    recording = open_recording(tmp_path / "r")
    with Engine(recording) as engine:
        engine.table("SELECT count(*) FROM raw.samples")  # lays the raw relations
        cursor = engine._connection.cursor()
        for name, stream in streams(recording).items():
            cursor.register(name, stream)
        lay_scope(cursor)
        wanted = columns_read(cursor, "SELECT max(recv_q) FROM sockets WHERE state = 'ESTAB'")
        cursor.close()
    assert wanted is not None
    assert wanted & set(TABLES["sockets"].names) == {"recv_q", "state"}


@pytest.mark.parametrize("name", ["in[1]*", "a=1,b", "with 'quotes\"", "new\nline", "?.parquet"])
def test_any_name_of_a_folder_will_do(name: str, tmp_path: Path) -> None:
    small(tmp_path / name).seal()
    with analyzer.open(tmp_path / name) as opened:
        table = opened.sql("SELECT * FROM sockets").table()
        assert table.num_rows == 15
        made = "host boot run ns t_us local peer who".split()
        assert table.column_names == [*TABLES["sockets"].names, *made]


SORT = (
    "SELECT count(*) AS n, max(h) AS h FROM (SELECT hash(i) AS h, md5(CAST(i AS VARCHAR)) AS m "
    "FROM range(600000) AS a(i) ORDER BY h, m LIMIT 590000)"
)


def test_what_does_not_fit_in_memory_goes_to_a_private_folder_and_nowhere_else(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, here = tmp_path / "place", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.chdir(here)
    seen: set[Path] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            seen.update(tmp_path.rglob("*"))

    watcher = threading.Thread(target=look)
    with Engine(open_recording(recording), memory_limit="32MB", threads=1) as engine:
        assert stat.S_IMODE(engine._spill.stat().st_mode) == 0o700
        watcher.start()
        try:
            assert engine.table(SORT)["n"].to_pylist() == [590_000]
        finally:
            ended.set()
            watcher.join(60)
        spilled = {path for path in seen if engine._spill in path.parents}
        assert spilled
        assert seen - spilled == {place, here, engine._spill}
    assert list(place.iterdir()) == list(here.iterdir()) == []


def test_temporary_files_have_a_limit(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=16 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with Engine(open_recording(recording), memory_limit="32MB", threads=1) as engine:
        with pytest.raises(QueryError, match=r"more than 8\.0 MiB of temporary files: narrow it"):
            engine.table(SORT)
        assert list(engine._spill.glob("*.tmp")) == []
        assert engine.table("SELECT count(*) AS n FROM sockets")["n"].to_pylist() == [16]


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_query_that_cannot_even_tell_its_error_is_not_waited_for(
    recording: Path, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    def fail(self: object, item: object, *_: object, **__: object) -> None:
        raise MemoryError

    with analyzer.open(recording, timeout=timeout) as opened:
        monkeypatch.setattr("queue.Queue.put", fail)
        with pytest.raises(QueryError, match="out of memory"):
            opened.engine.table("SELECT 1 AS one")


def test_memory_has_a_limit(recording: Path) -> None:
    with (
        Engine(open_recording(recording), memory_limit="48MB", threads=1) as engine,
        pytest.raises(QueryError, match=r"more than 45\.7 MiB: narrow it .* or raise --memory"),
    ):
        engine.table("SELECT len(list(i)) FROM range(30000000) AS a(i)")


@pytest.mark.parametrize(
    "options",
    [
        {"memory_limit": "lots"},
        {"memory_limit": "-1GB"},
        {"memory_limit": "1GB'; x"},
        {"memory_limit": "1KB"},
        {"memory_limit": ""},
        {"threads": 0},
        {"threads": -1},
    ],
)
def test_limits_that_are_none_are_refused_and_leave_nothing(
    options: dict[str, Any], recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(QueryError) as caught:
        Engine(open_recording(recording), **options).table("SELECT * FROM sockets")
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_progress_tells_how_much_is_done_to_other_threads(tmp_path: Path) -> None:
    identity = {"version": str(VERSION), "table": "sockets", "recording": json.dumps(FACTS)}
    rows = pa.table({"cookie": pa.array(range(1_500_000), pa.int64())})
    rows = rows.replace_schema_metadata({f"sockrec.{k}": text for k, text in identity.items()})
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=50_000)
    seen: list[float | None] = []
    ended = threading.Event()
    with Engine(open_recording(tmp_path / "x.parquet"), threads=1) as engine:
        assert engine.progress() is None

        def look() -> None:
            while not ended.wait(0.005):
                seen.append(engine.progress())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            engine.table(
                "SELECT count(*) AS n FROM sockets WHERE md5(CAST(cookie AS VARCHAR)) LIKE 'abc%'"
            )
        finally:
            ended.set()
            watcher.join(60)
        told = [share for share in seen if share is not None]
        assert all(0 <= share <= 1 for share in told)
        assert any(0.2 < share < 0.8 for share in told)
        assert engine.progress() is None
    assert engine.progress() is None


def test_a_query_stops_at_its_time_limit(recording: Path) -> None:
    with Engine(open_recording(recording), timeout=0.3) as engine:
        begun = time.monotonic()
        with pytest.raises(QueryError, match=r"longer than 0\.3 s"):
            engine.table(ENDLESS)
        assert time.monotonic() - begun < 2
        assert engine.table("SELECT 1 AS one").num_rows == 1


def test_ctrl_c_stops_a_query(engine: Engine) -> None:
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    begun = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        engine.table(ENDLESS)
    assert time.monotonic() - begun < 2
    assert engine.table("SELECT 1 AS one").num_rows == 1


# What a query may be busy with when somebody has had enough.
LONG = {
    "cross join": "SELECT count(*) FROM range(9000000) AS a(i), range(9000000) AS b(j) "
    "WHERE (i * j) % 7 = 8",
    "recursion": "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) "
    "SELECT max(i) FROM r",
    "sort": "SELECT max(h) FROM (SELECT hash(i) AS h FROM range(2000000000) AS a(i) ORDER BY h "
    "LIMIT 1000000000)",
    "regexp": "SELECT count(*) FROM range(100000000000) AS a(i) "
    "WHERE regexp_matches(repeat('a', 2000) || i, '(a+)+b')",
    "range": ENDLESS,
    "list": "SELECT sum(len(list_transform(range(i % 1000), lambda x: x * 2))) "
    "FROM range(10000000000) AS a(i)",
    "group": "SELECT max(n) FROM (SELECT hash(i) % 90000000 AS h, count(*) AS n "
    "FROM range(90000000000) AS a(i) GROUP BY h)",
    "window": "SELECT sum(s) FROM (SELECT sum(i) OVER (ORDER BY hash(i) "
    "ROWS 1000000 PRECEDING) AS s FROM range(300000000) AS a(i))",
    "sleep": "SELECT sleep_ms(20000)",
    "rows": "SELECT i FROM range(100000000000) AS a(i)",
}

INTERRUPTED = """
import json, os, signal, sys, threading, time
from analyzer.sql.engine import Engine
from analyzer.reading.recording import open_recording

took = {}
with Engine(open_recording(sys.argv[1]), threads=2, memory_limit="1GB") as engine:
    for kind, query in json.loads(sys.argv[2]).items():
        sent = []
        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        timer = threading.Timer(0.3, interrupt)
        timer.start()
        try:
            with engine.run(query) as (schema, batches):
                for batch in batches:
                    pass
            timer.cancel()
            took[kind] = "ended by itself"
        except KeyboardInterrupt:
            took[kind] = time.monotonic() - sent[0]
    assert engine.table("SELECT count(*) AS n FROM sockets")["n"].to_pylist() == [16]
print(json.dumps(took))
"""


def test_ctrl_c_stops_any_kind_of_query_within_a_second(recording: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(recording), json.dumps(LONG)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    assert took.keys() == LONG.keys()
    assert all(isinstance(seconds, float) and seconds < 1 for seconds in took.values()), took
    assert list(tmp_path.iterdir()) == []


def begun(place: Path, *words: str) -> subprocess.Popen[str]:
    """Run the command until it asks, with temporary files in a place of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sockrec", *words],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(500):
        if list(place.iterdir()):
            break
        time.sleep(0.02)
    return process


# Nothing in DuckDB looks up before this is done, some ten seconds later.
UNSTOPPABLE = "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000)) AS n"


@pytest.mark.parametrize("query", [ENDLESS, UNSTOPPABLE], ids=["endless", "unstoppable"])
@pytest.mark.parametrize("form", ["directory", "zip"])
def test_ctrl_c_ends_the_command_with_130_and_leaves_nothing(
    query: str, form: str, recording: Path, tmp_path: Path
) -> None:
    path, place = recording, tmp_path / "place"
    place.mkdir()
    if form == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "r"), "zip", recording))
    process = begun(place, "sql", str(path), query)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - sent < 3
    assert (process.returncode, out, err) == (130, "", "")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_plain_kill_leaves_nothing_either(
    number: signal.Signals, recording: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    packed = shutil.make_archive(str(tmp_path / "r"), "zip", recording)
    process = begun(place, "sql", packed, UNSTOPPABLE)
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert list(place.iterdir()) == []


def test_a_query_that_cannot_be_stopped_ends_at_its_time_limit_all_the_same(
    recording: Path, tmp_path: Path
) -> None:
    process = begun(tmp_path, "sql", str(recording), UNSTOPPABLE, "--timeout", "0.5")
    started = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 6
    assert (process.returncode, out) == (1, "")
    assert err == "sockrec: the query took longer than 0.5 s\n"
    assert list(tmp_path.iterdir()) == []


def test_leaving_a_result_early_stops_the_query(engine: Engine) -> None:
    begun = time.monotonic()
    with engine.run("SELECT i FROM range(1000000000000) AS a(i)") as (schema, batches):
        assert schema.names == ["i"]
        assert next(batches).num_rows > 0
    assert time.monotonic() - begun < 3


def test_a_damaged_page_is_never_read(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(50):
        writer.sample([tcp(n, bytes_acked=n * 7919) for n in range(50)])
    writer.seal()
    path = tmp_path / "r/sockets/000001.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[4:4000] = bytes(3996)
    path.write_bytes(damaged)
    with Engine(open_recording(tmp_path / "r")) as engine:
        assert engine.table("SELECT * FROM sockets").num_rows == 0
        assert next(lost.rows for lost in engine.news()) == 2500


def test_this_is_a_duckdb_that_is_supported() -> None:
    major, minor, *_ = (int(part) for part in duckdb.__version__.split(".")[:2])
    assert (1, 5) <= (major, minor) < (3, 0)
