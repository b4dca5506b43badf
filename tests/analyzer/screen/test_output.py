"""Where an answer goes: a file is written whole or not at all, and never over a recording."""

import os
import stat
import sys
from pathlib import Path

import pytest

from analyzer.screen.output import OutputError, destination


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_name_is_standard_output() -> None:
    with destination(None) as out:
        assert out is sys.stdout


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "answer.csv"
    with destination(target) as out:
        out.write("a\r\n")
        out.buffer.write(b"")
        assert not target.exists()
    assert target.read_bytes() == b"a\r\n"
    assert names(tmp_path) == ["answer.csv"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "answer.csv"
    target.write_text("old")
    target.chmod(0o600)
    with pytest.raises(error), destination(target) as out:  # noqa: PT012 - the block fails
        out.write("half")
        out.flush()
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["answer.csv"]
    with destination(target) as out:
        out.write("new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to("to/real.csv")
    with destination(link) as out:
        out.write("x")
    assert link.is_symlink()
    assert (tmp_path / "to/real.csv").read_text() == "x"


@pytest.mark.parametrize(
    "name",
    [
        "incident",
        "incident/recording.json",
        "incident/sockets/000001.parquet",
        "incident/sockets/000002.parquet",
        "incident/answer.csv",
        "incident/deep/er/answer.csv",
        "link/sockets/000001.parquet",
        "r.zip",
        "loose.parquet",
    ],
)
def test_a_recording_is_never_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "incident/sockets").mkdir(parents=True)
    (tmp_path / "incident/deep/er").mkdir(parents=True)
    (tmp_path / "incident/recording.json").write_text("{}")
    (tmp_path / "link").symlink_to("incident")
    for file in ("incident/sockets/000001.parquet", "r.zip", "loose.parquet"):
        (tmp_path / file).write_text("kept")
    given = [tmp_path / "incident", tmp_path / "r.zip", tmp_path / "loose.parquet"]
    with pytest.raises(OutputError), destination(tmp_path / name, given):
        raise AssertionError("it was opened")
    assert (tmp_path / "incident/sockets/000001.parquet").read_text() == "kept"
    assert names(tmp_path / "incident/sockets") == ["000001.parquet"]


def test_another_recording_is_not_written_either(tmp_path: Path) -> None:
    (tmp_path / "other/closes").mkdir(parents=True)
    (tmp_path / "other/recording.json").write_text("{}")
    for name in ("answer.csv", "closes/000001.parquet"):
        with pytest.raises(OutputError, match="belongs to a recording"):
            destination(tmp_path / "other" / name).__enter__()


def test_what_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    for name, why in (("none/x.csv", "No such file or directory"), (".", "is a directory")):
        with pytest.raises(OutputError, match=why):
            destination(tmp_path / name).__enter__()


def test_a_device_is_written_as_it_is() -> None:
    before = os.stat("/dev/null").st_rdev
    with destination(Path("/dev/null")) as out:
        out.write("x")
    assert os.stat("/dev/null").st_rdev == before


@pytest.fixture
def anothers(tmp_path: Path) -> Path:
    """Return a folder where everybody may write, as /tmp is."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    return tmp_path / "open"


@pytest.mark.parametrize("name", ["answer.csv", "deep/answer.csv", "mine"])
def test_a_link_of_another_user_is_not_followed(anothers: Path, name: str) -> None:
    precious = anothers.parent / "precious"
    (precious / "deep").mkdir(parents=True)
    for file in ("answer.csv", "deep/answer.csv"):
        (precious / file).write_text("kept")
    (anothers / "answer.csv").symlink_to(precious / "answer.csv")
    (anothers / "deep").symlink_to(precious / "deep")
    (anothers / "mine").symlink_to("answer.csv")
    for link in ("answer.csv", "deep"):
        os.lchown(anothers / link, 65534, 65534)
    with pytest.raises(OutputError, match="link of another user"):
        destination(anothers / name).__enter__()
    assert (precious / "answer.csv").read_text() == "kept"
    assert (precious / "deep/answer.csv").read_text() == "kept"


def test_a_pipe_of_another_user_is_not_written(anothers: Path) -> None:
    pipe = anothers / "answer.csv"
    os.mkfifo(pipe)
    os.chown(pipe, 65534, 65534)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OutputError, match="pipe of another user"):
            destination(pipe).__enter__()
        os.chown(pipe, 0, 0)
        with destination(pipe) as out:
            out.write("x")
        assert os.read(reader, 10) == b"x"
    finally:
        os.close(reader)


def test_links_in_a_circle_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OutputError, match="symbolic links"):
        destination(tmp_path / "a").__enter__()


def test_what_the_locale_cannot_write_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with destination(None) as out:
        out.write("12 µs ▁▂\n")
        out.flush()
    assert raw.getvalue() == b"12 \\xb5s \\u2581\\u2582\n"
