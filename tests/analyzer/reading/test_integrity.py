"""Damage and loss are told, never read: by what a query names, by the list, and by verify."""

import contextlib
import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import analyzer
import sockrec
from analyzer.reading.integrity import span
from analyzer.reading.recording import open_recording
from analyzer.reading.segment import Segment
from analyzer.sql.engine import Engine
from analyzer.sql.info import describe
from analyzer.sql.verify import verify
from analyzer.sql.views import Scope
from recorder.format.checksums import chunks, read_footer
from recorder.schema import SockrecError
from recorder.store.recover import recover
from tests.analyzer.support.recordings import Writer, every_table, tcp

QUERY = "SELECT count(*) AS n, sum(recv_q) AS q FROM sockets"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of three numbers, sealed by the recorder itself, with its list."""
    path = tmp_path_factory.mktemp("made") / "r"
    writer = every_table(path)
    for number in range(3):
        if number:
            for sample in range(4):
                cookies = [tcp(c, recv_q=c * 31 % 7, bytes_acked=c * 7919) for c in range(1, 40)]
                writer.sample(cookies, closes=[{"cookie": sample, "netid": "tcp"}])
        writer.number += 1
        writer._open()
    recover(path)
    writer.write_facts(ended="2026-11-22T16:00:00.000000Z", exit="signal")
    return path


@pytest.fixture
def recording(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "r"))


def rows(path: Path, query: str = QUERY) -> tuple[list[dict[str, object]], list[str]]:
    """Return what a query gives, and what was told to be missing."""
    with Engine(open_recording(path)) as engine:
        found = engine.table(query).to_pylist()
        return found, [str(missing) for missing in engine.news()]


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def chunk_of(path: Path, column: str) -> tuple[int, int]:
    file = os.open(path, os.O_RDONLY)
    try:
        return next(
            (chunk.start, chunk.end) for _, chunk in chunks(read_footer(path, file)[0], [column])
        )
    finally:
        os.close(file)


def test_a_whole_recording_is_told_to_be_whole(recording: Path) -> None:
    assert rows(recording)[1] == []
    with Engine(open_recording(recording)) as engine:
        found = verify(engine)
        assert found.whole
        assert found.unchecked == ()
        assert found.files == len(list(recording.glob("*/*.parquet")))
        assert describe(engine).facts["missing"] == []


def test_a_damaged_column_is_left_out_with_its_samples_and_told(recording: Path) -> None:
    whole, _ = rows(recording)
    path = recording / "sockets/000002.parquet"
    flip(path, chunk_of(path, "recv_q")[1] - 3)
    found, told = rows(recording)
    assert found[0]["n"] == int(str(whole[0]["n"])) - 4 * 39
    assert len(told) == 2
    assert told[0].startswith("sockets/000002.parquet (156 rows, 2026-11-22 15:04:09 to ")
    assert "column recv_q is damaged" in told[0]
    assert told[1].startswith("samples/000002.parquet (")
    samples, _ = rows(
        recording,
        "SELECT count(DISTINCT s.sample) AS n FROM samples AS s, "
        "(SELECT max(recv_q) AS q FROM sockets)",
    )
    assert samples == [{"n": 8}]
    # A column that is not asked for is not read, and its damage no matter.
    assert rows(recording, "SELECT count(DISTINCT cookie) AS n FROM sockets")[1] == []
    assert len(rows(recording, "SELECT * FROM sockets")[1]) == 2
    assert len(rows(recording, "SELECT max(s) AS s FROM sockets AS s")[1]) == 2
    assert len(rows(recording, "SELECT count(*) AS n FROM connections")[1]) == 2


def test_of_one_sample_only_its_segments_are_read(recording: Path) -> None:
    path = recording / "sockets/000002.parquet"
    flip(path, chunk_of(path, "recv_q")[1] - 3)

    def asked(sample: int) -> tuple[int, int]:
        query = f"SELECT count(recv_q) AS n FROM sockets WHERE sample = {sample}"
        with Engine(open_recording(recording)) as engine:
            found = engine.table(query, Scope(sample=sample)).to_pylist()
            return found[0]["n"], len(engine.news())

    assert [asked(sample) for sample in (0, 3, 8)] == [(2, 0), (2, 0), (39, 0)]
    assert asked(5) == (0, 2)


def test_damage_of_another_table_takes_only_itself(recording: Path) -> None:
    path = recording / "closes/000002.parquet"
    flip(path, chunk_of(path, "cookie")[0] + 20)
    found, told = rows(recording, "SELECT count(cookie) AS n FROM closes")
    assert found == [{"n": 8}]
    assert [line.partition(" ")[0] for line in told] == ["closes/000002.parquet"]
    assert rows(recording)[1] == []


def test_every_flipped_bit_is_told_or_in_bytes_that_are_not_read(recording: Path) -> None:
    """Of each segment: what a query over all columns gives is as before, or damage is told."""
    chance = random.Random(9)
    for table in ("sockets", "samples", "closes", "counters", "owners"):
        path = recording / table / "000002.parquet"
        if not path.exists():
            path = recording / table / "000001.parquet"
        size = path.stat().st_size
        whole = path.read_bytes()
        places = {0, 3, size - 1, size - 5, size - 8, size - 9, 4, size // 2}
        places |= {chance.randrange(size) for _ in range(12)}
        for place in places:
            flip(path, place, chance.randrange(8))
            _, told = rows(recording, f"SELECT * FROM {table}")
            assert told, (table, place)
            path.write_bytes(whole)


def test_a_bit_of_any_file_is_told_by_verify(recording: Path) -> None:
    chance = random.Random(10)
    for path in sorted(recording.glob("*/*.parquet")):
        whole = path.read_bytes()
        for _ in range(3):
            flip(path, chance.randrange(len(whole)), chance.randrange(8))
            with Engine(open_recording(recording)) as engine:
                found = verify(engine)
            assert any(path.name in problem.file for problem in found.problems)
            path.write_bytes(whole)


def test_a_bit_of_a_page_of_an_older_recording_is_told(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(20):
        writer.sample([tcp(n, bytes_acked=n * 7919) for n in range(1, 50)])
    writer.seal()
    path = tmp_path / "r/sockets/000001.parquet"
    start, end = chunk_of(path, "bytes_acked")
    whole, _ = rows(tmp_path / "r", "SELECT sum(bytes_acked) AS n FROM sockets")
    bytes_ = path.read_bytes()
    for place in range(start, end, 7):
        flip(path, place)
        with contextlib.suppress(SockrecError):
            found, told = rows(tmp_path / "r", "SELECT sum(bytes_acked) AS n FROM sockets")
            # What a page says of itself is under no checksum; such a flip may change nothing.
            assert told or found == whole, place
        path.write_bytes(bytes_)


@pytest.mark.parametrize("table", ["sockets", "samples", "closes"])
def test_a_segment_that_was_removed_is_told_with_its_span(recording: Path, table: str) -> None:
    (recording / table / "000002.parquet").unlink()
    _, told = rows(recording)
    assert told[0].startswith(f"{table}/000002.parquet (")
    assert "2026-11-22 15:04:09 to 2026-11-22 15:04:12 UTC): is not there" in told[0]
    assert len(told) == (1 if table == "closes" else 2)
    with Engine(open_recording(recording)) as engine:
        missing = describe(engine).facts["missing"]
        assert isinstance(missing, list)
        assert missing[0]["file"] == f"{table}/000002.parquet"
        assert not verify(engine).whole


def test_no_time_is_taken_from_a_footer_that_nothing_vouches_for(recording: Path) -> None:
    """Of damaged statistics pyarrow aborts."""
    path = recording / "sockets/000002.parquet"
    (segment,) = (s for s in open_recording(recording).segments if s.path == path)
    assert segment.samples is not None
    assert None not in span(segment)
    path.write_bytes(path.read_bytes().replace(b"crc32:", b"crc33:"))
    assert span(segment) == (None, None)
    (segment,) = (s for s in open_recording(path).segments)
    assert segment.samples is None


def test_a_segment_that_was_exchanged_or_cut_is_told(recording: Path) -> None:
    shutil.copy(recording / "closes/000003.parquet", recording / "closes/000002.parquet")
    with (recording / "owners/000001.parquet").open("r+b") as file:
        file.truncate(100)
    _, told = rows(recording)
    assert [line.partition(" ")[0] for line in told] == [
        "owners/000001.parquet",
        "closes/000002.parquet",
    ]
    assert "is not the file that was sealed" in told[1]


def test_a_whole_number_that_was_not_copied_is_told(recording: Path) -> None:
    for path in recording.glob("*/000003.parquet"):
        path.unlink()
    _, told = rows(recording)
    assert {line.partition(" ")[0] for line in told} == {
        "sockets/000003.parquet",
        "samples/000003.parquet",
        "closes/000003.parquet",
    }


def test_a_list_that_is_damaged_or_gone_is_told(recording: Path) -> None:
    path = recording / "segments.jsonl"
    flip(path, 60)
    assert "1 of its lines are damaged" in rows(recording)[1][0]
    path.unlink()
    assert rows(recording)[1] == [
        "segments.jsonl: is not there: whether segments are missing is unknown"
    ]


def test_samples_of_an_older_recording_that_were_removed_are_told(tmp_path: Path) -> None:
    writer = every_table(tmp_path / "r")
    writer.seal()
    (tmp_path / "r/samples/000001.parquet").unlink()
    _, told = rows(tmp_path / "r")
    assert told[0] == "samples/000001.parquet: is not there"


def test_damage_and_loss_in_a_zip_are_told_by_its_names(recording: Path, tmp_path: Path) -> None:
    path = recording / "sockets/000002.parquet"
    flip(path, chunk_of(path, "recv_q")[1] - 3)
    (recording / "closes/000003.parquet").unlink()
    packed = tmp_path / "r.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in recording.rglob("*"):
            archive.write(file, Path("r") / file.relative_to(recording))
    told = rows(packed)[1]
    assert told[0].startswith("closes/000003.parquet")
    assert "column recv_q is damaged" in told[1]
    with Engine(open_recording(packed)) as engine:
        assert len(verify(engine).problems) == 2


def test_a_file_that_changes_while_it_is_open_is_told(recording: Path) -> None:
    with Engine(open_recording(recording)) as engine:
        path = recording / "sockets/000001.parquet"
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(1, 1))
        engine.table(QUERY)
        assert "was changed while it was read" in str(engine.news()[0])
        assert engine.news() == ()


def test_a_column_is_read_once(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyzer.reading import integrity

    seen: list[frozenset[str]] = []
    real = integrity._damage

    def counted(segment: Segment, columns: frozenset[str]) -> str:
        seen.append(columns)
        return real(segment, columns)

    monkeypatch.setattr(integrity, "_damage", counted)
    with Engine(open_recording(recording), threads=1) as engine:
        engine.table(QUERY)
        first = len(seen)
        assert first == 3
        assert "recv_q" in seen[0]
        assert "send_q" not in seen[0]
        engine.table(QUERY)
        assert len(seen) == first
        engine.table("SELECT max(send_q) AS q FROM sockets")
        assert seen[first:] == [frozenset({"send_q"})] * 3


@pytest.fixture
def damaged(recording: Path) -> Path:
    path = recording / "sockets/000002.parquet"
    flip(path, chunk_of(path, "state")[1] - 3)
    (recording / "closes/000003.parquet").unlink()
    return recording


@pytest.mark.parametrize(
    "words",
    [["info"], ["summary"], ["report", "states"], ["sql"]],
    ids=lambda words: words[0],
)
def test_every_command_tells_what_is_missing_and_goes_on(words: list[str], damaged: Path) -> None:
    query = ["SELECT max(state) AS s FROM sockets"] if words == ["sql"] else []
    done = CliRunner().invoke(sockrec.app, [*words, str(damaged), *query])
    assert done.exit_code == 0, done.exception
    told = [line for line in done.stderr.splitlines() if line.startswith("sockrec: missing: ")]
    assert any("closes/000003.parquet" in line for line in told)
    if words != ["info"]:  # which asks nothing of that column
        assert any("column state is damaged" in line for line in told)


def test_verify_says_where_and_ends_with_1(damaged: Path) -> None:
    done = CliRunner().invoke(sockrec.app, ["verify", str(damaged)])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any(
        line.startswith("damaged") and "sockets/000002.parquet, column state (156 rows, " in line
        for line in lines
    )
    assert any("closes/000003.parquet" in line for line in lines)
    as_json = CliRunner().invoke(sockrec.app, ["verify", str(damaged), "--format", "json"])
    facts = json.loads(as_json.stdout)
    assert facts["whole"] is False
    assert {problem["column"] for problem in facts["problems"]} == {None, "state"}
    tables = {problem["file"]: problem["table"] for problem in facts["problems"]}
    assert tables["closes/000003.parquet"] == "closes"


def test_verify_tells_disorder_and_samples_that_never_were(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1), tcp(2)])
    writer.sample([tcp(1)], number=5)
    writer._journals["sockets"].rows.reverse()
    writer.write_segment("sockets")
    writer.write_segment("samples")
    with Engine(open_recording(tmp_path / "r")) as engine:
        assert [p.what for p in verify(engine).problems] == ["samples 1 to 4 are missing"]


@pytest.mark.parametrize("ended", [True, False])
def test_verify_compares_with_what_the_recorder_counted(tmp_path: Path, ended: bool) -> None:
    """Samples that are gone from the end leave no gap."""
    writer = Writer(tmp_path / "r")
    for _ in range(3):
        writer.sample([tcp(1), tcp(2)])
    end = "2026-11-22T15:04:08.000000Z" if ended else None
    writer.write_facts(ended=end, samples=3, socket_rows=6)
    with Engine(open_recording(tmp_path / "r")) as engine:
        assert verify(engine).whole
    writer.write_facts(samples=4, socket_rows=8)
    with Engine(open_recording(tmp_path / "r")) as engine:
        found = {p.table: p.what for p in verify(engine).problems}
    assert found == (
        {
            "samples": "recording.json counts 4 samples, there are 3",
            "sockets": "recording.json counts 8 socket rows, there are 6",
        }
        if ended
        else {}
    )


def test_python_is_told_too(damaged: Path) -> None:
    with analyzer.open(damaged) as opened:
        opened.sql("SELECT max(state) AS s FROM sockets").table()
        assert {missing.what for missing in opened.missing} == {
            "closes/000003.parquet",
            "sockets/000002.parquet",
            "samples/000002.parquet",
        }
