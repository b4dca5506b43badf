"""The scope: what --from and --to leave, what stays as baseline, and the views made of others."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analyzer
from recorder.format.times import TimeError
from recorder.schema import TABLES, Table, public_schema
from tests.analyzer.support.recordings import (
    FACTS,
    NETNS,
    Row,
    Writer,
    counter,
    every_table,
    micros,
    small,
    step,
    tcp,
    time_of,
    write_segment,
)


def test_the_scope_is_half_open(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        for start, end, samples in [
            (None, None, [0, 1, 2, 3]),
            ("+1s", None, [1, 2, 3]),
            (None, "+1s", [0]),
            ("+1s", "+3s", [1, 2]),
            ("-1s", None, [2, 3]),
            ("+1100ms", "+1900ms", []),
        ]:
            for table in ("sockets", "samples"):
                found = opened.sql(
                    f"SELECT DISTINCT sample FROM {table} ORDER BY sample", start=start, end=end
                )
                assert [row["sample"] for row in found.table().to_pylist()] == samples


@pytest.mark.parametrize("table", ["closes", "counters", "unexplained"])
def test_what_happens_once_is_in_the_half_open_scope(table: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for sample in range(4):
        rows: dict[str, Any] = {table: [{}]}
        writer.sample([tcp(1)], **rows)
        if sample == 1:
            writer.seal()
    with analyzer.open(tmp_path / "r") as opened:
        query = f"SELECT sample, t_us FROM {table} ORDER BY sample"
        found = opened.sql(query, start="+1s", end="+3s").table().to_pylist()
    assert found == [{"sample": n, "t_us": micros(time_of(n))} for n in (1, 2)]


@pytest.mark.parametrize("table", ["owners", "settings", "namespaces", "cgroups"])
def test_what_was_so_before_the_scope_is_in_it(table: str, tmp_path: Path) -> None:
    every_table(tmp_path / "r")  # rows in samples 0 and 2
    with analyzer.open(tmp_path / "r") as opened:
        for start, end, samples in [
            ("+3s", None, [0, 2]),
            ("+1s", "+2s", [0]),
            (None, "+3s", [0, 2]),
            ("+3s", None, [0, 2]),
        ]:
            found = opened.sql(f"SELECT sample FROM {table} ORDER BY sample", start=start, end=end)
            assert [row["sample"] for row in found.table().to_pylist()] == samples


def test_the_baseline_is_the_last_row_before_of_each_socket_in_scope(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1, recv_q=10), tcp(2, recv_q=20), tcp(3, recv_q=30)])
    writer.sample([tcp(1, recv_q=11), tcp(2, recv_q=21)])
    writer.seal()
    writer.sample([tcp(1, recv_q=12), tcp(3, recv_q=32)])
    writer.sample([tcp(1, recv_q=13), tcp(4, recv_q=43)])
    with analyzer.open(tmp_path / "r") as opened:
        before = opened.sql(
            "SELECT cookie, sample, recv_q, t_us FROM baseline ORDER BY cookie", start="+2s"
        )
        assert before.table().to_pylist() == [
            {"cookie": 1, "sample": 1, "recv_q": 11, "t_us": micros(time_of(1))},
            {"cookie": 3, "sample": 0, "recv_q": 30, "t_us": micros(time_of(0))},
        ]
        assert opened.sql("SELECT * FROM baseline").table().num_rows == 0
        assert opened.sql("SELECT * FROM baseline", end="+2s").table().num_rows == 0
        grown = opened.sql(
            "SELECT cookie, CAST(sum(grown) AS BIGINT) AS grown FROM ("
            "  SELECT cookie, recv_q - lag(recv_q) OVER (PARTITION BY cookie ORDER BY sample) AS"
            "    grown FROM (SELECT * FROM sockets UNION ALL SELECT * FROM baseline)"
            ") GROUP BY cookie ORDER BY cookie",
            start="+2s",
        )
        assert grown.table().to_pylist() == [
            {"cookie": 1, "grown": 2},
            {"cookie": 3, "grown": 2},
            {"cookie": 4, "grown": None},
        ]


def with_key(table: Table) -> pa.Schema:
    """Return the columns of a table as recorded, and those that tell recordings apart."""
    schema = public_schema(table)
    for name in ("host", "boot", "run"):
        schema = schema.append(pa.field(name, pa.string()))
    return schema.append(pa.field("ns", pa.int64())) if "netns" in table.names else schema


def with_made(table: Table) -> pa.Schema:
    """Return the columns that a query sees."""
    schema = with_key(table).append(pa.field("t_us", pa.int64()))
    for name in ("local", "peer", "who") if table.name in ("sockets", "closes") else ():
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def test_the_views_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        for table in TABLES.values():
            found = opened.sql(f"SELECT * FROM {table.name}").table().schema
            assert found.equals(with_made(table))
            assert (
                opened.sql(f"SELECT * FROM raw.{table.name}").table().schema.equals(with_key(table))
            )
        values = opened.sql("SELECT * FROM counter_values").table().schema
        assert [f"{field.name} {field.type}" for field in values] == [
            "host string",
            "boot string",
            "ns int64",
            "sample int64",
            "sample_time timestamp[us]",
            "netns int64",
            "phase string",
            "source string",
            "name string",
            "value int64",
            "t_us int64",
        ]


def test_every_row_says_of_which_host_and_boot_it_is(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        query = "SELECT DISTINCT host, boot, ns, netns FROM {} ORDER BY ALL"
        for name in ("sockets", "raw.sockets", "samples", "connections", "listeners", "deltas"):
            (row,) = opened.sql(query.format(name)).table().to_pylist()
            assert tuple(row.values()) == ("web1", FACTS["boot_id"], NETNS, NETNS), name


def test_a_socket_has_its_ends_and_its_process_as_people_write_them(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    six: Row = {
        "local_addr": "::1",
        "local_port": 80,
        "peer_addr": "::ffff:10.0.0.1",
        "peer_port": 5,
    }
    nobody: Row = {"netid": "u_str", "family": "unix", "local_addr": "/run/a:b", "comm": None}
    nobody |= dict.fromkeys(("local_port", "peer_addr", "peer_port", "pid"))
    writer.sample([tcp(1, **six), tcp(2, pid=None), tcp(3, **nobody)], closes=[tcp(9, **six)])
    with analyzer.open(tmp_path / "r") as opened:
        query = "SELECT local, peer, who FROM {} ORDER BY cookie"
        one = {"local": "[::1]:80", "peer": "[::ffff:10.0.0.1]:5", "who": "nginx (pid 100)"}
        found = opened.sql(query.format("sockets")).table().to_pylist()
        assert found[0] == one
        assert found[1]["who"] == "nginx"
        assert found[2] == {"local": "/run/a:b", "peer": None, "who": None}
        assert opened.sql(query.format("closes")).table().to_pylist() == [one]
        chosen = opened.sql("SELECT cookie FROM sockets", where="local = '[::1]:80'").table()
        assert chosen.to_pylist() == [{"cookie": 1}]
        called = opened.sql(
            "SELECT cookie FROM sockets", where="unmapped(peer_addr) = '10.0.0.1'"
        ).table()
        assert called.to_pylist() == [{"cookie": 1}]


def test_where_takes_what_describes_process_cgroup_and_namespace(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    worker: Row = {"pid": 100, "start_us": 5_000_000, "user": "www"}
    shell = worker | {"cmdline": "sh -c nginx", "unit": "nginx.service"}
    nginx = worker | {"cmdline": "nginx -g", "unit": "nginx.service", "slice": "web.slice"}
    nobody: Row = dict.fromkeys(("pid", "start_us", "comm"))
    box: Row = {"cgroup_id": 7, "path": "/pods/a", "container": "c0ffee", "pod": "p1"}
    writer.sample(
        [tcp(1), tcp(3, cgroup_id=7, **nobody)],
        owners=[shell | {"valid_from": time_of(0)}],
        cgroups=[box],
        namespaces=[{"name": "blue", "valid_from": time_of(0)}],
    )
    # The same process has become another program.
    ends = shell | {"valid_from": time_of(0), "valid_to": time_of(1)}
    starts = nginx | {"valid_from": time_of(1)}
    closed = tcp(9) | {"sampled": False}
    writer.sample([tcp(2)], owners=[ends, starts], closes=[closed])
    chosen = {
        "cmdline LIKE 'sh -c%'": ({1}, set()),
        "cmdline LIKE 'nginx%'": ({2}, {9}),
        "unit = 'nginx.service'": ({1, 2}, {9}),
        "slice = 'web.slice' AND comm = 'nginx'": ({2}, {9}),
        "container = 'c0ffee'": ({3}, set()),
        "pod = 'p1' AND local_port = 80": ({3}, set()),
        "netns_name = 'blue'": ({1, 2, 3}, {9}),
        "netns_name = 'red'": (set(), set()),
        "netns_name = 'blue' AND who = 'nginx (pid 100)'": ({1, 2}, {9}),
    }
    # The language of ss has words for some of it.
    filters = {
        "unit nginx.service": ({1, 2}, {9}),
        "not unit nginx.service": ({3}, set()),
        "container c0f and sport = :80": ({3}, set()),
        "netns blue": ({1, 2, 3}, {9}),
        f"netns {NETNS}": ({1, 2, 3}, {9}),
        "netns red or unit x": (set(), set()),
    }
    asked: list[tuple[dict[str, Any], tuple[set[int], set[int]]]]
    asked = [({"where": condition}, found) for condition, found in chosen.items()]
    asked += [({"filter": text}, found) for text, found in filters.items()]
    with analyzer.open(tmp_path / "r") as opened:
        for scope, (sockets, closes) in asked:
            for table, cookies in (("sockets", sockets), ("closes", closes)):
                query = f"SELECT cookie FROM {table}"
                kept = opened.sql(query, **scope).table()["cookie"].to_pylist()
                assert sorted(kept) == sorted(cookies), (table, scope)


def test_the_scope_stands_in_params(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        query = "SELECT from_us, to_us FROM params"
        assert opened.sql(query).table().to_pylist() == [{"from_us": None, "to_us": None}]
        assert opened.sql(query, start="+1s", end="-1s").table().to_pylist() == [
            {"from_us": micros(time_of(1)), "to_us": micros(time_of(2))}
        ]


def test_columns_and_tables_that_a_file_lacks_are_null_and_empty(tmp_path: Path) -> None:
    """As a file of an earlier version would be, beside one that has them."""
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    row = tcp(1, rcv_wnd=7) | {"sample": 0, "sample_time": time_of(0), "netns": 1}
    write_segment(paths[1], "sockets", [row | {"sample": 1}], FACTS)
    write_segment(paths[0], "sockets", [row], FACTS)
    old = pa.parquet.read_table(paths[0]).drop_columns(["rcv_wnd", "comm"])
    pa.parquet.write_table(old, paths[0])
    with analyzer.open(*paths) as opened:
        found = opened.sql("SELECT sample, comm, rcv_wnd FROM sockets ORDER BY sample").table()
        assert found.to_pylist() == [
            {"sample": 0, "comm": None, "rcv_wnd": None},
            {"sample": 1, "comm": "nginx", "rcv_wnd": 7},
        ]
        assert opened.sql("SELECT * FROM owners").table().num_rows == 0


def test_a_recording_of_version_1_has_every_table_and_column(tmp_path: Path) -> None:
    writer = small(tmp_path / "r", version=1)
    writer.seal()
    writer.sample([tcp(1)])
    with analyzer.open(tmp_path / "r") as opened:
        for table in TABLES.values():
            found = opened.sql(f"SELECT * FROM {table.name}").table()
            assert found.schema.equals(with_made(table))
            assert found.num_rows == {"sockets": 16, "samples": 25, "owners": 1}.get(table.name, 0)
        query = "SELECT DISTINCT owner_by, user, subflow, details, comm FROM sockets ORDER BY comm"
        assert [tuple(row.values()) for row in opened.sql(query).table().to_pylist()] == [
            (None, None, None, None, "nginx"),
            (None, None, None, None, None),
        ]
        assert opened.sql("SELECT * FROM counter_values").table().num_rows == 0


STEP = {"before": "counters", "after": "counters_after"}
PLACES = [(netns, phase) for netns in (0, NETNS) for phase in STEP]
VALUES = st.dictionaries(st.sampled_from("abc"), st.integers(-1, 2), max_size=3)
HISTORIES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(PLACES), VALUES),  # of this sample: what was read, whole
        st.booleans(),  # a new number begins, and with it everything is written again
    ),
    min_size=1,
    max_size=7,
)
BOUNDS = st.tuples(st.none() | st.integers(0, 4), st.none() | st.integers(2, 7))


def write_changes(
    path: Path, history: list[tuple[dict[tuple[int, str], dict[str, int]], bool]]
) -> list[tuple[int, int, str, str, int]]:
    """Write a history as changes; return every value that was read, in order."""
    writer = Writer(path)
    known: dict[int, dict[str, int]] = {0: {}, NETNS: {}}
    repeat: set[int] = set()
    whole = []
    for sample, (readings, seals) in enumerate(history):
        changes: list[Row] = []
        steps = [step("tcp")]
        for netns, phase in PLACES:
            if (netns, phase) not in readings:
                continue
            read, before = readings[netns, phase], known[netns]
            for name in sorted(read.keys() | before.keys()):
                if netns in repeat or read.get(name) != before.get(name):
                    changes.append(counter(name, read.get(name), netns=netns, phase=phase))
            known[netns] = read
            repeat.discard(netns)
            steps.append(step(STEP[phase], netns=netns))
            whole += [(sample, netns, phase, name, value) for name, value in read.items()]
        writer.sample([], steps=steps, counters=changes)
        if seals:
            writer.seal()
            repeat = {0, NETNS}
    return sorted(whole)


@settings(max_examples=20)
@given(history=HISTORIES, bounds=BOUNDS)
def test_counter_values_are_those_that_were_read(
    history: list[tuple[dict[tuple[int, str], dict[str, int]], bool]],
    bounds: tuple[int | None, int | None],
) -> None:
    """Changes in segments and journals, any scope: as if every reading had been stored whole."""
    with tempfile.TemporaryDirectory() as folder:
        whole = write_changes(Path(folder) / "r", history)
        query = (
            "SELECT sample, netns, phase, name, value, source, sample_time, t_us "
            "FROM counter_values"
        )
        first, last = bounds
        scope: dict[str, Any] = {
            "start": None if first is None else f"+{first}s",
            "end": None if last is None else f"+{last}s",
        }
        within = [row for row in whole if (first or 0) <= row[0] < (7 if last is None else last)]

        def found(opened: analyzer.Analysis, query: str) -> list[tuple[Any, ...]]:
            rows = opened.sql(query, **scope).table().to_pylist()
            for row in rows:
                assert row["source"] == "snmp"
                assert row["t_us"] == micros(time_of(row["sample"])) == micros(row["sample_time"])
            return sorted(tuple(row.values())[:5] for row in rows)

        with analyzer.open(Path(folder) / "r") as opened:
            try:
                opened.scope(scope["start"], scope["end"])
            except TimeError:  # no sample lies there
                assert within == []
                return
            assert found(opened, query) == within
            assert found(opened, f"{query} WHERE name = 'a' AND netns = 0") == [
                row for row in within if row[1] == 0 and row[3] == "a"
            ]


def test_a_reading_that_failed_has_no_values(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for outcome in ("ok", "error", "partial"):
        writer.sample(
            [],
            steps=[step("counters", outcome=outcome)],
            counters=[counter("a", 1)] if outcome == "ok" else (),
        )
    with analyzer.open(tmp_path / "r") as opened:
        found = opened.sql("SELECT sample FROM counter_values ORDER BY sample").table()
    assert found.to_pylist() == [{"sample": 0}, {"sample": 2}]


def test_an_answer_is_a_frame_of_types_that_do_not_depend_on_the_data(tmp_path: Path) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened:
        some = opened.sql("SELECT pid, comm, sample_time FROM sockets").df()
        none = opened.sql("SELECT pid, comm, sample_time FROM sockets WHERE false").df()
    assert list(some.dtypes) == list(none.dtypes)
    assert [str(kind) for kind in some.dtypes] == [
        "int32[pyarrow]",
        "string[pyarrow]",
        "timestamp[us][pyarrow]",
    ]
