"""Another user cannot make the recorder write, or remove, anything but its recording."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from recorder.format.files import FileError
from recorder.schema import TABLES, SockrecError
from recorder.store.directory import Directory, DirectoryError
from recorder.store.recover import recover
from tests.recorder.support.journals import numbers, seal, write

NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory where everybody may write, as /tmp is."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to have another user plant links")
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == 0 and not part.stat().st_mode & 0o001:
            part.chmod(part.stat().st_mode | 0o011)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared


def as_nobody(script: str, *args: object) -> None:
    """Run a shell script as another user."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    subprocess.run([*words, "sh", "-ec", script, "sh", *map(str, args)], check=True, timeout=30)


def sockrec(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockrec", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Return a file of root's that a planted link leads to."""
    path = tmp_path / "precious"
    path.write_text("dear to root")
    path.chmod(0o644)
    return path


def untouched(precious: Path) -> bool:
    status = precious.stat()
    return precious.read_text() == "dear to root" and stat.S_IMODE(status.st_mode) == 0o644


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_directory_that_another_made_is_refused(shared: Path, precious: Path) -> None:
    as_nobody('mkdir -m 777 "$1"/r', shared)
    told = one_line(sockrec("record", "-n", 1, "-o", shared / "r"))
    assert "belongs to nobody (uid 65534), not to root (uid 0)" in told
    assert list((shared / "r").iterdir()) == []
    assert untouched(precious)


def test_a_link_that_another_made_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    as_nobody('ln -s "$2" "$1"/r', shared, tmp_path / "empty")
    told = one_line(sockrec("record", "-n", 1, "-o", shared / "r"))
    assert "or a link to one" in told
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o755
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("name", ["recording.json.tmp", "segments.jsonl", "sockets", "samples"])
def test_links_planted_in_a_directory_of_another_are_not_followed(
    shared: Path, precious: Path, name: str
) -> None:
    as_nobody('mkdir -m 777 "$1"/r && ln -s "$3" "$1"/r/"$2"', shared, name, precious)
    one_line(sockrec("record", "-n", 1, "-o", shared / "r"))
    assert untouched(precious)


def test_recover_refuses_the_recording_of_another(shared: Path, tmp_path: Path) -> None:
    recording = shared / "r"
    recording.mkdir(mode=0o700)
    write(recording, samples=2)
    for path in [recording, *recording.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(DirectoryError, match="belongs to nobody"):
        recover(recording)
    assert sorted(path.name for path in recording.glob("samples/*")) == ["000001.arrows"]


def test_recover_refuses_a_directory_where_others_may_write(tmp_path: Path) -> None:
    write(tmp_path, samples=2)
    tmp_path.chmod(0o777)
    try:
        with pytest.raises(DirectoryError, match="others may write there"):
            recover(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert numbers(tmp_path) == [1]


@pytest.mark.parametrize("table", ["sockets", "samples"])
def test_recover_follows_no_link_to_a_folder(tmp_path: Path, table: str) -> None:
    recording = tmp_path / "r"
    recording.mkdir(mode=0o700)
    write(recording, samples=2)
    (recording / table).rename(tmp_path / "elsewhere")
    (recording / table).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SockrecError, match="a link to one"):
        recover(recording)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["000001.arrows"]


@pytest.mark.parametrize("place", ["sockets/000001.parquet.tmp", "recording.json.tmp"])
def test_a_link_where_a_file_is_about_to_be_made_is_replaced_not_followed(
    tmp_path: Path, precious: Path, place: str
) -> None:
    recording = tmp_path / "r"
    recording.mkdir(mode=0o700)
    write(recording, samples=2)
    (recording / place).symlink_to(precious)
    seal(recording, 1)
    assert untouched(precious)
    assert (recording / "sockets/000001.parquet").is_file()


def test_a_journal_that_is_a_link_is_refused(tmp_path: Path) -> None:
    write(tmp_path, samples=2)
    path = tmp_path / "owners/000001.arrows"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="symbolic link"):
        seal(tmp_path, 1)
    assert (tmp_path / "elsewhere").exists()
    assert numbers(tmp_path) == [1]


def test_what_recover_makes_is_its_owners_only(tmp_path: Path) -> None:
    write(tmp_path, samples=2)
    before = os.umask(0)
    try:
        assert not recover(tmp_path).failed
    finally:
        os.umask(before)
    made = [*tmp_path.glob("*/*.parquet"), tmp_path / "segments.jsonl"]
    assert len(made) == 4
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_is_made_is_made_in_the_directory_that_was_opened(tmp_path: Path) -> None:
    """Whatever its name comes to mean meanwhile."""
    (tmp_path / "r").mkdir(mode=0o700)
    directory = Directory.open(tmp_path / "r")
    (tmp_path / "r").rename(tmp_path / "moved")
    (tmp_path / "r").mkdir()
    with directory.folder("sockets", make=True) as folder:
        os.close(folder.create_temporary("000001.parquet"))
        folder.place("000001.parquet")
    directory.close()
    assert (tmp_path / "moved/sockets/000001.parquet").exists()
    assert list((tmp_path / "r").iterdir()) == []


def test_a_directory_of_ones_own_that_is_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r").chmod(0o775)
    Directory.make(tmp_path / "r").close()
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o700


def test_every_table_has_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, samples=1)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(TABLES)
