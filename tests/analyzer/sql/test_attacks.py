"""What strangers send: statements that want more than to read, and recordings made to harm."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sockrec
from analyzer.reading.recording import open_recording
from analyzer.sql.engine import Engine
from analyzer.sql.info import describe
from analyzer.sql.views import Scope, ScopeError
from analyzer.sql.work import QueryError
from recorder.schema import KINDS, TABLES, SockrecError, public_schema
from tests.analyzer.support.recordings import (
    FACTS,
    NETNS,
    Row,
    Writer,
    every_table,
    small,
    tcp,
    time_of,
    write_segment,
)

SECRET = "canary-7c0ffee"
TARGET = Path("/tmp/sockrec-attack")
ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\x00\x9b31m\u202e</script>"

Files = dict[Path, tuple[int, str]]


def files(*folders: Path) -> Files:
    """Return mode and hash of everything in some folders."""
    return {
        path: (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest()
            if stat.S_ISREG(path.lstat().st_mode)
            else "",
        )
        for folder in folders
        for path in folder.rglob("*")
    }


class Host:
    """A recording in a home with secrets, in which we stand, and an engine over it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.secret = self.home / "secret.csv"
        self.secret.write_text(f"secret\n{SECRET}\n")
        pq.write_table(pa.table({"secret": [SECRET]}), self.home / "secret.parquet")
        self.recording = folder / "r"
        writer = every_table(self.recording)
        writer.seal()
        writer.sample([tcp(1)])
        self.engine: Engine

    def text(self, statement: str) -> str:
        """Return a statement with the paths that it is about."""
        for word, path in {
            "{r}": self.recording,
            "{s}": self.recording / "sockets/000001.parquet",
            "{x}": self.secret,
            "{p}": self.home / "secret.parquet",
            "{h}": self.home,
            "{t}": TARGET,
        }.items():
            statement = statement.replace(word, str(path))
        return statement

    def settings(self) -> dict[str, str]:
        rows = self.engine._connection.execute("SELECT name, value FROM duckdb_settings()")
        return dict(rows.fetchall())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with pytest.MonkeyPatch.context() as patch:
        host = Host(tmp_path_factory.mktemp("host"))
        patch.chdir(host.home)
        patch.setenv("HOME", str(host.home))
        patch.setenv("SOCKREC_CANARY", SECRET)
        with Engine(open_recording(host.recording)) as host.engine:
            yield host


@pytest.fixture
def unharmed(host: Host) -> Iterator[None]:
    """Fail if anything changed that a query may not change, on disk or in the engine."""
    before, settings = files(host.recording, host.home), host.settings()
    yield
    assert files(host.recording, host.home) == before
    assert host.settings() == settings
    assert list(host.engine._spill.iterdir()) == []
    assert not TARGET.exists()


# {r} is the recording, {s} its segment of sockets, {x} and {p} secrets in the home {h}.
REFUSED = [
    "COPY (SELECT 1) TO '{s}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{s}'",
    "COPY (SELECT 1) TO '{t}'",
    "COPY sockets FROM '{x}'",
    # DuckDB 2.0 takes these for SELECT, and does them.
    "WITH x AS (COPY (SELECT 1) TO '{s}' (USE_TMP_FILE false)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{t}') FROM x",
    "SELECT (WITH x AS (COPY (SELECT 1) TO '{s}') SELECT 1)",
    "SELECT * FROM (WITH x AS (COPY sockets TO '{s}') SELECT 1) AS y",
    "SELECT 1 UNION ALL (WITH x AS (COPY sockets TO '{s}') SELECT 1)",
    "WITH a AS (WITH b AS (COPY (SELECT 1) TO '{s}') SELECT 1) SELECT 1",
    "SELECT 1 WHERE EXISTS (WITH x AS (COPY (SELECT 1) TO '{s}') SELECT 1)",
    "SELECT list_transform([1], lambda i: (WITH x AS (COPY (SELECT 1) TO '{s}') SELECT 1))",
    "WITH x AS (INSERT INTO sockets SELECT * FROM sockets RETURNING *) SELECT 1",
    "WITH x AS (DELETE FROM sockets RETURNING *) SELECT 1",
    "WITH x AS (UPDATE sockets SET state = 'x' RETURNING *) SELECT 1",
    "DESCRIBE (WITH x AS (COPY (SELECT 1) TO '{s}') SELECT 1)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{t}'",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (ANALYZE) SELECT 1",
    "EXPLAIN EXPLAIN SELECT 1",
    "EXPLAIN COPY (SELECT 1) TO '{t}'",
    "EXPLAIN WITH x AS (COPY (SELECT 1) TO '{t}') SELECT 1",
    "EXPLAIN SELECT 1; COPY (SELECT 1) TO '{t}'",
    "-- \nEXPLAIN ANALYZE SELECT 1",
    "ATTACH '{t}'",
    "ATTACH '{s}' AS other",
    "ATTACH ':memory:' AS other",
    "EXPORT DATABASE '{t}'",
    "IMPORT DATABASE '/tmp'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{x}'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET allowed_paths = ['/etc/passwd']",
    "SET allowed_configs = ['threads']",
    "SET enable_progress_bar_print = true",
    "SET temp_directory = '{t}'",
    "SET memory_limit = '1TB'",
    "SET GLOBAL threads = 1",
    "RESET memory_limit",
    "SET VARIABLE x = 1",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL enable_logging(storage := 'file')",
    "CALL pragma_version()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET (TYPE s3)",
    "DROP VIEW raw.sockets",
    "INSERT INTO sockets SELECT * FROM sockets",
    "MERGE INTO sockets USING samples ON true WHEN MATCHED THEN DELETE",
    "UPDATE sockets SET state = 'x'",
    "DELETE FROM sockets",
    "ALTER VIEW sockets RENAME TO t",
    "COMMENT ON VIEW sockets IS 'x'",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN",
    "USE temp",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "DETACH memory",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{t}'",
    "SELECT 1;\x00COPY (SELECT 1) TO '{t}'",
    "PIVOT sockets ON state USING count(*)",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{x}')",
    "SELECT * FROM read_csv('{x}')",
    "SELECT * FROM read_csv_auto('{x}')",
    "SELECT * FROM read_json('{x}')",
    "SELECT * FROM read_parquet('{p}')",
    "SELECT * FROM parquet_scan('{p}')",
    "SELECT * FROM read_duckdb('{x}')",
    "SELECT * FROM sockets, LATERAL (SELECT * FROM read_text('{x}'))",
    "SELECT (SELECT content FROM read_text('{x}'))",
    "SELECT * FROM '{x}'",
    "SELECT * FROM '{p}'",
    "SELECT * FROM '{h}/*.csv'",
    'SELECT * FROM "{p}"',
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'secret.csv'",
    "SELECT * FROM read_csv('secret.csv')",
    "SELECT * FROM read_csv('~/secret.csv')",
    "SELECT * FROM read_csv('{r}/../home/secret.csv')",
    "SELECT * FROM read_csv('{s}/../../../home/secret.csv')",
    "SELECT * FROM read_text('file://{x}')",
    "SELECT * FROM READ_TEXT('{x}')",
    "SELECT * FROM \"read_text\"('{x}')",
    "SELECT * FROM system.main.read_text('{x}')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_csv('/dev/stdin')",
    "SELECT * FROM read_text('{r}/recording.json')",
    "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM sniff_csv('{x}')",
    "SELECT * FROM glob('{h}/*')",
    "SELECT * FROM parquet_metadata('{p}')",
    "SELECT * FROM parquet_kv_metadata('{p}')",
    "SELECT * FROM parquet_schema('{p}')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{t}''')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT (SELECT * FROM \"query\" ('SELECT 1'))",
    "SELECT * FROM /* */ Query /* */ ('SELECT 1')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT * FROM query_table('{p}')",
    "SELECT * FROM query_table(['{x}'])",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT json_serialize_plan('SELECT * FROM enable_logging()')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan_dumb(1, 2, 3)",
    "SELECT * FROM python_arrow_scan()",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM seq_scan()",
    "SELECT * FROM REFUSED",
    "SELECT * FROM sys",
    "SELECT getenv('SOCKREC_CANARY')",
    "SELECT * FROM enable_logging(storage := 'file', storage_path := '{t}')",
    "SELECT * FROM system.main.disable_logging()",
    "SELECT * FROM truncate_duckdb_logs()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://bucket', 's3')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM enable_profiling()",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint('memory')",
    "SELECT write_log('x')",
    "SELECT setval('s', 1)",
    "SELECT nextval('s')",
    "SELECT * FROM pragma_storage_info('sockets')",
    "SELECT * FROM raw.nosuch",
    "SELECT 1 FROM",
    "SELECT '\x00",
    "SELECT '\udcff'",
    "SELECT " + "(" * 100_000,
    "SELECT " + "[" * 5_000 + "]" * 5_000,
    "SELECT " + " + ".join(["1"] * 50_000),
    "SELECT '" + "x" * (1 << 20) + "'",
    "",
    ";",
    "-- nothing",
    "/*",
    "\x00",
]


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: repr(attack[:60]))
def test_nothing_but_a_select_over_the_recording_gets_through(attack: str, host: Host) -> None:
    with pytest.raises(QueryError) as caught:
        host.engine.table(host.text(attack))
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) <= 1000


# Words that name refused things, in places where they are none; and what tells nothing.
HARMLESS = [
    "SELECT 'query(''x'')' AS query, 1 AS read_text, 2 AS \"COPY\"",
    "WITH query AS (SELECT 1 AS getenv) SELECT query.getenv FROM query WHERE getenv = 1",
    """SELECT '"function_name":"read_text"' AS "type"":""COPY_NODE", '"type":"COPY_NODE"'""",
    "SELECT comm AS checkpoint FROM sockets WHERE comm NOT LIKE 'read_text(%'",
    "SELECT * FROM query_table('sockets')",
    "SELECT unnest(range(3)), generate_series(1, 2)",
    "SELECT * FROM json_each('[1, 2]')",
    "SELECT * FROM histogram(sockets, recv_q)",
    "SELECT " + " + ".join(["1"] * 100),
    "SELECT 1 AS x WHERE " + " OR ".join(f"{n} = 1" for n in range(3_000)),
    "SELECT 1 IN (" + ", ".join(str(n) for n in range(20_000)) + ")",
    "SHOW TABLES",
    "SELECT view_name FROM duckdb_views() WHERE NOT internal",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM duckdb_logs",
    "SELECT current_setting('memory_limit'), current_user, current_query()",
    "SELECT getvariable('x'), setseed(0.5), random()",
    "SELECT * FROM '{s}'",
    "SELECT error('\x1b[2J')",
    "SELECT CAST('\x1b[2J\n' AS INTEGER)",
    "SELECT sleep_ms(1)",
    "SELECT current_setting('SOCKREC_CANARY')",
    "SELECT current_setting('secret_directory') LIKE '%canary%'",
]


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("attack", HARMLESS, ids=lambda attack: repr(attack[:60]))
def test_a_select_may_read_what_there_is_and_leaves_all_as_it_was(attack: str, host: Host) -> None:
    try:
        found = str(host.engine.table(host.text(attack)).to_pylist())
    except QueryError as error:
        found = str(error)
        assert "\n" not in found
        assert re.search("error|CAST|SOCKREC_CANARY|secret_directory|'/", attack) or (
            "sleep_ms" in attack
        ), found
    assert SECRET not in found


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "where",
    [
        "EXISTS (FROM query('SELECT 1'))",
        "EXISTS (FROM read_text('{x}'))",
        "EXISTS (WITH x AS (COPY (SELECT 1) TO '{s}') SELECT 1)",
        "(WITH x AS (COPY (SELECT 1) TO '{t}') SELECT true)",
        "true) UNION ALL (SELECT * FROM read_text('{x}')",
        "true; COPY (SELECT 1) TO '{t}'",
        "getenv('SOCKREC_CANARY') = 'x'",
        "true --",
        "/* true",
        "",
        "\x00",
    ],
)
def test_a_condition_may_do_no_more_than_a_query(where: str, host: Host) -> None:
    scope = Scope(where=host.text(where))
    if where == "true --":
        assert host.engine.table("SELECT 1 AS x FROM sockets", scope).num_rows == 9
        return
    with pytest.raises(ScopeError) as caught:
        host.engine.table("SELECT * FROM sockets", scope)
    assert "\n" not in str(caught.value)


def test_every_function_of_a_table_is_known_or_refused(host: Host) -> None:
    """None of the functions that this DuckDB has gets through unless somebody thought of it."""
    names = {
        name
        for (name,) in host.engine._connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type IN ('table', 'table_macro')"
        ).fetchall()
    }
    assert len(names) > 80
    taken = set()
    for name in sorted(names):
        with contextlib.suppress(QueryError):
            host.engine.check(f'SELECT * FROM "{name}"()')
            taken.add(name)
    assert not {name for name in taken if re.search("read|scan|log|secret|query$|glob", name)}
    assert {"range", "unnest", "json_each"} < taken
    assert len(taken) < 30


def test_the_engine_has_survived_all_that(host: Host) -> None:
    assert host.engine.table("SELECT count(*) AS n FROM sockets").to_pylist() == [{"n": 9}]


class Done:
    """How a command ended and what it printed."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out, err


def command(*words: str | Path, seconds: float = 20.0) -> Done:
    """Run the command in this process as a shell would; it may take so long."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{words}: took longer than {seconds} s")

    out, err = io.BytesIO(), io.BytesIO()
    status: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sockrec", *map(str, words)])
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8"))
        patch.setattr(sys, "stderr", io.TextIOWrapper(err, "utf-8"))
        old = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            sockrec.main()
        except SystemExit as end:
            status = end.code
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(int(str(status or 0)), out.getvalue(), err.getvalue())


TOLD = (b"sockrec: missing: ", b"sockrec: marked: ")
"""What a command tells beside its answer."""


def ask(*paths: Path, commands: Sequence[Sequence[str]] | None = None) -> list[int]:
    """Run the commands over a recording; each must end well, and print what a terminal may show."""
    statuses = []
    for before, after in (
        (["info"], []),
        (["report", "states"], []),
        (["sql"], ["SELECT * FROM sockets"]),
        (["sql"], ["SELECT * FROM owners", "--format", "csv"]),
    ):
        done = command(*before, *paths, *after)
        told = f"{before}: {done.status} {done.err!r}"
        assert done.status in (0, 1, 2), told
        notes = [line for line in done.err.splitlines() if not line.startswith(TOLD)]
        assert done.status or all(note.startswith(b"sockrec: no rows") for note in notes), told
        if done.status == 1:
            assert done.err.startswith(b"sockrec: "), told
            assert len(notes) == 1, told
        assert b"Traceback" not in done.err
        for text in (done.out.decode(), done.err.decode()):
            assert not (raw := re.findall(r"[^\n\x20-\x7e\xa0-\U0010ffff]|\u202e", text)), raw
        statuses.append(done.status)
    return statuses


def hostile_row(table: str, sample: int) -> Row:
    """Return a row with escapes in every text."""
    row: Row = {"sample": sample, "sample_time": time_of(sample), "netns": NETNS, "cookie": sample}
    for column in TABLES[table].columns:
        if KINDS[column.kind][1] == "string" and column.name not in ("outcome",):
            row[column.name] = ESCAPES + column.name
    return row


def escapes(folder: Path) -> Path:
    facts: dict[str, Any] = {
        key: ESCAPES if isinstance(value, str) else value
        for key, value in FACTS.items()
        if key != "version"
    }
    facts |= {
        "command": ["sh", ESCAPES],
        "unseen": [{"what": ESCAPES, "why": ESCAPES}],
        "unknown_attributes": {ESCAPES: {ESCAPES: 1}},
        "missing_sysctls": [ESCAPES],
        "reading": [{"step": ESCAPES, "source": ESCAPES, "why": ESCAPES, "namespaces": 1}],
        "exit": ESCAPES,
    }
    writer = Writer(folder, **facts)
    rows: dict[str, Any] = {
        table: [hostile_row(table, 0)] for table in TABLES if table not in ("samples",)
    }
    steps = [hostile_row("samples", 0) | {"rows": 1, "outcome": ESCAPES}]
    writer.sample(rows.pop("sockets"), steps=steps, **rows)
    return folder


def sealed_escapes(folder: Path) -> Path:
    escapes(folder)
    writer = Writer(folder / "again")
    writer.sample([tcp(1)])
    writer.seal()
    shutil.rmtree(folder / "again")
    for table in TABLES:
        write_segment(folder / table / "000001.parquet", table, [hostile_row(table, 0)], FACTS)
    return folder


def sealed(folder: Path) -> Path:
    every_table(folder).seal()
    return folder


def with_segment(
    folder: Path, columns: Mapping[str, Any], version: str = "2", **options: Any
) -> Path:
    """Replace a segment of a good recording by a file of any columns."""
    sealed(folder)
    identity = {
        "sockrec.version": version,
        "sockrec.table": "sockets",
        "sockrec.recording": json.dumps(FACTS),
    }
    table = pa.table(dict(columns)).replace_schema_metadata(identity)
    pq.write_table(table, folder / "sockets/000001.parquet", **options)
    return folder


def with_facts(folder: Path, text: str | bytes) -> Path:
    """Replace what the recording says of itself, in recording.json and in a lone segment."""
    sealed(folder)
    bytes_ = text.encode() if isinstance(text, str) else text
    (folder / "recording.json").write_bytes(bytes_)
    return folder


def lone(folder: Path, text: str) -> Path:
    folder.mkdir()
    write_segment(folder / "x.parquet", "sockets", [tcp(1)], FACTS, recording=text)
    return folder / "x.parquet"


def linked(folder: Path, name: str, to: str) -> Path:
    sealed(folder)
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(to)
    return folder


def replaced(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    sealed(folder)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    return folder


def listening(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def claimed(folder: Path, length: int) -> Path:
    """Let the footer of a segment claim a length."""
    sealed(folder)
    path = folder / "sockets/000001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + struct.pack("<I", length) + b"PAR1")
    return folder


def zipped(folder: Path, **members: bytes) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return folder / "x.zip"


DEEP = '{"version": 2, "unseen": ' + "[" * 900 + "]" * 900 + "}"
LONG = json.dumps(FACTS | {"host": "x" * 200_000, "command": ["\x1b"] * 1_000})
HOSTILE: dict[str, Callable[[Path], Path]] = {
    "escapes in journals": escapes,
    "escapes in segments": sealed_escapes,
    "thousands of columns": lambda f: with_segment(f, {f"c{n}": [1] for n in range(5_000)}),
    "no columns": lambda f: with_segment(f, {}),
    "wrong types": lambda f: with_segment(f, {"sample": ["0"], "comm": [1]}),
    "a list": lambda f: with_segment(f, {"sample": [[1, 2]]}),
    "a struct": lambda f: with_segment(f, {"comm": [{"comm": "x"}]}),
    "deep nesting": lambda f: with_segment(
        f, {"comm": pa.array([None], pa.list_(pa.list_(pa.map_(pa.string(), pa.int8()))))}
    ),
    "hostile column names": lambda f: with_segment(f, {ESCAPES: [1], "a b'\"": [2]}),
    "a hostile version": lambda f: with_segment(f, {"sample": [1]}, version=ESCAPES),
    "times out of range": lambda f: with_segment(
        f,
        {
            "sample": pa.array([-(1 << 63), (1 << 63) - 1]),
            "sample_time": pa.array([-(1 << 63) + 2, (1 << 63) - 2], pa.timestamp("us")),
        },
    ),
    "text that is no UTF-8": lambda f: with_segment(
        f,
        {
            "comm": pa.Array.from_buffers(
                pa.string(), 1, [*pa.array(["abc"]).buffers()[:2], pa.py_buffer(b"\xff\xfe\x1b")]
            )
        },
    ),
    "a footer of 2 GiB": lambda f: claimed(f, 0x7FFFFFFF),
    "a footer of 4 GiB": lambda f: claimed(f, 0xFFFFFFFF),
    "a footer of nothing": lambda f: claimed(f, 0),
    "a linked segment": lambda f: linked(f, "sockets/000001.parquet", "/etc/passwd"),
    "a linked commit": lambda f: linked(f, "samples/000001.parquet", "../sockets/000001.parquet"),
    "a linked journal": lambda f: linked(f, "owners/000002.arrows", "/etc/passwd"),
    "a linked table": lambda f: linked(f, "owners", "/etc"),
    "a linked recording.json": lambda f: linked(f, "recording.json", "/etc/passwd"),
    "a recording.json of nowhere": lambda f: linked(f, "recording.json", "/nowhere"),
    "an endless recording.json": lambda f: linked(f, "recording.json", "/dev/zero"),
    "a pipe for a segment": lambda f: replaced(f, "sockets/000001.parquet", os.mkfifo),
    "a pipe for a journal": lambda f: replaced(f, "sockets/000002.arrows", os.mkfifo),
    "a pipe for recording.json": lambda f: replaced(f, "recording.json", os.mkfifo),
    "a folder for a segment": lambda f: replaced(f, "sockets/000001.parquet", os.mkdir),
    "a socket for a segment": lambda f: replaced(f, "sockets/000001.parquet", listening),
    "an empty segment": lambda f: replaced(f, "sockets/000001.parquet", Path.touch),
    "no recording.json": lambda f: replaced(f, "recording.json", lambda path: None),
    "deep facts": lambda f: with_facts(f, DEEP),
    "deeper facts": lambda f: with_facts(f, "[" * 1_000_000),
    "long facts": lambda f: with_facts(f, LONG),
    "facts that are no UTF-8": lambda f: with_facts(f, b'{"version": 2, "host": "\xff\x1b"}'),
    "facts of a long number": lambda f: with_facts(f, '{"version": 2, "x": ' + "9" * 9_999 + "}"),
    "a long version": lambda f: with_facts(f, '{"version": 1' + "0" * 4_000 + "}"),
    "deep metadata": lambda f: lone(f, DEEP),
    "deeper metadata": lambda f: lone(f, "[" * 1_000_000),
    "long metadata": lambda f: lone(f, LONG),
    "no metadata": lambda f: lone(f, ""),
    "metadata of another kind": lambda f: lone(f, "[1, 2]"),
    "a zip of a bomb": lambda f: zipped(f, **{"recording.json": bytes(20 << 20)}),
    "a zip that leads outside": lambda f: zipped(f, **{"../evil": b"", "recording.json": b"{}"}),
    "a folder of two lines": lambda f: sealed(f.with_name("two\nlines\x1b[2J")),
    "a folder like a pattern": lambda f: sealed(f.with_name("*[a]?{b}%s%n")),
    "a folder like a partition": lambda f: sealed(f.with_name("comm=evil")),
    "a folder with quotes": lambda f: sealed(f.with_name('it\'s "this"; --')),
}
WELL = {
    "escapes in journals",
    "escapes in segments",
    "long facts",
    "long metadata",
    "deep facts",
} | {name for name in HOSTILE if name.startswith("a folder") and "segment" not in name}
"""Those that can be read all the same."""


LEFT_OUT = {
    "no columns",
    "thousands of columns",
    "wrong types",
    "a list",
    "a struct",
    "deep nesting",
    "hostile column names",
    "a hostile version",
    "a footer of 2 GiB",
    "a footer of 4 GiB",
    "a footer of nothing",
    "a linked segment",
    "a linked commit",
    "a pipe for a segment",
    "a folder for a segment",
    "an empty segment",
}
"""Those of which one file is no segment: it is told to be missing, and the rest is read."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recording_harms_nobody(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    path = HOSTILE[name](tmp_path / "r")
    before = files(tmp_path)
    statuses = ask(path)
    assert files(tmp_path) == before
    if name in WELL | LEFT_OUT:
        assert set(statuses) == {0}
    elif not name.startswith(("times", "deep", "text")):
        assert set(statuses) == {1}


def test_a_name_like_a_pattern_means_only_itself(tmp_path: Path) -> None:
    sealed(tmp_path / "in[1]*")
    small(tmp_path / "in1x").seal()
    query = "SELECT count(*) AS n FROM sockets"
    done = command("sql", tmp_path / "in[1]*", query, "--format", "csv")
    assert (done.status, done.out) == (0, b"n\n8\n")


def flipped(bytes_: bytes, chance: random.Random, start: int = 0) -> bytes:
    damaged = bytearray(bytes_)
    for _ in range(chance.choice((1, 1, 2, 8))):
        damaged[chance.randrange(start, len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def read_all(path: Path, *tables: str) -> str:
    """Read every column of tables; return what a known error or a loss says, or nothing."""
    try:
        with Engine(open_recording(path), threads=1, timeout=10) as engine:
            for table in tables:
                engine.table(f"SELECT * FROM raw.{table}")
            return "; ".join(map(str, engine.news()))
    except (SockrecError, OSError) as error:
        text = str(error)
        assert "\n" not in text
        return text


def damage(folder: Path, suffix: str, turns: int, chance: random.Random) -> list[str]:
    """Damage one file of a recording after the other, footers of segments half of the time."""
    whole = {path: path.read_bytes() for path in sorted(folder.glob(f"*/*{suffix}"))}
    assert len(whole) == len(TABLES)
    found = []
    for turn, path in zip(range(turns), itertools.cycle(whole), strict=False):
        bytes_ = whole[path]
        footer = len(bytes_) - 8 - int(struct.unpack("<I", bytes_[-8:-4])[0])
        start = footer if suffix == ".parquet" and turn % 2 else 0
        damaged = flipped(bytes_, chance, start)
        if turn % 7 == 0:
            damaged = bytes_[: chance.randrange(len(bytes_))]
        path.write_bytes(damaged)
        found.append(read_all(folder, path.parent.name))
        path.write_bytes(bytes_)
    return found


def test_flipped_bits_in_segments_are_known_errors_or_rows(tmp_path: Path) -> None:
    found = damage(sealed(tmp_path / "r"), ".parquet", 150, random.Random(41))
    assert sum(map(bool, found)) > 50


def test_flipped_bits_in_journals_leave_samples_out(tmp_path: Path) -> None:
    every_table(tmp_path / "r")
    found = damage(tmp_path / "r", ".arrows", 60, random.Random(42))
    # A cut is a sample in flight, and no error; a flipped bit is told.
    assert sum(map(bool, found)) > 40
    assert all("behind a damage" in text for text in found if text)


def test_commits_of_a_stranger_are_known_errors(tmp_path: Path) -> None:
    """Checksums tell nothing of who made them: damage below a right one reaches the decoder."""
    chance = random.Random(43)
    for turn in range(30):
        writer = Writer(tmp_path / f"r{turn}")
        journal = writer._journals["sockets"]
        append = journal.append

        def append_damaged(
            rows: Sequence[Row],
            metadata: Mapping[str, str] | None = None,
            append: Callable[..., None] = append,
            bytes_: io.BytesIO = journal.bytes,
        ) -> None:
            append(rows, metadata)
            damaged = flipped(bytes_.getvalue(), chance)
            bytes_.seek(0)
            bytes_.write(damaged)

        journal.append = append_damaged  # type: ignore[method-assign]
        writer.sample([hostile_row("sockets", 0), tcp(2)])
        read_all(tmp_path / f"r{turn}", "sockets")


NESTED: list[Any] = [[]]
for _ in range(300):
    NESTED = [NESTED]
VALUES: list[Any] = [
    None,
    True,
    -1,
    10**400,
    float("inf"),
    float("nan"),
    "x" * 100_000,
    ESCAPES,
    "\ud800",
    [],
    {},
    NESTED,
    [{"what": NESTED, "why": {}, "step": ESCAPES, "source": 1, "namespaces": 10**30}, None, 1],
    {ESCAPES: {ESCAPES: 10**30, "x": []}, "y": NESTED},
    "9999-99-99T99:99:99",
    "0001-01-01T00:00:00",
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(open_recording(sealed(tmp_path_factory.mktemp("facts") / "r"))) as engine:
        yield engine


@pytest.mark.parametrize("turn", range(len(VALUES)))
def test_a_recording_may_say_anything_of_itself(turn: int, described: Engine) -> None:
    """Every field of recording.json has every value in one of the turns."""
    names = [name for name in FACTS if name != "version"]
    names += ["reading", "missing_sysctls", "netns_selected", "nosuch"]
    values = {name: VALUES[(turn + n) % len(VALUES)] for n, name in enumerate(names)}
    text = json.dumps(FACTS | values)
    recording = dataclasses.replace(described.recordings[0], facts=json.loads(text))
    described.recordings[0] = recording
    told = describe(described)
    json.dumps(told.facts)
    for label, line in told.lines():
        assert line.isprintable(), label


def test_this_is_what_the_tables_hold() -> None:
    """The rows of hostile_row fit the tables, so that none of these tests tests nothing."""
    for table in TABLES:
        row = hostile_row(table, 0)
        names = {field.name for field in public_schema(TABLES[table]) if field.type == pa.string()}
        assert {name for name in names if ESCAPES in str(row.get(name))} >= names - {"outcome"}
    assert duckdb.__version__
