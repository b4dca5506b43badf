"""Journals and segments hold the same rows, in every interruption of sealing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analyzer.reading.recording import open_recording
from analyzer.sql.views import streams
from recorder.format import writing
from recorder.schema import (
    OWNERS,
    RECORDING_FILE,
    SAMPLES,
    SOCKETS,
    TABLES,
    VERSION,
    Table,
    journal_schema,
    segment_schema,
)
from recorder.store import journal
from recorder.store.directory import Directory
from recorder.store.journal import BatchMaker, Journals
from recorder.wire.columns import Values
from tests.recorder.support.journals import (
    FACTS,
    committed,
    is_sealed,
    journal_path,
    numbers,
    seal,
    segment_path,
    write,
)
from tests.recorder.support.recorded import sealed


def read(directory: Path, table: str = "sockets", number: int = 1) -> list[dict[str, Any]]:
    path = segment_path(directory, table, number)
    rows: list[dict[str, Any]] = sealed(path, TABLES[table]).to_pylist()
    return rows


@pytest.fixture
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 96)


@pytest.mark.usefixtures("small_row_groups")
def test_a_segment_has_every_row_of_the_journal_in_the_order_of_its_key(tmp_path: Path) -> None:
    pairs = write(tmp_path, samples=6)
    seal(tmp_path, 1)
    rows = read(tmp_path)
    assert [(row["cookie"], row["sample"]) for row in rows] == sorted((c, s) for s, c in pairs)
    for row in rows:
        cookie = row["cookie"]
        assert row["bytes_acked"] == cookie * 1000 + row["sample"]
        assert row["local_addr"] == f"10.0.{cookie % 3}.{cookie}"
        assert row["comm"] == ("nginx" if cookie % 2 else None)
        assert row["v6only"] is bool(cookie % 2)
        assert (row["rtt_us"] is None) == bool(cookie % 2)
        assert row["snd_cwnd"] is None
        assert row["netns"] == 4026531840


@pytest.mark.usefixtures("small_row_groups")
def test_a_segment_has_public_types_checksums_and_tells_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, samples=3)
    seal(tmp_path, 1)
    for table in (SOCKETS, SAMPLES, OWNERS):
        file = pq.ParquetFile(segment_path(tmp_path, table.name, 1))
        assert file.schema_arrow.remove_metadata().equals(segment_schema(table))
        told = file.metadata.metadata
        assert told[b"sockrec.table"].decode() == table.name
        assert json.loads(told[b"sockrec.recording"]) == FACTS
        assert list(json.loads(told[b"sockrec.columns"])) == segment_schema(table).names
    damaged = bytearray(segment_path(tmp_path, "sockets", 1).read_bytes())
    place = pq.ParquetFile(segment_path(tmp_path, "sockets", 1)).metadata
    column = place.row_group(1).column(segment_schema(SOCKETS).names.index("bytes_acked"))
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 16
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(tmp_path / "damaged.parquet", page_checksum_verification=True)


def test_sealing_takes_the_journals_away_and_may_be_repeated(tmp_path: Path) -> None:
    write(tmp_path, samples=2)
    seal(tmp_path, 1)
    assert numbers(tmp_path) == []
    assert not list(tmp_path.rglob("*.arrows"))
    assert not list(tmp_path.rglob("*.tmp"))
    before = read(tmp_path)
    seal(tmp_path, 1)
    assert read(tmp_path) == before


@pytest.mark.parametrize("step", range(12))
def test_sealing_that_dies_at_any_step_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    pairs = write(tmp_path, samples=3)
    steps = 0

    class Died(BaseException):
        pass

    def dying(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal steps
            if steps == step:
                raise Died
            steps += 1
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying(os.rename))
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(os, "unlink", dying(os.unlink))
        try:
            seal(tmp_path, 1)
        except Died:
            sealed = is_sealed(tmp_path, 1)
            assert sealed or len(committed(tmp_path, 1).commits) == 3
        else:
            assert step >= 3 * 3 + len(TABLES), "seal has more steps than are tried here"
    seal(tmp_path, 1)
    assert sorted((row["sample"], row["cookie"]) for row in read(tmp_path)) == sorted(pairs)
    assert numbers(tmp_path) == []


def test_only_committed_samples_are_sealed(tmp_path: Path) -> None:
    write(tmp_path, samples=4)
    samples = journal_path(tmp_path, "samples", 1)
    samples.write_bytes(samples.read_bytes()[:-30])  # the last commit is torn
    seal(tmp_path, 1)
    assert {row["sample"] for row in read(tmp_path)} == {0, 1, 2}
    assert {row["sample"] for row in read(tmp_path, "samples")} == {0, 1, 2}


def test_a_recording_without_a_sample_is_sealed_empty(tmp_path: Path) -> None:
    write(tmp_path, samples=0)
    seal(tmp_path, 1)
    assert read(tmp_path, "samples") == []
    assert [path.name for path in tmp_path.glob("*/*.parquet")] == ["000001.parquet"]


def test_a_table_without_rows_has_no_segment(tmp_path: Path) -> None:
    write(tmp_path, samples=2)
    seal(tmp_path, 1)
    sealed = {path.parent.name for path in tmp_path.glob("*/*.parquet")}
    assert sealed == {"owners", "samples", "sockets"}


@pytest.mark.parametrize("table", ["owners", "samples", "sockets"])
def test_a_flipped_bit_ends_the_recording_before_the_sample_it_is_in(
    tmp_path: Path, table: str
) -> None:
    write(tmp_path, samples=4)
    whole = committed(tmp_path, 1).commits
    path = journal_path(tmp_path, table, 1)
    data = bytearray(path.read_bytes())
    start, end, _ = whole[2].ranges[table]
    data[(start + end) // 2] ^= 4
    path.write_bytes(data)
    assert committed(tmp_path, 1).commits == whole[:2]


def seal_sockets(directory: Path, columns: dict[str, Values | pa.Array]) -> list[dict[str, Any]]:
    """Seal one sample of the sockets described by these columns and return its rows."""
    (directory / RECORDING_FILE).write_text(json.dumps({"version": VERSION}))
    opened = Directory.open(directory)
    journals = Journals(opened, 1)
    journals.append("sockets", BatchMaker(SOCKETS).make(4, columns))
    journals.commit(0)
    journals.close()
    opened.close()
    seal(directory, 1)
    return read(directory)


def test_nothing_is_committed_in_journals_that_are_closed(tmp_path: Path) -> None:
    """What is written behind the close goes nowhere: that must not look like a sample."""
    opened = Directory.open(tmp_path)
    journals = Journals(opened, 1)
    columns: dict[str, Values | pa.Array] = {"cookie": Values(np.array([1], np.uint64))}
    journals.append("sockets", BatchMaker(SOCKETS).make(1, columns))
    journals.commit(0)
    journals.close()
    whole = (tmp_path / "samples/000001.arrows").read_bytes()
    journals.append("sockets", BatchMaker(SOCKETS).make(1, columns))
    with pytest.raises(ValueError, match="the journal is closed"):
        journals.commit(1)
    opened.close()
    assert (tmp_path / "samples/000001.arrows").read_bytes() == whole
    assert journals.socket_rows == 1


def test_a_word_that_stands_twice_in_a_dictionary_is_not_taken_for_the_only_one(
    tmp_path: Path,
) -> None:
    # as two nginx processes make it: a word for each process
    words = pa.array(["nginx", "nginx", "redis"])
    comm = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], pa.int32()), words)
    rows = seal_sockets(tmp_path, {"cookie": Values(np.arange(4, dtype=np.uint64)), "comm": comm})
    assert [row["comm"] for row in rows] == ["nginx", "nginx", "redis", "nginx"]


def test_the_only_word_of_a_column_stands_where_it_stood(tmp_path: Path) -> None:
    words = pa.array(["carried", "fd", "listener"])
    codes = pa.array([1, None, 1, 1], pa.int8())
    by = pa.DictionaryArray.from_arrays(codes, words)
    cookies = Values(np.array([4, 3, 2, 1], np.uint64))
    rows = seal_sockets(tmp_path, {"cookie": cookies, "owner_by": by})
    assert [row["owner_by"] for row in rows] == ["fd", "fd", None, "fd"]


def test_one_sample_of_several_namespaces_is_in_the_order_of_its_key(tmp_path: Path) -> None:
    rows = seal_sockets(
        tmp_path,
        {
            "netns": Values(np.array([9, 8, 9, 8], np.uint64)),
            "cookie": Values(np.array([4, 3, 2, 1], np.uint64)),
            "sample": Values(np.zeros(4, np.uint32)),
        },
    )
    assert [(row["netns"], row["cookie"]) for row in rows] == [(8, 1), (8, 3), (9, 2), (9, 4)]


def test_a_journal_of_before_a_column_was_signed_is_read_as_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sockrec 0.1.0 wrote it: fwd_alloc of SCTP below zero, in an unsigned column."""
    earlier = journal_schema(SOCKETS)
    place = earlier.get_field_index("fwd_alloc")
    earlier = earlier.set(place, pa.field("fwd_alloc", pa.uint32()))

    def schema_then(table: Table) -> pa.Schema:
        return earlier if table == SOCKETS else journal_schema(table)

    monkeypatch.setattr(journal, "journal_schema", schema_then)
    (tmp_path / RECORDING_FILE).write_text(json.dumps({"version": VERSION}))
    opened = Directory.open(tmp_path)
    journals = Journals(opened, 1)
    fwd_alloc = np.array([(1 << 32) - 932, 4096], np.uint32)
    columns: dict[str, Values | pa.Array] = {
        "cookie": Values(np.array([1, 2], np.uint64)),
        "fwd_alloc": Values(fwd_alloc),
    }
    monkeypatch.undo()
    maker = BatchMaker(SOCKETS)
    maker.schema = earlier
    journals.append("sockets", maker.make(2, columns))
    journals.commit(0)
    journals.close()
    opened.close()
    stream = streams(open_recording(tmp_path))["journal_sockets"]
    rows = pa.RecordBatchReader.from_stream(stream).read_all()
    assert rows["fwd_alloc"].to_pylist() == [-932, 4096]
    seal(tmp_path, 1)
    assert [row["fwd_alloc"] for row in read(tmp_path)] == [-932, 4096]


def test_a_cookie_that_is_negative_comes_first_as_the_segment_has_it(tmp_path: Path) -> None:
    """Those that are made up of an inode: the journal has them without a sign."""
    cookies = Values(np.array([5, 2**63 + 7, 1, 2**63 + 6], np.uint64))
    rows = seal_sockets(tmp_path, {"cookie": cookies})
    assert [row["cookie"] for row in rows] == [6 - 2**63, 7 - 2**63, 1, 5]
