"""A bundle: whole, the same each time, opened by anyone, and without what was to be taken away."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import analyzer
import sockrec
from analyzer.reading.archive import seal_is_broken
from analyzer.sharing.pages import REDACTED
from analyzer.sharing.pseudonyms import read_map, unredact
from analyzer.sharing.redaction import Redaction
from analyzer.sharing.search import LeakError, Wanted, search
from analyzer.sharing.selection import select
from analyzer.sharing.words import Level
from analyzer.sql.verify import verify
from analyzer.sql.views import WHOLE
from recorder.format.writing import key_values, write_segment
from recorder.schema import SHARES, SOCKETS, TABLES, Column
from tests.analyzer.support.recordings import Writer, counter, tcp, time_of, unix

SECRETS = {
    "host": "payroll-host-17",
    "comm": "ledgerd",
    "user": "mrs.primrose",
    "cmdline": "ledgerd --password=hunter2secret --db 203.0.113.50",
    "exe": "/opt/acme/bin/ledgerd-real",
    "unit": "ledger-acme.service",
    "slice": "acme.slice",
    "container": "f00dfacef00dface",
    "pod": "pod-of-acme-77",
    "cgroup": "/acme.slice/ledger-acme.service",
    "dev": "acmetun",
    "netns": "acme-blue",
    "path": "/srv/acme/ledger.sock",
    "abstract": "@acme/abstract",
    "public": "203.0.113.9",
    "private": "192.168.77.5",
    "six": "2a00:1450:4001:81b::200e",
    "local": "fe80::1a2b:3c4d",
    "detail": "could not ask acme-dns-secret about it",
    "sctp": "198.51.100.77",
    "argument": "--token=tok3nvalue",
    "trouble": "the sealing process died of acmewidget",
}
"""One value for each place in which something of a host may stand."""

FRAGMENTS = (
    *SECRETS.values(),
    *"hunter2secret tok3nvalue acme ledger primrose 203.0.113 192.168.77 198.51.100 2a00:1450 "
    "1a2b:3c4d payroll 203.0.113.50 f00dface".split(),
)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(sockrec.app, list(map(str, words)), prog_name="sockrec")


def record(place: Path) -> Path:
    """Write a recording with a secret in each place."""
    s = SECRETS
    writer = Writer(
        place,
        host=s["host"],
        command=["/opt/acme/run", s["argument"]],
        netns_selected=["all", s["netns"]],
        unseen=[{"what": "owners", "why": "needs root or CAP_SYS_PTRACE"}],
        trouble=[{"time": "2026-11-22T15:04:05.000000Z", "what": s["trouble"]}],
    )
    owned = {"comm": s["comm"], "user": s["user"]}
    sockets = [
        tcp(1, "LISTEN", local_addr="0.0.0.0", **owned),
        tcp(2, local_addr=s["private"], peer_addr=s["public"], dev=s["dev"], **owned),
        tcp(3, local_addr=f"::ffff:{s['private']}", peer_addr=f"::ffff:{s['public']}", **owned),
        tcp(4, family="inet6", local_addr=s["six"], peer_addr=s["six"], cgroup=s["cgroup"]),
        tcp(5, family="inet6", local_addr=f"{s['local']}%{s['dev']}", peer_addr=s["local"]),
        tcp(
            6, "ESTAB", netid="sctp", details=json.dumps({"peers": [s["sctp"] + ":80"], "token": 7})
        ),
        unix(7, local_addr=s["path"], **owned),
        unix(8, local_addr=s["abstract"], peer_addr=s["path"]),
        unix(9, local_addr="/run/systemd/journal/socket", comm="nginx"),
    ]
    for number in range(3):
        steps = [
            {"step": "tcp", "outcome": "ok", "boottime_us": 0, "detail": None, "late_us": 1},
            {"step": "owners", "outcome": "partial", "boottime_us": 0, "detail": s["detail"]},
        ]
        process = owned | {
            "pid": 100,
            "start_us": 5_000_000,
            "cmdline": s["cmdline"],
            "exe": s["exe"],
            "cgroup": s["cgroup"],
            "unit": s["unit"],
            "slice": s["slice"],
            "container": s["container"],
            "pod": s["pod"],
            "valid_from": time_of(0),
        }
        first: dict[str, Any] = {}
        if not number:
            placed = {k: s[k] for k in ("unit", "slice", "container", "pod")}
            first = {
                "owners": [process],
                "namespaces": [
                    {"name": f"{s['netns']},cni-1", "comm": s["comm"], "valid_from": time_of(0)}
                ],
                "cgroups": [{"cgroup_id": 5, "path": s["cgroup"], **placed}],
                "settings": [{"name": "net.core.somaxconn", "value": "4096"}],
                "unexplained": [{"inode": 7, "protocol": "TCP", "comm": s["comm"]}],
            }
        writer.sample(
            sockets,
            steps=steps,
            closes=[
                {"cookie": 50 + number, "netid": "tcp", "local_addr": s["private"]}
                | {"peer_addr": s["public"], "comm": s["comm"], "dev": s["dev"]}
            ],
            counters=[counter("Tcp.ActiveOpens", number)],
            **first,
        )
    writer.seal()
    return place


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("secret") / "incident")


@pytest.fixture(scope="module")
def bundle(recording: Path) -> Path:
    place = recording.parent / "incident.zip"
    done = run("bundle", recording, "-o", place)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "dropped    1 of cmdline" in done.output
    assert "replaced" in done.output
    return place


def unzipped(bundle: Path, to: Path) -> Path:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(to)
    return to / "sockrec-bundle"


def everything(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield all that is in files, as bytes and as values, and their names."""
    for path in folder.rglob("*"):
        yield str(path), str(path.relative_to(folder))
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            with duckdb.connect() as connection:
                rows = connection.execute(f"SELECT * FROM '{path}'").fetchall()
            yield str(path), repr(rows)


def test_nothing_of_the_host_is_left_in_any_form(bundle: Path, tmp_path: Path) -> None:
    folder = unzipped(bundle, tmp_path)
    for place, text in everything(folder):
        for secret in FRAGMENTS:
            assert secret not in text, place
    assert not re.search("acme|ledger|payroll", bundle.read_bytes().decode("latin-1"))


def test_what_reports_need_is_kept(bundle: Path, recording: Path) -> None:
    with analyzer.open(bundle) as shared, analyzer.open(recording) as own:
        columns = "local_addr, peer_addr, comm, details"
        query = f"SELECT {columns} FROM sockets WHERE sample = 1 ORDER BY cookie"
        rows = shared.sql(query).table().to_pylist()
        names = json.loads(bundle.with_name("incident.zip.map.json").read_text())["names"]
        private, public = (names["address"][SECRETS[kind]] for kind in ("private", "public"))
        assert private.startswith("10.")
        assert public.startswith(("198.18.", "198.19."))
        assert (rows[0]["local_addr"], rows[0]["comm"]) == ("0.0.0.0", names["app"]["ledgerd"])
        assert (rows[1]["local_addr"], rows[1]["peer_addr"]) == (private, public)
        assert rows[2]["local_addr"] == f"::ffff:{private}"
        assert rows[3]["local_addr"] == rows[3]["peer_addr"]
        assert rows[3]["local_addr"].startswith("2001:db8::")
        assert rows[4]["local_addr"] == f"{rows[4]['peer_addr']}%{names['dev']['acmetun']}"
        assert rows[4]["peer_addr"].startswith("fe80::")
        assert json.loads(rows[5]["details"]) == {
            "peers": [f"{names['address'][SECRETS['sctp']]}:80"]
        }
        assert rows[7]["peer_addr"] == rows[6]["local_addr"] == names["unix-path"][SECRETS["path"]]
        assert (rows[8]["local_addr"], rows[8]["comm"]) == ("/run/systemd/journal/socket", "nginx")
        numbers = [
            column.name
            for column in SOCKETS.columns
            if column.share == "keep" and column.kind not in ("text", "word")
        ]
        query = f"SELECT {', '.join(numbers)} FROM sockets ORDER BY sample, cookie"
        assert shared.sql(query).table() == own.sql(query).table()
        assert verify(shared.engine).whole
    assert stat.S_IMODE(bundle.with_name("incident.zip.map.json").stat().st_mode) == 0o600


def test_reports_are_those_of_the_recording_up_to_the_map(bundle: Path, recording: Path) -> None:
    pseudonyms = read_map(bundle.with_name("incident.zip.map.json"))
    with analyzer.open(bundle) as shared, analyzer.open(recording) as own:
        for name in ("process_sockets", "churn"):
            answer = shared.report(name).table()
            assert unredact(repr(answer.to_pylist()), pseudonyms) == repr(
                own.report(name).table().to_pylist()
            )


def test_the_same_recording_gives_the_same_bytes_and_an_old_map_the_same_names(
    bundle: Path, recording: Path, tmp_path: Path
) -> None:
    again = tmp_path / "incident.zip"
    assert run("bundle", recording, "-o", again).exit_code == 0
    assert again.read_bytes() == bundle.read_bytes()
    known = tmp_path / "incident.zip.map.json"
    before = json.loads(known.read_text())
    part = tmp_path / "part.zip"
    done = run("bundle", recording, "-o", part, "--map", known, "--where", "cookie = 2")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(known.read_text()) == before
    with analyzer.open(part) as shared:
        peers = shared.sql("SELECT DISTINCT peer_addr FROM sockets").table().to_pylist()
    assert peers == [{"peer_addr": before["names"]["address"][SECRETS["public"]]}]


def test_the_page_says_how_it_is_opened_and_that_is_so(bundle: Path, tmp_path: Path) -> None:
    folder = unzipped(bundle, tmp_path)
    page = (folder / "README.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    asked = f"import duckdb; print(duckdb.sql('''{query.replace(';', '')}''').fetchall())"
    for code in (asked, lines):
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "ESTAB" in done.stdout
    listed = json.loads((folder / "MANIFEST.json").read_text())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert listed["sha256"].keys() == files - {"MANIFEST.json"}
    assert listed["columns"]["dropped"]["owners.cmdline"] == 1


def test_the_seal_breaks_with_any_bit(bundle: Path, tmp_path: Path) -> None:
    """One of each of the last bytes, where the zip says what it is, and of one in 97 before."""
    other = tmp_path / "changed.zip"
    shutil.copy(bundle, other)
    data = bundle.read_bytes()
    with other.open("r+b", buffering=0) as file:
        for place in [*range(0, len(data) - 400, 97), *range(len(data) - 400, len(data))]:
            os.pwrite(file.fileno(), bytes([data[place] ^ 1 << place % 8]), place)
            assert seal_is_broken(other), place
            os.pwrite(file.fileno(), data[place : place + 1], place)
    assert seal_is_broken(other) is False


def test_any_bit_that_changes_is_reported(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    for place in [10, 60, len(data) // 2, len(data) - 3, len(data) - 70, len(data) - 100]:
        changed = bytearray(data)
        changed[place] ^= 4
        other = tmp_path / "changed.zip"
        other.write_bytes(changed)
        done = run("verify", other)
        assert done.exit_code == 1, place


def test_all_takes_well_known_names_too_and_times_are_moved_together(
    recording: Path, tmp_path: Path
) -> None:
    place = tmp_path / "all.zip"
    done = run("bundle", recording, "-o", place, "--redact", "all", "--shift-time")
    assert done.exit_code == 0, (done.output, done.exception)
    moved = json.loads((tmp_path / "all.zip.map.json").read_text())["shift_us"]
    assert moved < 0
    query = "SELECT min(t_us) AS t, max(t_us) - min(t_us) AS wide FROM sockets"
    with analyzer.open(place) as shared, analyzer.open(recording) as own:
        ((one,), (other,)) = (x.sql(query).table().to_pylist() for x in (shared, own))
        named = shared.sql("SELECT count(*) AS n FROM sockets WHERE comm = 'nginx'")
        assert named.table().to_pylist() == [{"n": 0}]
    assert (one["t"] - other["t"], one["wide"]) == (moved, other["wide"])


def test_list_writes_nothing_and_what_is_there_is_refused(recording: Path, tmp_path: Path) -> None:
    done = run("bundle", recording, "-o", tmp_path / "x.zip", "--list")
    assert done.exit_code == 0, done.output
    assert "replaced" in done.output
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.zip.map.json").write_text("{}")
    assert run("bundle", recording, "-o", tmp_path / "x.zip").exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip.map.json"]


def test_what_is_too_large_is_narrowed_and_told(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "long")
    counters = ("bytes_acked", "bytes_received", "segs_in", "bytes_sent")
    for number in range(30):
        noise = [
            tcp(n) | {name: hash((n, number, len(name))) % 10**9 for name in counters}
            for n in range(1, 250)
        ]
        writer.sample(noise, number=number)
    words = ("--max-size", "140KB", "--redact", "none")
    done = run("bundle", tmp_path / "long", "-o", tmp_path / "a.zip", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "left out   the earlier part" in done.output
    told = re.search(r"with ([\d,]+) of 7,470 rows of sockets", done.output)
    assert told
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        listed = json.loads(archive.read("sockrec-bundle/MANIFEST.json"))
    left = int(told[1].replace(",", ""))
    assert listed["left_out_for_size"]["rows"] == {"sockets": left}
    assert listed["rows"]["sockets"] == 7470 - left
    assert (tmp_path / "a.zip").stat().st_size <= 140_000
    with analyzer.open(tmp_path / "a.zip") as opened:
        span = opened.sql("SELECT min(sample) AS first, max(sample) AS last FROM sockets")
        (row,) = span.table().to_pylist()
        assert 0 < row["first"] < row["last"] == 29
        assert opened.sql("SELECT DISTINCT comm FROM sockets").table().to_pylist() == [
            {"comm": "nginx"}
        ]
    assert not (tmp_path / "a.zip.map.json").exists()
    with analyzer.open(tmp_path / "a.zip") as opened:
        assert verify(opened.engine).whole


def test_one_page_has_all_and_no_name_in_it_is_markup(tmp_path: Path) -> None:
    evil = "<script src=//a.b>'&\"\x1b]"
    writer = Writer(tmp_path / "r")
    for _ in range(3):
        writer.sample([tcp(n, comm=evil, pid=9, start_us=1) for n in range(1, 4)])
    writer.seal()
    done = run("bundle", tmp_path / "r", "-o", tmp_path / "r.zip", "--redact", "none")
    assert done.exit_code == 0, (done.output, done.exception)
    folder = unzipped(tmp_path / "r.zip", tmp_path / "x")
    page = (folder / "report.html").read_text()
    assert "&lt;script src=//a.b&gt;&#x27;&amp;&quot;\\x1b]" in page
    assert not re.search(r"<script|<img|<link|<iframe|@import|url\(|\x1b", page)
    assert "default-src 'none'" in page
    titles = [path.read_text().splitlines()[0] for path in (folder / "reports").glob("*.md")]
    assert len(titles) == 6
    for title in titles:
        assert f"<h2>{html.escape(title.removeprefix('# '))}</h2>" in page
    assert REDACTED not in page
    with analyzer.open(tmp_path / "r") as opened:
        rows = opened.report("process_sockets", top=20).table().num_rows
    assert page.count("&lt;script") >= rows > 0


def test_the_page_of_a_redacted_bundle_says_so(bundle: Path, tmp_path: Path) -> None:
    page = (unzipped(bundle, tmp_path) / "report.html").read_text()
    assert html.escape(REDACTED) in page


# The last look.

PLANTED = {"shop-secret", "203.0.113.9", "2a00:1450::200e"}


def segment(to: Path, value: str, *, facts: str = "{}", used: bool = True) -> bytes:
    """Return a segment with a text in a cell, or only in its dictionary."""
    words = pa.array(["plain", value], pa.string())
    indices = pa.array([0, 1 if used else 0], pa.int32())
    if not used:
        table = pa.table({"comm": pa.DictionaryArray.from_arrays(indices, words)})
        pq.write_table(table, to, use_dictionary=True)
        return to.read_bytes()

    class Rows:
        def read(self, columns: Any) -> Iterator[pa.RecordBatch]:
            names = [SOCKETS.names[place] for place in columns]
            text = pa.DictionaryArray.from_arrays(indices, words)
            arrays = [text if n == "comm" else pa.array([None, None], pa.int64()) for n in names]
            yield pa.RecordBatch.from_arrays(arrays, names=names)

    with to.open("w+b") as file:
        write_segment(SOCKETS, [(Rows(), np.arange(2))], file, to, key_values(facts))
    return to.read_bytes()


def planted(kind: str, value: str, place: Path, tmp: Path) -> None:
    """Write a zip with a value in one place."""
    with zipfile.ZipFile(place, "w") as archive:
        text = {"text": value, "json": json.dumps({"why": f"it is {value}"})}.get(kind, "nothing")
        archive.writestr("b/summary.md", f"# Summary\n\n* critical: {text} (report x)\n")
        if kind == "name":
            archive.writestr(f"b/{value}.txt", "")
        if kind == "comment":
            archive.comment = value.encode()
        if kind == "member comment":
            info = zipfile.ZipInfo("b/x.md")
            info.comment = value.encode()
            archive.writestr(info, "")
        facts = json.dumps({"host": value}) if kind == "metadata" else "{}"
        cell = value if kind in ("cell", "within") else "plain"
        if kind == "within":
            cell = f'{{"peers":["{value}"]}}'
        data = segment(tmp / "s.parquet", cell, facts=facts)
        if kind == "dictionary":
            data = segment(tmp / "s.parquet", value, used=False)
        archive.writestr("b/sockets/000001.parquet", data)


@pytest.mark.parametrize("value", sorted(PLANTED))
@pytest.mark.parametrize(
    "kind",
    [*"text json name comment cell within metadata dictionary nothing".split(), "member comment"],
)
def test_the_last_look_finds_a_value_wherever_it_hides(
    kind: str, value: str, tmp_path: Path
) -> None:
    place = tmp_path / "b.zip"
    planted(kind, value, place, tmp_path)
    wanted = Wanted(set(PLANTED), set())
    if kind == "nothing":
        search(place, wanted, "b.zip")
        return
    with pytest.raises(LeakError, match=r"still in") as raised:
        search(place, wanted, "b.zip")
    assert value not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("report.html", "<td>pay&amp;roll &lt;7&gt;</td>"),
        ("summary.md", "<code>pay&#38;roll &#60;7&#62;</code>"),
        ("summary.md", "`pay&roll <7>`"),
        ("MANIFEST.json", '{"why": "pay\\u0026roll <7>"}'),
        ("segments.jsonl", '{"why": "pay\\u0026roll <7>"}'),
    ],
)
def test_the_last_look_reads_a_text_as_who_opens_it(name: str, form: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(f"b/{name}", form)
    search(tmp_path / "b.zip", Wanted({"pay&roll <8>"}, set()), "b.zip")
    with pytest.raises(LeakError, match=name):
        search(tmp_path / "b.zip", Wanted({"pay&roll <7>"}, set()), "b.zip")


def test_the_last_look_knows_what_is_shown_as_an_escape(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("b/report.html", "<td>led\\x1bger</td>")
    with pytest.raises(LeakError):
        search(tmp_path / "b.zip", Wanted({"led\x1bger"}, set()), "b.zip")


@pytest.mark.parametrize(
    "form", ["3405803785", "0xcb007109", "CB007109", "097100CB", "2a00145000000000000000000000200e"]
)
def test_the_last_look_knows_addresses_as_numbers(form: str) -> None:
    wanted = Wanted(set(PLANTED), set())
    assert wanted.in_text(f'{{"addr":"{form}"}}')
    assert not wanted.in_text('{"addr":"12345678"}')


@pytest.mark.parametrize(("number", "leaks"), [(0xCB007109, True), (0x097100CB, True), (7, False)])
def test_an_address_in_a_number_that_a_program_chose_is_found(
    number: int, leaks: bool, tmp_path: Path
) -> None:
    table = pa.table({"mark": pa.array([None, number], pa.int64()), "bytes_sent": [0xCB007109, 1]})
    pq.write_table(table, tmp_path / "s.parquet")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "s.parquet", "b/sockets/000001.parquet")
    wanted = Wanted({"203.0.113.9"}, set())
    if not leaks:
        search(tmp_path / "b.zip", wanted, "b.zip")
        return
    with pytest.raises(LeakError, match="column mark"):
        search(tmp_path / "b.zip", wanted, "b.zip")


def test_words_of_command_lines_are_looked_for_and_our_own_are_not() -> None:
    wanted = Wanted(set(), {"--password=hunter2secret", "hunter2secret", "sockets", "80", "the"})
    assert wanted.in_text("it said hunter2secret.") == "hunter2secret"
    assert wanted.in_text("80 sockets of the host") is None


def test_a_bundle_that_leaks_is_deleted_and_the_place_is_named(
    recording: Path, tmp_path: Path
) -> None:
    shutil.copytree(recording, tmp_path / "leaky")
    facts = tmp_path / "leaky/recording.json"
    told = json.loads(facts.read_text())
    # What a table of settings holds is kept, and this one holds the name of the host.
    told["sysctl"] = {"net.ipv4.tcp_congestion_control": SECRETS["host"]}
    facts.write_text(json.dumps(told))
    done = run("bundle", tmp_path / "leaky", "-o", tmp_path / "leaky.zip")
    assert done.exit_code == 1
    assert "still in sockrec-bundle/" in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaky"]


# What is shared.


def test_every_column_says_how_it_is_shared() -> None:
    for table in TABLES.values():
        for column in table.columns:
            assert column.share in SHARES, f"{table.name}.{column.name}"
    make: Callable[..., object] = Column
    with pytest.raises(TypeError):
        make(name="new", kind="text", doc="New.")


def test_of_an_import_and_a_filter_the_bundle_says_only_that_there_was_one(tmp_path: Path) -> None:
    writer = Writer(
        tmp_path / "r",
        imported={"from": "log", "files": ["ss-of-acme.log"]},
        filter="dst 203.0.113.9",
        exit="imported",
    )
    writer.sample([tcp(1)])
    with analyzer.open(tmp_path / "r") as opened:
        facts = opened.engine.recordings[0].facts
        redaction = Redaction(select(opened.engine, WHOLE), facts, Level.default)
        shared = redaction.facts(facts)
    assert (shared["imported"], shared["filter"]) == ({"from": "log"}, "…")
    assert shared["exit"] == "imported"
    assert {"ss-of-acme.log", "203.0.113.9"} <= redaction.words


def test_every_shared_column_is_known_how(recording: Path) -> None:
    with analyzer.open(recording) as opened:
        selection = select(opened.engine, WHOLE)
        redaction = Redaction(selection, opened.engine.recordings[0].facts, Level.default)
        for table in TABLES.values():
            for column in table.columns:
                if column.share in ("name", "path", "address"):
                    assert list(redaction._parts(column, "/x")), f"{table.name}.{column.name}"
