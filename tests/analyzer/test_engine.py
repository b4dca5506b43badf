"""The engine: one SELECT over the recording's own files, and a way out of a long one."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import analyzer
from analyzer.engine import Engine, QueryError, columns_read
from analyzer.recording import open_recording
from analyzer.views import lay_scope, streams
from recorder.schema import TABLES
from tests.analyzer.recordings import Writer, small, tcp

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture
def unharmed(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a file of the recording changed, or one appeared in it or where we stand."""

    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in recording.parent.rglob("*") if path.is_file()}

    monkeypatch.chdir(tmp_path)
    before = state()
    yield
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert not Path("/tmp/sockrec-attack").exists()


# {r} is the recording, {s} its segment of sockets, {x} a file beside it.
ATTACKS = [
    "COPY (SELECT 1) TO '{s}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{s}'",
    "COPY (SELECT 1) TO '/tmp/sockrec-attack'",
    "COPY sockets FROM '{x}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/sockrec-attack'",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN SELECT 1",
    "ATTACH '/tmp/sockrec-attack'",
    "ATTACH '{s}' AS other",
    "ATTACH ':memory:' AS other",
    "EXPORT DATABASE '/tmp/sockrec-attack'",
    "IMPORT DATABASE '/tmp'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET allowed_paths = ['/etc/passwd']",
    "SET temp_directory = '/tmp/sockrec-attack'",
    "SET memory_limit = '1TB'",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "PRAGMA enable_profiling",
    "CALL enable_logging(storage := 'file')",
    "CALL pragma_version()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET (TYPE s3)",
    "DROP VIEW raw.sockets",
    "INSERT INTO sockets SELECT * FROM sockets",
    "UPDATE sockets SET state = 'x'",
    "DELETE FROM sockets",
    "ALTER VIEW sockets RENAME TO t",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "USE temp",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DETACH memory",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '/tmp/sockrec-attack'",
    "PIVOT sockets ON state USING count(*)",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '{x}'",
    "SELECT * FROM read_csv('{x}')",
    "SELECT * FROM read_csv('{r}/../secret.csv')",
    "SELECT * FROM read_text('file://{x}')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_csv('/dev/stdin')",
    "SELECT * FROM read_text('{r}/recording.json')",
    "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('{x}')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''/tmp/sockrec-attack''')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM \"query\" ('SELECT 1')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT * FROM json_execute_serialized_sql('{{\"error\": false}}')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_arrow_scan()",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM ATTACKS",
    "SELECT getenv('HOME')",
    "SELECT * FROM enable_logging(storage := 'file', storage_path := '/tmp/sockrec-attack')",
    "SELECT * FROM system.main.disable_logging()",
    "SELECT 1 FROM",
    "SELECT '\x00",
    "SELECT '\udcff'",
    "",
    ";",
    "-- nothing",
    "\x00",
]


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_a_select_over_the_recording_gets_through(
    attack: str, engine: Engine, recording: Path
) -> None:
    query = attack.format(
        r=recording, s=recording / "sockets/000001.parquet", x=recording.parent / "secret.csv"
    )
    with pytest.raises(QueryError) as caught:
        engine.table(query)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unharmed")
def test_a_glob_finds_nothing_outside(engine: Engine) -> None:
    """A listing names no file; some versions refuse it altogether."""
    try:
        found = engine.table("SELECT * FROM glob('/etc/*')").num_rows
    except QueryError:
        found = 0
    assert found == 0


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
        assert table.column_names == [*TABLES["sockets"].names, "t_us"]


def test_the_spill_folder_is_private_and_removed(recording: Path) -> None:
    with Engine(open_recording(recording), memory_limit="40MB", threads=1) as engine:
        spill = engine._spill
        assert stat.S_IMODE(spill.stat().st_mode) == 0o700
        query = (
            "SELECT hash(a.i) AS h, md5(CAST(a.i AS VARCHAR)) AS m FROM range(1000000) AS a(i) "
            "ORDER BY h, m"
        )
        assert engine.table(f"SELECT count(*) AS n, max(h) AS h FROM ({query})").num_rows == 1
    assert not spill.exists()


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


def test_ctrl_c_ends_the_command_with_130_and_leaves_nothing(
    recording: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sockrec", "sql", str(recording), ENDLESS],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(500):
        if list(tmp_path.iterdir()):
            break
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 3
    assert (process.returncode, out, err) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("laid", ["lay_scope", "lay_raw"])
def test_ctrl_c_stops_the_laying_of_views(
    recording: Path, monkeypatch: pytest.MonkeyPatch, laid: str
) -> None:
    begun = time.monotonic()
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))

    def slow(connection: duckdb.DuckDBPyConnection, *_: object) -> None:
        timer.start()
        connection.execute(ENDLESS)

    monkeypatch.setattr(f"analyzer.engine.{laid}", slow)
    with pytest.raises(KeyboardInterrupt), Engine(open_recording(recording)) as engine:
        engine.table("SELECT 1 AS one")
    assert time.monotonic() - begun < 3


def test_leaving_a_result_early_stops_the_query(engine: Engine) -> None:
    begun = time.monotonic()
    with engine.run("SELECT i FROM range(1000000000000) AS a(i)") as (schema, batches):
        assert schema.names == ["i"]
        assert next(batches).num_rows > 0
    assert time.monotonic() - begun < 3


def test_a_damaged_page_is_an_error_of_one_line(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(50):
        writer.sample([tcp(n, bytes_acked=n * 7919) for n in range(50)])
    writer.seal()
    path = tmp_path / "r/sockets/000001.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[4:4000] = bytes(3996)
    path.write_bytes(damaged)
    with Engine(open_recording(tmp_path / "r")) as engine, pytest.raises(QueryError) as caught:
        engine.table("SELECT * FROM sockets")
    assert "\n" not in str(caught.value)


def test_this_is_a_duckdb_that_is_supported() -> None:
    major, minor, *_ = (int(part) for part in duckdb.__version__.split(".")[:2])
    assert (1, 5) <= (major, minor) < (3, 0)
