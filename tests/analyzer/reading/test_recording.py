"""Opening a recording: exactly what was committed is read, once, whatever happened to its files."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.reading import recording as recording_module
from analyzer.reading.journal import Journal
from analyzer.reading.recording import (
    Recording,
    RecordingError,
    open_recording,
    open_recordings,
)
from analyzer.sql.views import streams
from recorder.format.journal import Committed, JournalFile, read_commits
from recorder.schema import TABLES, SockrecError
from tests.analyzer.support.recordings import (
    FACTS,
    Writer,
    every_table,
    small,
    tcp,
    time_of,
    write_segment,
)
from tests.recorder.support.recorded import in_view

PLACES = st.integers(0, (1 << 32) - 1)


def rows(recording: Recording, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table from segments and journals, without DuckDB."""
    found: list[dict[str, Any]] = []
    for segment in recording.segments:
        if segment.table.name == table:
            read = pa.parquet.read_table(segment.path)
            found += (in_view(read) if "read_ms" in segment.columns else read).to_pylist()
    stream = streams(recording).get(f"journal_{table}")
    if stream is not None:
        found += pa.RecordBatchReader.from_stream(stream).read_all().to_pylist()
    return found


def samples(recording: Recording) -> list[int]:
    return sorted({row["sample"] for row in rows(recording, "samples")})


class Journals:
    """The journals of a small recording, and where each sample ends in them."""

    def __init__(self, whole: dict[str, bytes], ends: list[dict[str, int]]) -> None:
        self.whole = whole
        self.ends = ends
        with on_disk(whole) as files:
            self.rows = read_all(files, read_commits(files))

    def samples_before(self, table: str, byte: int) -> int:
        """Return how many samples lie wholly before that byte of a journal."""
        return sum(end[table] <= byte for end in self.ends)


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Journals:
    writer = every_table(tmp_path_factory.mktemp("journals") / "r")
    files = {table: writer.path(table, ".arrows").read_bytes() for table in TABLES}
    return Journals(files, writer.ends)


def test_every_committed_sample_is_read(tmp_path: Path) -> None:
    small(tmp_path / "r")
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == [0, 1, 2, 3]
    assert len(rows(opened, "sockets")) == 2 + 3 + 4 + 6
    assert len(rows(opened, "owners")) == 1
    assert opened.left_out == ()


def test_journal_and_segment_give_the_same_rows(tmp_path: Path) -> None:
    writer = every_table(tmp_path / "r")
    before = open_recording(tmp_path / "r")
    writer.seal()
    after = open_recording(tmp_path / "r")
    assert after.journals == ()
    for table in TABLES:
        assert rows(before, table)
        key = TABLES[table].order

        def place(row: dict[str, Any], key: tuple[str, ...] = key) -> list[str]:
            return [str(row[name]) for name in key]

        assert sorted(rows(before, table), key=place) == sorted(rows(after, table), key=place)


@settings(max_examples=300)
@given(table=st.sampled_from(sorted(TABLES)), place=PLACES)
def test_a_journal_cut_anywhere_keeps_the_samples_before(
    table: str, place: int, journals: Journals
) -> None:
    check_cut(journals, table, place % (len(journals.whole[table]) + 1))


@pytest.mark.parametrize("table", sorted(TABLES))
@pytest.mark.parametrize("shift", [-9, -8, -1, 0, 1, 8])
def test_a_journal_cut_beside_a_commit_keeps_the_samples_before(
    table: str, shift: int, journals: Journals
) -> None:
    for end in journals.ends:
        cut = end[table] + shift
        check_cut(journals, table, max(0, min(cut, len(journals.whole[table]))))


@contextmanager
def on_disk(files: dict[str, bytes]) -> Iterator[dict[str, JournalFile]]:
    with TemporaryDirectory() as folder, ExitStack() as opened:
        found = {}
        for name, data in files.items():
            path = Path(folder) / name
            path.write_bytes(data)
            found[name] = JournalFile(path)
            opened.callback(found[name].close)
        yield found


def ends_of(found: Committed) -> dict[str, int]:
    """Return how far each journal was accepted."""
    if not found.commits:
        return dict.fromkeys(TABLES, 0)
    last = {name: end for name, (_, end, _) in found.commits[-1].ranges.items()}
    return last | {"samples": found.end}


def check_cut(journals: Journals, table: str, cut: int) -> None:
    with on_disk(journals.whole | {table: journals.whole[table][:cut]}) as files:
        found = read_commits(files)
    assert len(found.commits) == journals.samples_before(table, cut)
    count = len(found.commits)
    assert ends_of(found) == (journals.ends[count - 1] if count else dict.fromkeys(TABLES, 0))


@settings(max_examples=200)
@given(table=st.sampled_from(sorted(TABLES)), place=PLACES)
def test_a_flipped_bit_is_detected_and_the_samples_before_it_kept(
    table: str, place: int, journals: Journals
) -> None:
    bit = place % (8 * len(journals.whole[table]))
    damaged = bytearray(journals.whole[table])
    damaged[bit // 8] ^= 1 << bit % 8
    with on_disk(journals.whole | {table: bytes(damaged)}) as files:
        found = read_commits(files)
        read = read_all(files, found)
    accepted = len(found.commits)
    before = journals.samples_before(table, bit // 8)
    if accepted != before:
        # A commit's frame and its empty body have no checksum, but nothing to falsify either.
        assert table == "samples"
        assert accepted == len(journals.ends)
    for name, rows in read.items():
        assert rows == [row for row in journals.rows[name] if row["sample"] < accepted]
    if accepted < len(journals.ends):
        assert found.stopped
        assert found.damaged


def read_all(files: dict[str, JournalFile], found: Committed) -> dict[str, list[dict[str, Any]]]:
    """Return the committed rows of every table, in the journals' own order."""
    result = {}
    for name, file in files.items():
        journal = Journal(TABLES[name], file, tuple(found.ranges(name)))
        columns = frozenset(TABLES[name].names[:30])
        batches = list(journal.batches(columns)) if journal.bytes else []
        result[name] = [row for batch in batches for row in batch.to_pylist()]
    return result


@settings(max_examples=100)
@given(junk=st.binary(max_size=200))
def test_junk_after_the_last_commit_is_left_out(junk: bytes, journals: Journals) -> None:
    with on_disk({name: file + junk for name, file in journals.whole.items()}) as files:
        found = read_commits(files)
    assert len(found.commits) == 4
    assert ends_of(found) == journals.ends[-1]
    assert found.rest == len(TABLES) * len(junk)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    path = writer.path("sockets", ".arrows")
    damaged = bytearray(path.read_bytes())
    damaged[writer.ends[1]["sockets"] + 40] ^= 1
    path.write_bytes(damaged)
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == [0, 1]
    (rest,) = opened.left_out
    assert rest.number == 1
    assert rest.bytes > 0
    assert "sample 2" in rest.why
    assert "sockets" in rest.why


def test_a_sample_in_flight_is_left_out_without_blame(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer._journals["sockets"].append([tcp(99) | {"sample": 4, "sample_time": time_of(4)}])
    writer.flush()
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == [0, 1, 2, 3]
    assert len(rows(opened, "sockets")) == 15
    (rest,) = opened.left_out
    assert rest.why == ""


@pytest.mark.parametrize("missing", ["sockets", "owners", "samples"])
def test_a_missing_journal_leaves_out_what_names_it(tmp_path: Path, missing: str) -> None:
    writer = small(tmp_path / "r")
    writer.path(missing, ".arrows").unlink()
    opened = open_recording(tmp_path / "r")
    assert rows(opened, "sockets") == []
    assert samples(opened) == []
    assert opened.left_out[0].bytes > 0


def test_a_commit_out_of_order_ends_the_recording(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    writer.sample([tcp(1)])
    writer.sample([tcp(1)])
    writer.sample([tcp(1)], number=1)
    assert samples(open_recording(tmp_path / "r")) == [0, 1]


def test_sealed_and_journal_both_present_count_once(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal(keep_journals=True)
    opened = open_recording(tmp_path / "r")
    assert opened.journals == ()
    assert len(rows(opened, "sockets")) == 15
    assert len(rows(opened, "samples")) == 20


def test_half_sealed_segments_are_ignored(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.write_segment("sockets")
    writer.write_segment("owners")
    writer.path("samples", ".parquet.tmp").write_bytes(b"PAR1 not yet")
    opened = open_recording(tmp_path / "r")
    assert opened.segments == ()
    assert len(rows(opened, "sockets")) == 15


def test_segments_and_journals_of_different_numbers_add_up(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    writer.sample([tcp(1)])
    writer.sample([tcp(1)])
    writer.seal()
    writer.sample([tcp(1)])
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == list(range(7))
    assert len(rows(opened, "sockets")) == 18


def test_a_live_recording_grows(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    assert samples(open_recording(tmp_path / "r")) == []
    for count in range(1, 4):
        writer.sample([tcp(1)])
        assert samples(open_recording(tmp_path / "r")) == list(range(count))


def test_an_open_recording_outlives_its_journals(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    opened = open_recording(tmp_path / "r")
    writer.seal()
    assert not list((tmp_path / "r").glob("*/*.arrows"))
    assert len(rows(opened, "sockets")) == 15


def test_sealing_while_the_directory_is_read_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seal between the first look and the opening, and again between opening and the last look."""
    writer = small(tmp_path / "r")
    look = recording_module._list
    looks: Iterator[int] = iter(range(100))

    def list_and_seal(path: Path) -> dict[str, frozenset[str]]:
        found = look(path)
        if next(looks) < 3:
            writer.seal()
            writer.sample([tcp(1)])
        return found

    monkeypatch.setattr(recording_module, "_list", list_and_seal)
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == list(range(7))
    assert len(rows(opened, "sockets")) == 18


def test_a_recording_without_a_table_opens(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    (tmp_path / "r/owners/000001.parquet").unlink()
    (tmp_path / "r/owners").rmdir()
    opened = open_recording(tmp_path / "r")
    assert rows(opened, "owners") == []
    assert len(rows(opened, "sockets")) == 15


def test_single_segments_of_one_table_open(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    writer.sample([tcp(1)])
    writer.seal()
    files = sorted((tmp_path / "r/sockets").glob("*.parquet"))
    assert len(rows(open_recording(files[0]), "sockets")) == 15
    both = open_recording(*files, files[0])
    assert len(rows(both, "sockets")) == 16
    assert both.facts["host"] == "web1"
    assert not both.whole


def test_a_pattern_names_what_it_matches(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    writer.sample([tcp(1)])
    writer.seal()
    both = open_recording(tmp_path / "r/sockets/*.parquet")
    assert len(rows(both, "sockets")) == 16
    assert "of table" in refusal(tmp_path / "r/**/000002.parquet")
    assert len(rows(open_recording(tmp_path / "r/sockets/00000[2].parquet"), "sockets")) == 1
    assert open_recording(tmp_path / "?").whole
    assert "nothing matches it" in refusal(tmp_path / "*.zip")
    (tmp_path / "s").mkdir()
    assert f"{tmp_path}/s: not a sockrec recording" in refusal(tmp_path / "[rs]")


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    small(tmp_path / "[ab]").seal()
    small(tmp_path / "a", host="another")
    assert open_recording(tmp_path / "[ab]").facts["host"] == "web1"
    (tmp_path / "*").symlink_to("nowhere")
    assert "no such file" in refusal(tmp_path / "*")


def refusal(*paths: Path) -> str:
    with pytest.raises(SockrecError) as caught:
        open_recording(*paths)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere")
    assert "not a sockrec recording" in refusal(tmp_path)
    (tmp_path / "recording.json").write_text("{}")
    assert "no format version" in refusal(tmp_path)
    (tmp_path / "recording.json").write_text("[" * 100_000)
    assert "not a sockrec recording" in refusal(tmp_path)
    (tmp_path / "recording.json").write_text('{"version": true}')
    assert "no format version" in refusal(tmp_path)
    assert "is part of a recording: name its directory" in refusal(tmp_path / "recording.json")
    text = tmp_path / "notes.txt"
    text.write_text("hello, this is a text")
    assert "not a Parquet file" in refusal(text)
    assert "no such file" in refusal(text / "below")
    assert "null byte" in refusal(Path("a\0b"))
    assert "no recording is named" in refusal()


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/null"), Path("/dev/tty")):
        assert refusal(path) == f"{path}: not a regular file"
        assert "not a regular file" in refusal(path, path)


def test_a_directory_of_something_else_is_told_from_a_recording(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: not a sockrec recording: it is empty"
    (tmp_path / "notes.txt").touch()
    assert "it has no recording.json" in refusal(tmp_path)
    small(tmp_path / "r").seal()
    hint = f"name its files of one table: {tmp_path}/r/sockets/*.parquet"
    assert hint in refusal(tmp_path / "r/sockets")
    assert "part of a recording" in refusal(small(tmp_path / "s").path("owners", ".arrows"))


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    small(tmp_path / "r", version=3)
    assert "format version 3, this sockrec reads up to 2" in refusal(tmp_path / "r")
    write_segment(tmp_path / "x.parquet", "sockets", [], FACTS, version="3")
    assert "format version 3, this sockrec reads up to 2" in refusal(tmp_path / "x.parquet")


def test_version_1_is_read_sealed_and_not(tmp_path: Path) -> None:
    writer = small(tmp_path / "r", version=1)
    assert sorted(path.name for path in (tmp_path / "r").iterdir() if path.is_dir()) == [
        "owners",
        "samples",
        "sockets",
    ]
    assert len(rows(open_recording(tmp_path / "r"), "sockets")) == 15
    writer.seal()
    writer.sample([tcp(1)])
    opened = open_recording(tmp_path / "r")
    assert opened.facts["version"] == 1
    assert samples(opened) == [0, 1, 2, 3, 4]
    assert len(rows(opened, "sockets")) == 16
    assert {row["owner_by"] for row in rows(opened, "sockets") if "owner_by" in row} == {None}
    assert [rows(opened, table) for table in ("closes", "counters", "namespaces")] == [[], [], []]
    single = open_recording(tmp_path / "r/sockets/000001.parquet")
    assert "owner_by" not in single.segments[0].columns
    assert len(rows(single, "sockets")) == 15


def test_a_sealed_number_lacks_the_tables_that_had_no_rows(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    assert sorted(path.parent.name for path in (tmp_path / "r").glob("*/*.parquet")) == [
        "owners",
        "samples",
        "sockets",
    ]
    writer.sample([], closes=[{"cookie": 9}], cgroups=[{"cgroup_id": 5}])
    writer.seal()
    opened = open_recording(tmp_path / "r")
    assert {path.parent.name for path in opened.paths if path.name == "000002.parquet"} == {
        "cgroups",
        "closes",
        "samples",
    }
    assert opened.left_out == ()
    assert samples(opened) == [0, 1, 2, 3, 4]
    assert [row["cookie"] for row in rows(opened, "closes")] == [9]
    assert rows(opened, "settings") == []


def test_journals_of_a_number_may_lack_a_table_that_no_sample_names(tmp_path: Path) -> None:
    writer = small(tmp_path / "r", version=1)
    writer.seal()
    writer.sample([tcp(1)])
    for table in TABLES.keys() - writer.columns.keys():
        (tmp_path / "r" / table).mkdir()
    (tmp_path / "r/closes/000002.arrows").touch()
    opened = open_recording(tmp_path / "r")
    assert samples(opened) == [0, 1, 2, 3, 4]
    assert opened.left_out == ()
    assert {journal.table.name for journal in opened.journals} == {"sockets", "samples"}


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    small(tmp_path / "one").seal()
    small(tmp_path / "two", boot_id=None).seal()
    sockets = Path("sockets/000001.parquet")
    told = refusal(tmp_path / "one" / sockets, tmp_path / "two" / sockets)
    assert "are of different recordings, and do not both tell their host and boot" in told
    assert "of table" in refusal(
        tmp_path / "one" / sockets, tmp_path / "one/samples/000001.parquet"
    )


def test_recordings_of_several_hosts_open_by_host_and_start(tmp_path: Path) -> None:
    small(tmp_path / "a", host="web2").seal()
    small(tmp_path / "b", host="web1", started="2026-11-23T00:00:00Z")
    small(tmp_path / "c", host="web1").seal()
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "a")
    for named in ([tmp_path / "[abc]"], [tmp_path / "b", Path(packed), tmp_path / "c"]):
        opened = open_recordings(*named)
        assert [recording.identity[::2] for recording in opened] == [
            ("web1", "2026-11-22T15:04:05.000000Z"),
            ("web1", "2026-11-23T00:00:00Z"),
            ("web2", "2026-11-22T15:04:05.000000Z"),
        ]
        assert [len(rows(recording, "sockets")) for recording in opened] == [15, 15, 15]
        for recording in opened:
            recording.close()


def test_files_of_several_recordings_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    for host in ("web1", "web2"):
        writer = small(tmp_path / f"host={host}", host=host)
        writer.seal()
        writer.sample([tcp(1)])
        writer.seal()
    opened = open_recordings(tmp_path / "host=*/sockets/*.parquet")
    assert [recording.facts["host"] for recording in opened] == ["web1", "web2"]
    assert [len(rows(recording, "sockets")) for recording in opened] == [16, 16]
    assert not any(recording.whole for recording in opened)


def test_a_layout_of_folders_stands_for_what_is_in_it(tmp_path: Path) -> None:
    flat = tmp_path / "lake/host=web3/day=22"
    for folder in ("lake/host=web1", "lake/host=web2/day=22", flat):
        (tmp_path / folder).mkdir(parents=True)
    small(tmp_path / "lake/host=web1/day=22", host="web1").seal()
    small(tmp_path / "lake/host=web2/day=22/incident", host="web2")
    small(tmp_path / "other", host="web3").seal()
    shutil.copy(tmp_path / "other/sockets/000001.parquet", flat / "x.parquet")
    (tmp_path / "lake/notes").mkdir()
    (flat.parent / "day=23").symlink_to(tmp_path / "lake/host=web1/day=22")
    opened = open_recordings(tmp_path / "lake")
    assert [recording.facts["host"] for recording in opened] == ["web1", "web2", "web3"]
    assert [recording.whole for recording in opened] == [True, True, False]
    (tmp_path / "lake/host=web4").mkdir()
    assert "web4: not a sockrec recording: it is empty" in refusal(tmp_path / "lake")


def test_nothing_counts_twice(tmp_path: Path) -> None:
    small(tmp_path / "a").seal()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(open_recordings(tmp_path / "a", tmp_path / "a/.", tmp_path / "link")) == 1
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert f"{tmp_path}/b are of one recording" in refusal(tmp_path / "a", tmp_path / "b")
    assert "of one recording" in refusal(tmp_path / "a", tmp_path / "a/sockets/000001.parquet")


def test_a_link_or_a_pipe_in_a_recording_is_refused(tmp_path: Path) -> None:
    writer = small(tmp_path / "r")
    path = writer.path("owners", ".arrows")
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refusal(tmp_path / "r")
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert "owners/000001.arrows: is a symbolic link" in refusal(tmp_path / "r")


def test_a_table_that_is_a_link_is_refused(tmp_path: Path) -> None:
    small(tmp_path / "r").seal()
    small(tmp_path / "other").seal()
    (tmp_path / "r/closes").rmdir()
    (tmp_path / "r/closes").symlink_to(tmp_path / "other/sockets")
    assert "r/closes: is a symbolic link" in refusal(tmp_path / "r")


def test_a_journal_of_foreign_columns_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    journal = writer._journals["owners"]
    journal.bytes.seek(0)
    journal.bytes.truncate()
    journal.schema = pa.schema([("sample", pa.int64()), ("evil", pa.string())])
    journal.writer = pa.ipc.new_stream(journal.bytes, journal.schema)
    writer.sample([tcp(1)], owners=[{"evil": "x"}])
    assert "column" in refusal(tmp_path / "r")


def test_recording_json_may_not_be_huge(tmp_path: Path) -> None:
    (tmp_path / "recording.json").write_text(json.dumps(FACTS | {"host": "x" * (17 << 20)}))
    with pytest.raises(RecordingError, match="too many"):
        open_recording(tmp_path)
