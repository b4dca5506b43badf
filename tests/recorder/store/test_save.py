"""Saving out of a recording that goes on: whole, whatever the ring and the sealing do meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import analyzer
from recorder.format import segments
from recorder.format.files import LIST_FILE
from recorder.schema import SockrecError
from recorder.store import save as save_module
from recorder.store.recover import recover
from recorder.store.ring import Keep
from recorder.store.save import SaveError, save
from tests.analyzer.support.recordings import small
from tests.recorder.store.test_damage import sealed_pairs
from tests.recorder.store.test_ring import Filler, contents
from tests.recorder.support.journals import seal, write

FIRST_US = 1_790_000_000_000_000


@pytest.fixture
def filler(tmp_path: Path) -> Iterator[Filler]:
    filler = Filler(tmp_path / "r", Keep(bytes=3 << 20))
    yield filler
    filler.writer.end("samples")


def begins_at(sample: int) -> int:
    return FIRST_US + sample * 1_000_000


def test_what_is_saved_is_whole_at_every_moment_of_a_recording(
    tmp_path: Path, filler: Filler
) -> None:
    """Before a number is sealed, meanwhile, and after, with the ring dropping all the time."""
    for size in (1, 3, 4, 4, 4, 3, 4, 5):
        for _ in range(size):
            filler.take()
        saved = save(tmp_path / "r", tmp_path / "s")
        problems, there = contents(tmp_path / "s")
        assert problems == 0
        assert there == set(range(filler.sample - len(there), filler.sample))
        assert saved.samples == len(there)
        assert saved.last == begins_at(filler.sample - 1)
        shutil.rmtree(tmp_path / "s")
    assert filler.writer.ring.dropped is not None


@pytest.mark.parametrize("listed", [None, "", '{"garbage', "with journals"])
def test_what_has_no_list_of_its_segments_is_not_saved_as_nothing(
    listed: str | None, tmp_path: Path
) -> None:
    small(tmp_path / "old").seal()
    (tmp_path / "old" / LIST_FILE).unlink(missing_ok=True)
    if listed == "with journals":
        (tmp_path / "old" / "samples" / "000002.arrows").touch()
    elif listed is not None:
        (tmp_path / "old" / LIST_FILE).write_text(listed)
    with pytest.raises(SaveError, match="'sockrec cut' makes a recording of a part"):
        save(tmp_path / "old", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_what_the_ring_drops_while_it_is_linked_is_kept_or_told_in_no_way(
    tmp_path: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        filler.take()
    before = contents(tmp_path / "r")[1]
    real = os.link
    links = 0

    def dropping(*args: Any, **options: Any) -> None:
        nonlocal links
        links += 1
        if links in (2, 5, 9):
            for _ in range(3):
                filler.take()
        real(*args, **options)

    monkeypatch.setattr(os, "link", dropping)
    save(tmp_path / "r", tmp_path / "s")
    problems, there = contents(tmp_path / "s")
    assert problems == 0
    assert there == set(range(min(there), max(there) + 1))
    assert min(there) < max(before) <= max(there)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_part_is_of_its_time_exactly_and_has_what_was_just_before(tmp_path: Path) -> None:
    filler = Filler(tmp_path / "r", Keep(bytes=16 << 20))  # which drops nothing of this
    filler._size = 200_000
    for _ in range(16):
        filler.take()
    first, last = begins_at(8), begins_at(12)
    save(tmp_path / "r", tmp_path / "s", lambda times: (first, last))
    with analyzer.open(tmp_path / "s") as opened:
        (row,) = opened.sql("SELECT min(sample) AS a, max(sample) AS z FROM sockets")
        assert row == {"a": 8, "z": 11}
        (kept,) = opened.sql("SELECT min(sample) AS a FROM raw.sockets")
        earliest = kept["a"]
        assert isinstance(earliest, int)
        assert earliest < 8
    assert contents(tmp_path / "s")[0] == 0
    saved = save(tmp_path / "r", tmp_path / "t", lambda times: times.last(2.5))
    assert contents(tmp_path / "t") == (0, {13, 14, 15})
    assert saved.last == begins_at(15)
    filler.writer.end("samples")


def test_on_another_file_system_it_is_copied(
    tmp_path: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    for _ in range(8):
        filler.take()
    save(tmp_path / "r", tmp_path / "s")
    assert contents(tmp_path / "s") == (0, set(range(8)))


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path: Path, filler: Filler) -> None:
    filler.take()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    (tmp_path / "empty").mkdir(mode=0o700)
    names = set(os.listdir(tmp_path))
    with pytest.raises(SaveError, match="is there already: give another with -o"):
        save(tmp_path / "r", tmp_path / "there")
    with pytest.raises(SaveError, match="is not a recording: it has no "):
        save(tmp_path / "empty", tmp_path / "s")
    with pytest.raises(SockrecError, match="is after the last sample"):
        save(tmp_path / "r", tmp_path / "s", lambda times: times.bounds("+99s", None))
    assert set(os.listdir(tmp_path)) == names


@pytest.mark.parametrize(
    "call", ["open", "fstat", "listdir", "mkdir", "pread", "write", "fsync", "link", "rename"]
)
def test_a_call_that_fails_once_leaves_nothing_behind_and_is_told_with_a_name(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first call, the second, … where it is not failed any more what is saved is whole."""
    source = tmp_path / "r"
    source.mkdir(mode=0o700)
    pairs = write(source, samples=2, rows=3)
    seal(source, 1)
    pairs += write(source, samples=2, rows=3, number=2)
    real = getattr(os, call)
    failures = 0
    for place in (0, 1, 2, 5, 13, 1000):
        calls = count()

        def failing(
            *args: Any, calls: Iterator[int] = calls, place: int = place, **options: Any
        ) -> Any:
            if next(calls) == place:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                save(source, tmp_path / "s")
                told = ""
            except (OSError, SockrecError) as error:
                told = str(error)
        if told:
            failures += 1
            assert str(tmp_path) in told or call not in ("open", "fstat", "pread"), told
            assert os.listdir(tmp_path) == ["r"], told
            continue
        recover(tmp_path / "s")
        assert sealed_pairs(tmp_path / "s") == Counter(pairs)
        shutil.rmtree(tmp_path / "s")
    assert failures


def test_what_was_linked_before_a_gap_is_left_out() -> None:
    part = save_module._Part(0, None, None, None, None, None, ())
    for through, kept in ((0, {3, 4, 6, 7, 9}), (4, {3, 4, 6, 7, 9}), (7, {6, 7, 9}), (8, {9})):
        linked = dict.fromkeys((3, 4, 6, 7, 9), part)
        save_module._leave_out_before_a_gap(linked, through)
        assert set(linked) == kept


def test_a_recorder_that_seals_at_every_look_does_not_keep_it_from_ending(
    tmp_path: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(6):
        filler.take()
    real = segments.read_list
    looks = 0

    def sealing(*args: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks < 40:
            filler.take(100)
            filler.writer.rotate()
            filler.writer._sealer.settle(filler.writer._open.number - 1, 10)
        return real(*args, **options)

    monkeypatch.setattr(save_module, "read_list", sealing)
    save(tmp_path / "r", tmp_path / "s")
    monkeypatch.undo()
    problems, there = contents(tmp_path / "s")
    assert problems == 0
    assert looks < 10
    assert there == set(range(min(there), max(there) + 1))
    assert max(there) >= 5
