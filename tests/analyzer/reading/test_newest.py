"""Which recording a command means that names none."""

from pathlib import Path

from analyzer.reading.newest import newest
from tests.analyzer.support.recordings import Writer


def made(path: Path, started: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Writer(path, started=started)


def test_the_one_that_was_begun_last_is_taken(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    made(tmp_path / "z", "2026-11-22T10:00:00.000000Z")
    made(tmp_path / "deep/er/b", "2026-11-22T12:00:00.000000Z")
    made(tmp_path / "a", "2026-11-22T11:00:00.000000Z")
    assert newest(tmp_path) == tmp_path / "deep/er/b"
    assert newest(tmp_path / "a") == tmp_path / "a"


def test_links_what_is_hidden_and_what_says_no_time_are_not_preferred(tmp_path: Path) -> None:
    for number, started in enumerate(["tomorrow", None, 7, "\x1b[2J"]):
        made(tmp_path / f"here/{number}", started)
    made(tmp_path / "here/old", "2001-01-01T00:00:00Z")
    made(tmp_path / "here/.hidden/r", "2026-11-22T12:00:00Z")
    made(tmp_path / "elsewhere", "2026-11-22T12:00:00Z")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/broken").mkdir()
    (tmp_path / "here/broken/recording.json").write_text("{")
    assert newest(tmp_path / "here") == tmp_path / "here/old"
