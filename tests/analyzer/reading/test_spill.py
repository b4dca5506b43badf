"""Private folders for temporary files: gone with their command, or cleared by the next one."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from analyzer.reading import spill
from analyzer.reading.spill import PREFIX, Folder

ROOT = Path(__file__).resolve().parents[3]

HOLDING = """
import sys
from analyzer.reading.spill import Folder
folder = Folder()
(folder.path / "deep").mkdir()
(folder.path / "deep" / "file").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def holding(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_ones_own_and_goes(place: Path) -> None:
    folder = Folder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "x").write_text("x")
    folder.remove()
    assert list(place.iterdir()) == []
    folder.remove()
    path = Folder().path
    assert not path.exists()  # forgotten


def test_what_a_killed_command_left_is_cleared_by_the_next_and_what_is_in_use_is_not(
    place: Path,
) -> None:
    killed, left = holding(place)
    alive, used = holding(place)
    with killed, alive:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "deep/file").exists()
        mine = Folder()
        assert not left.exists()
        assert (used / "deep/file").exists()
        spill.clear()
        assert mine.path.exists()
        alive.communicate("", timeout=30)
    assert list(place.iterdir()) == [mine.path]


def test_a_copy_of_the_process_takes_nothing_with_it(place: Path) -> None:
    folder = Folder()
    if os.fork() == 0:
        folder.remove()
        os._exit(0)
    os.wait()
    assert folder.path.exists()


def test_nothing_but_an_own_private_folder_is_cleared(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (place / f"{PREFIX}link").symlink_to(outside)
    (place / f"{PREFIX}file").write_text("x")
    (place / f"{PREFIX}open").mkdir(mode=0o755)
    (place / "other").mkdir(mode=0o700)
    left = place / f"{PREFIX}left"
    left.mkdir(mode=0o700)
    (left / "link").symlink_to(outside)
    (left / "links").mkdir()
    (left / "links" / "again").symlink_to(outside / "kept")
    spill.clear()
    assert not left.exists()
    assert sorted(path.name for path in place.iterdir()) == [
        "other",
        *sorted(f"{PREFIX}{name}" for name in ("file", "link", "open")),
    ]
    assert (outside / "kept").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_what_another_user_owns_is_not_cleared(place: Path) -> None:
    theirs = place / f"{PREFIX}theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    spill.clear()
    assert theirs.exists()
