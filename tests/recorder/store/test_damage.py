"""Sealing and recovering lose nothing: whatever fails or is damaged, and wherever."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.reading.recording import open_recording
from recorder.format import checksums
from recorder.format.files import FileError
from recorder.format.journal import JournalError
from recorder.format.segments import parse_list, read_list
from recorder.schema import TABLES, SockrecError
from recorder.store.directory import Directory, InUseError, open_list
from recorder.store.recover import recover
from tests.recorder.support.journals import (
    committed,
    is_sealed,
    journal_path,
    numbers,
    seal,
    segment_path,
    write,
)

WRITTEN = ["owners", "samples", "sockets"]
"""The tables that ``write`` puts rows into."""

CALLS = ["open", "pread", "pwrite", "write", "fsync", "rename", "unlink", "fstat", "mkdir"]


def sealed_pairs(directory: Path) -> Counter[tuple[int, int]]:
    """Return (sample, cookie) of every row of sockets in segments."""
    found: Counter[tuple[int, int]] = Counter()
    for path in (directory / "sockets").glob("*.parquet"):
        table = pq.read_table(path, columns=["sample", "cookie"])
        found.update((row["sample"], row["cookie"]) for row in table.to_pylist())
    return found


def contents(directory: Path) -> dict[str, str]:
    """Return a digest of every file, by its place."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """Return a recording of six samples that was killed, and its sockets."""
    directory = tmp_path_factory.mktemp("original")
    return directory, write(directory, samples=6, rows=8)


def copy(original: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(original, to)
    to.chmod(0o700)
    return to


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_once_anywhere_loses_nothing(
    tmp_path: Path,
    original: tuple[Path, list[tuple[int, int]]],
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EIO, at the first call, the second, … until sealing no longer comes to it.

    Of the hundreds of reads that compare one column's checksum each, one in forty.
    """
    source, pairs = original
    real = getattr(os, call)
    for place in itertools.chain(range(30), range(30, 4000, 37)):
        target = copy(source, tmp_path / "r")
        before = contents(target)
        calls = iter(range(1, 10**9))

        def failing(
            *args: Any, calls: Iterator[int] = calls, place: int = place, **options: Any
        ) -> Any:
            if next(calls) == place + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                seal(target, 1)
                failed = False
            except (OSError, SockrecError):
                failed = True
        if failed:
            after = contents(target)
            path = target / "segments.jsonl"
            if not (
                after.get("segments.jsonl") and read_list(path).sealed
            ):  # then every journal is there, as it was
                assert {name: after.get(name) for name in before} == before
            seal(target, 1)
        assert sealed_pairs(target) == Counter(pairs)
        assert numbers(target) == []
        assert not list(target.rglob("*.tmp"))
        if next(calls) <= place + 1:
            assert place, f"sealing calls no os.{call}"
            return
    raise AssertionError(f"sealing calls os.{call} too often to try each")


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(table=st.sampled_from(WRITTEN), place=st.integers(0, (1 << 32) - 1))
def test_a_flipped_bit_costs_no_more_than_the_sample_it_is_in(
    tmp_path_factory: pytest.TempPathFactory,
    original: tuple[Path, list[tuple[int, int]]],
    table: str,
    place: int,
) -> None:
    source, pairs = original
    target = copy(source, tmp_path_factory.getbasetemp() / "flipped")
    path = journal_path(target, table, 1)
    data = bytearray(path.read_bytes())
    bit = place % (8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    read = len(open_recording(target).journals and committed(target, 1).commits)
    result = recover(target, salvage=True)
    assert not result.failed, result.told
    after = open_recording(target)
    assert numbers(target) == []
    # the reader gave as many as were sealed, all of them right
    found = sealed_pairs(target)
    assert found <= Counter(pairs)
    got = {sample for sample, _ in found}
    assert set(range(read)) <= got
    lost = set(range(6)) - got
    assert len(lost) <= 1
    if read < 6:
        (sealed, *_) = read_list(target / "segments.jsonl").sealed
        assert sealed.aside is not None
        assert sealed.commits == read
        assert (target / sealed.aside.kept / f"{table}.arrows").read_bytes() == bytes(data)
        assert result.told
    assert after.left_out == ()


@pytest.mark.parametrize("table", WRITTEN)
def test_what_lies_behind_a_damage_is_kept_aside_told_and_salvaged(
    tmp_path: Path, table: str
) -> None:
    pairs = write(tmp_path, samples=5, rows=20)
    start, end, _ = committed(tmp_path, 1).commits[2].ranges[table]
    path = journal_path(tmp_path, table, 1)
    data = bytearray(path.read_bytes())
    data[(start + end) // 2] ^= 4
    path.write_bytes(data)
    sealed = seal(tmp_path, 1)
    assert sealed.commits == 2
    assert sealed.aside is not None
    assert sealed.aside.bytes > 0
    assert sealed.aside.kept == "damaged/000001"
    assert {sample for sample, _ in sealed_pairs(tmp_path)} == {0, 1}
    kept = {path.name for path in (tmp_path / "damaged/000001").iterdir()}
    assert kept == {f"{name}.arrows" for name in TABLES}
    result = recover(tmp_path, salvage=True)
    assert not result.failed
    assert "2 samples salvaged" in result.summary
    assert sealed_pairs(tmp_path) == Counter(pair for pair in pairs if pair[0] != 2)
    salvaged = pq.read_table(segment_path(tmp_path, "sockets", 2))
    assert {row["sample"] for row in salvaged.to_pylist()} == {3, 4}
    # a second time there is nothing more to get
    again = recover(tmp_path, salvage=True)
    assert "0 samples salvaged" in again.summary
    assert sealed_pairs(tmp_path) == Counter(pair for pair in pairs if pair[0] != 2)


def test_salvaged_words_are_those_that_were_written_or_none(tmp_path: Path) -> None:
    """`write` gives each sample other words, so that each range has dictionaries of its own."""
    write(tmp_path, samples=5, rows=20)
    start, end, _ = committed(tmp_path, 1).commits[1].ranges["sockets"]
    path = journal_path(tmp_path, "sockets", 1)
    data = bytearray(path.read_bytes())
    data[(start + end) // 2] ^= 4
    path.write_bytes(data)
    seal(tmp_path, 1)
    recover(tmp_path, salvage=True)
    rows = pq.read_table(segment_path(tmp_path, "sockets", 2)).to_pylist()
    assert {row["sample"] for row in rows} == {2, 3, 4}
    known = 0
    for row in rows:
        cookie = row["cookie"]
        assert row["bytes_acked"] == cookie * 1000 + row["sample"]
        assert row["local_addr"] in (f"10.0.{cookie % 3}.{cookie}", None)
        assert row["comm"] in ("nginx" if cookie % 2 else None, None)
        known += row["local_addr"] is not None
    assert known == len(rows)  # addresses come in another order each time


def test_a_sample_in_flight_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, samples=3)
    samples = journal_path(tmp_path, "samples", 1)
    samples.write_bytes(samples.read_bytes()[:-1200])  # within the text of the commit
    sealed = seal(tmp_path, 1)
    assert sealed.commits == 2
    assert sealed.aside is None
    assert not (tmp_path / "damaged").exists()


def test_a_commit_cut_behind_its_text_is_proven_all_the_same(tmp_path: Path) -> None:
    pairs = write(tmp_path, samples=3)
    samples = journal_path(tmp_path, "samples", 1)
    samples.write_bytes(samples.read_bytes()[:-30])
    assert seal(tmp_path, 1).aside is not None
    recover(tmp_path, salvage=True)
    assert sealed_pairs(tmp_path) == Counter(pairs)


@pytest.mark.parametrize("fill", [b"\0", b"\xa5"])
def test_a_tail_that_a_power_loss_left_otherwise_is_kept_and_told(
    tmp_path: Path, fill: bytes
) -> None:
    write(tmp_path, samples=4)
    start = committed(tmp_path, 1).commits[2].ranges["sockets"][0]
    path = journal_path(tmp_path, "sockets", 1)
    data = path.read_bytes()
    path.write_bytes(data[:start] + fill * (len(data) - start))
    sealed = seal(tmp_path, 1)
    assert sealed.commits == 2
    assert sealed.aside is not None
    assert "of sockets are damaged" in sealed.aside.why


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_journal_that_is_missing_removes_nothing(tmp_path: Path, table: str) -> None:
    pairs = write(tmp_path, samples=3)
    empty = journal_path(tmp_path, table, 1).stat().st_size == 0
    journal_path(tmp_path, table, 1).unlink()
    before = contents(tmp_path)
    result = recover(tmp_path)
    if empty:
        assert not result.failed
        assert sealed_pairs(tmp_path) == Counter(pairs)
        return
    assert result.failed
    assert len(result.told) == 1
    assert f"journal of {table} is missing" in result.told[0]
    assert {name: digest for name, digest in contents(tmp_path).items() if name in before} == before


def test_a_read_error_is_no_end_of_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, samples=3)
    real = os.pread
    path = journal_path(tmp_path, "sockets", 1)

    def failing(file: int, size: int, place: int) -> bytes:
        if place > 3000 and os.readlink(f"/proc/self/fd/{file}") == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, size, place)

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(OSError, match=r"Input/output error.*sockets/000001\.arrows"):
        committed(tmp_path, 1)


def test_want_of_memory_is_no_end_of_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recorder.format import journal as module

    def failing(message: object) -> dict[bytes, bytes]:
        raise MemoryError

    write(tmp_path, samples=3)
    monkeypatch.setattr(module, "custom_metadata", failing)
    with pytest.raises(MemoryError):
        committed(tmp_path, 1)


def test_recover_is_refused_while_somebody_writes(tmp_path: Path) -> None:
    write(tmp_path, samples=3)
    directory = Directory.open(tmp_path)
    listing = open_list(directory)
    before = contents(tmp_path)
    with pytest.raises(InUseError, match="is being written"):
        recover(tmp_path)
    assert contents(tmp_path) == before
    os.close(listing)
    directory.close()
    assert not recover(tmp_path).failed


def test_a_lock_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    write(tmp_path, samples=3)
    program = (
        "import sys, time; from pathlib import Path; from recorder.store.directory import *;"
        "open_list(Directory.open(Path(sys.argv[1]))); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InUseError):
            recover(tmp_path)
        holder.kill()
        holder.wait(timeout=10)
    assert not recover(tmp_path).failed
    assert is_sealed(tmp_path, 1)


FACTS_FILES = {
    "FIFO": None,
    "zero": None,
    "huge": None,
    "nested": b"[" * 100_000,
    "text": b"\xff\xfe\0",
    "array": b"[]",
    "version": b'{"version": 99}',
}


@pytest.mark.parametrize("kind", FACTS_FILES)
def test_recover_is_careful_with_recording_json(tmp_path: Path, kind: str) -> None:
    write(tmp_path, samples=3)
    path = tmp_path / "recording.json"
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2 << 30)
    else:
        path.write_bytes(FACTS_FILES[kind] or b"")
    result = subprocess.run(
        [sys.executable, "-m", "sockrec", "recover", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "recording.json" in result.stderr
    assert len(numbers(tmp_path)) == 1


def test_every_flipped_bit_of_a_segment_is_found(tmp_path: Path) -> None:
    """In a chunk or in the footer; the rest of the file is its two magic words and a length.

    One bit in five is tried, each byte at least once.
    """
    write(tmp_path, samples=2, rows=3)
    seal(tmp_path, 1)
    path = segment_path(tmp_path, "owners", 1)
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 5):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        file = os.open(path, os.O_RDONLY)
        try:
            _, known = checksums.read_footer(path, file)
            found = known is None or any(known.damaged(file))
        except SockrecError:
            found = True
        finally:
            os.close(file)
        assert found or bit < 32, f"bit {bit} of {8 * len(data)}"


def test_the_list_of_segments_says_what_was_sealed_and_survives_a_torn_line(tmp_path: Path) -> None:
    write(tmp_path, samples=2, number=1)
    seal(tmp_path, 1)
    listing = tmp_path / "segments.jsonl"
    with listing.open("ab") as torn:
        torn.write(b'{"crc":"0000')  # the machine went down
    write(tmp_path, samples=3, number=2)
    seal(tmp_path, 2)
    known, damaged, _ = read_list(listing)
    assert [(one.number, one.commits) for one in known] == [(1, 2), (2, 3)]
    assert damaged == 1
    for one in known:
        assert set(one.files) == set(WRITTEN)
        for table, file in one.files.items():
            path = segment_path(tmp_path, table, one.number)
            assert path.stat().st_size == file.bytes
            assert pq.read_metadata(path).num_rows == file.rows
    line = json.loads(listing.read_text().splitlines()[0])
    assert line["sealed"]["number"] == 1
    flipped = bytearray(listing.read_bytes())
    flipped[40] ^= 1
    assert [one.number for one in parse_list(bytes(flipped))[0]] == [2]


def test_errors_of_the_format_are_known_errors() -> None:
    assert issubclass(FileError, SockrecError)
    assert issubclass(JournalError, SockrecError)
