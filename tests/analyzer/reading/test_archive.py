"""Recordings in a zip: read like the directory, and refused whole where a stranger made them."""

import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from analyzer.reading import archive
from analyzer.reading.archive import ArchiveError, unpack
from analyzer.reading.recording import open_recording
from analyzer.sql.engine import Engine
from recorder.schema import TABLES, SockrecError
from tests.analyzer.support.recordings import Writer, every_table, small, tcp

ROOT = Path(__file__).resolve().parents[3]
COUNT = "SELECT count(*) AS rows, max(sample) AS last FROM sockets"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where zips are unpacked, empty."""
    place = tmp_path / "unpacked"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of every table, with segments and journals."""
    writer = every_table(tmp_path / "r")
    writer.seal()
    writer.sample([tcp(1)], number=4)
    return tmp_path / "r"


def pack(path: Path, folder: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, prefix + str(file.relative_to(folder)))
    return path


def member(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def make(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SockrecError) as caught:
        open_recording(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    return text


@pytest.mark.parametrize("prefix", ["", "incident/", "a b – ü/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_its_directory_gives(
    prefix: str, method: int, recording: Path, tmp_path: Path, place: Path
) -> None:
    packed = pack(tmp_path / "r.zip", recording, prefix, method)
    counts = ", ".join(f"(SELECT count(*) FROM raw.{table}) AS {table}" for table in TABLES)
    queries = [COUNT, f"SELECT {counts}"]
    with Engine(open_recording(recording)) as engine:
        wanted = [engine.table(query).to_pylist() for query in queries]
    opened = open_recording(packed)
    assert opened.path == packed
    assert opened.whole
    assert opened.journals
    assert opened.segments
    with Engine(opened) as engine:
        assert [engine.table(query).to_pylist() for query in queries] == wanted
        (folder,) = (path for path in place.iterdir() if (path / "recording.json").exists())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(place.iterdir()) == []


def test_what_is_no_part_of_a_recording_is_not_unpacked(
    recording: Path, tmp_path: Path, place: Path
) -> None:
    for name in ("README", "notes.txt", "sockets/000009.parquet.tmp", "etc/passwd", "sockets/x.py"):
        (recording / name).parent.mkdir(exist_ok=True)
        (recording / name).write_text("nothing")
    (recording / ".DS_Store").write_text("nothing")
    packed = pack(tmp_path / "r.zip", recording, "incident/")
    with zipfile.ZipFile(packed, "a") as more:
        more.writestr("__MACOSX/incident/._recording.json", b"nothing")
        more.writestr("readme.txt", b"nothing")
    opened = open_recording(packed)
    names = {path.name for path in place.rglob("*") if path.is_file()}
    assert names == {"recording.json", "000001.parquet", "000002.arrows"}
    opened.close()
    assert list(place.iterdir()) == []


def test_a_zip_of_parquet_files_of_one_table(tmp_path: Path, place: Path) -> None:
    writer = small(tmp_path / "r")
    writer.seal()
    writer.write_facts(skipped=7)
    writer.sample([tcp(1)])
    writer.seal()
    sockets = tmp_path / "r/sockets"
    packed = pack(tmp_path / "sockets.zip", sockets, "attached/")
    with Engine(open_recording(packed)) as engine:
        assert not engine.recordings[0].whole
        assert engine.recordings[0].facts["skipped"] == 7
        assert engine.table(COUNT).to_pylist() == [{"rows": 16, "last": 4}]
    shutil.copy(tmp_path / "r/samples/000001.parquet", sockets / "000003.parquet")
    text = refusal(pack(tmp_path / "mixed.zip", sockets))
    assert f"{tmp_path}/mixed.zip/000003.parquet is of table samples" in text
    assert list(place.iterdir()) == []


def test_a_message_names_the_zip_and_the_file_in_it(
    recording: Path, tmp_path: Path, place: Path
) -> None:
    (recording / "recording.json").write_bytes(b"{")
    text = refusal(pack(tmp_path / "r.zip", recording, "incident/"))
    assert text.startswith(f"{tmp_path}/r.zip/incident/recording.json: ")
    assert str(place) not in text
    assert list(place.iterdir()) == []


GOOD = ("recording.json", b"{}")
REFUSED: dict[str, tuple[list[tuple[str | zipfile.ZipInfo, bytes]], str]] = {
    "nothing": ([], "no recording.json"),
    "a text": ([("notes.txt", b"x")], "no recording.json"),
    "traversal": ([GOOD, ("../evil", b"x")], "outside: '../evil'"),
    "traversal within": ([GOOD, ("sockets/../../evil", b"x")], "outside"),
    "absolute": ([GOOD, ("/tmp/evil", b"x")], "outside: '/tmp/evil'"),
    "this folder": ([GOOD, ("./evil", b"x")], "outside"),
    "an empty part": ([GOOD, ("sockets//000001.parquet", b"x")], "outside"),
    "a drive": ([GOOD, ("C:evil", b"x")], "not plain: 'C:evil'"),
    "a backslash": ([GOOD, ("sockets\\000001.parquet", b"x")], "not plain"),
    "a line break": ([GOOD, ("a\nb", b"x")], r"not plain: 'a\\nb'"),
    "an escape": ([GOOD, ("\x1b[2J", b"x")], r"not plain: '\\x1b\[2J'"),
    "a link": ([GOOD, (member("sockets/000001.parquet", stat.S_IFLNK), b"/etc/passwd")], "a link"),
    "a linked table": ([GOOD, (member("sockets", stat.S_IFLNK), b"/etc")], "a link"),
    "a linked fact": ([(member("recording.json", stat.S_IFLNK), b"/etc/passwd")], "a link"),
    "a device": ([GOOD, (member("sockets/000001.parquet", stat.S_IFBLK), b"")], "a device"),
    "a pipe": ([GOOD, (member("x", stat.S_IFIFO), b"")], "a device"),
    "another zip": ([GOOD, ("more.ZIP", b"PK")], "another zip, 'more.ZIP': unpack it first"),
    "only a zip": ([("incident.zip", b"PK")], "another zip"),
    "two recordings": ([("a/recording.json", b"{}"), ("b/recording.json", b"{}")], "several"),
    "one in the other": ([GOOD, ("b/recording.json", b"{}")], "several recordings"),
    "too deep": ([("a/b/recording.json", b"{}")], "too deep: zip 'a/b/' alone"),
    "not a recording": ([("recording.json", b"[]")], "recording.json: not a sockrec recording"),
    "a file for a table": ([GOOD, ("sockets", b"x")], "no format version"),
    "a long name": ([GOOD, ("x" * 300 + ".parquet", b"x")], "no format version"),
    "parquet of others": ([("x.parquet", b"PAR1 x")], "x.parquet: not a Parquet file"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_zip_that_no_recorder_made_is_refused_in_one_line(
    case: str, tmp_path: Path, place: Path
) -> None:
    members, said = REFUSED[case]
    path = make(tmp_path / "x.zip", *members)
    before = {file for file in tmp_path.parent.rglob("*") if file.is_file()}
    with pytest.raises(SockrecError, match=said):
        open_recording(path)
    refusal(path)
    assert list(place.iterdir()) == []
    assert {file for file in tmp_path.parent.rglob("*") if file.is_file()} == before
    assert not Path("/tmp/evil").exists()


def test_a_name_that_ends_in_a_zero_byte_is_refused(tmp_path: Path, place: Path) -> None:
    path = make(tmp_path / "x.zip", GOOD, ("sockets/000001.parquet_.txt", b"x"))
    path.write_bytes(path.read_bytes().replace(b"parquet_", b"parquet\0"))
    assert "not plain" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_occurs_twice_is_refused(tmp_path: Path, place: Path) -> None:
    assert "occurs twice" in refusal(make(tmp_path / "x.zip", GOOD, GOOD))


def test_an_encrypted_zip_is_refused(tmp_path: Path, place: Path) -> None:
    path = make(tmp_path / "x.zip", GOOD)
    packed = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(magic) + at] |= 1
    path.write_bytes(packed)
    assert "is encrypted: unpack it first" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_may_take_any_memory_is_refused(
    method: int, tmp_path: Path, place: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as packed:
        packed.writestr("recording.json", b"{}" * 1000)
    assert "packed in a way that is not read here" in refusal(tmp_path / "x.zip")


def forged(path: Path, **fields: int) -> Path:
    """Change fields of the last file of the zip, in its own header and in the directory."""
    packed = bytearray(path.read_bytes())
    places = {"crc": (14, 16), "packed": (18, 20), "size": (22, 24), "offset": (None, 42)}
    for name, value in fields.items():
        local, central = places[name]
        struct.pack_into("<I", packed, packed.rindex(b"PK\x01\x02") + central, value)
        if local is not None:
            struct.pack_into("<I", packed, packed.rindex(b"PK\x03\x04") + local, value)
    path.write_bytes(packed)
    return path


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to(tmp_path: Path, place: Path) -> None:
    path = make(tmp_path / "x.zip", GOOD, ("sockets/000001.parquet", b"x"))
    assert "unpack to 4,294,967,282 are no recording" in refusal(forged(path, size=0xFFFFFFF0))
    assert list(place.iterdir()) == []


def test_a_file_gives_no_more_than_it_says(tmp_path: Path, place: Path) -> None:
    zeros = b"{}" + bytes(10 << 20)
    path = make(tmp_path / "x.zip", ("recording.json", zeros))
    forged(path, size=100)
    with pytest.raises(ArchiveError, match="damaged zip: Bad CRC-32"):
        unpack(path)
    assert list(place.iterdir()) == []


def test_a_file_gives_no_less_than_it_says(tmp_path: Path, place: Path) -> None:
    path = forged(make(tmp_path / "x.zip", GOOD), size=3)
    assert "not of the size" in refusal(path)
    assert list(place.iterdir()) == []


def test_files_that_share_their_bytes_are_refused(tmp_path: Path, place: Path) -> None:
    path = make(tmp_path / "x.zip", GOOD, ("sockets/000001.parquet", b"x" * 100))
    assert "overlap" in refusal(forged(path, offset=0))
    path = make(tmp_path / "y.zip", GOOD, ("sockets/000001.parquet", b"x" * 100))
    assert "overlap" in refusal(forged(path, packed=4000))
    assert list(place.iterdir()) == []


def test_a_directory_of_the_zip_that_is_too_large_is_not_read(tmp_path: Path, place: Path) -> None:
    path = make(tmp_path / "x.zip", GOOD)
    packed = path.read_bytes()
    end = packed.rindex(b"PK\x05\x06")
    filler = bytes(17 << 20)
    # Its directory begins with 17 MiB of nothing.
    directory = struct.pack("<II", end + len(filler) - packed.index(b"PK\x01\x02"), 0)
    path.write_bytes(packed[:end] + filler + packed[end : end + 12] + directory + b"\0\0")
    assert "its directory is too large" in refusal(path)


def test_too_many_files_are_refused(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    path = make(tmp_path / "x.zip", GOOD, *((f"f{n}", b"") for n in range(10)))
    assert "11 files in a zip are too many" in refusal(path)


def test_a_zip_larger_than_the_place_is_refused(
    recording: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(tmp_path / "r.zip", recording)
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    assert "20,000 free: point TMPDIR to a larger place" in refusal(packed)
    assert list(place.iterdir()) == []


def test_a_recording_of_zeros_is_no_bomb(tmp_path: Path, place: Path) -> None:
    """Journals of a quiet host are packed to a hundredth, and are still taken."""
    writer = Writer(tmp_path / "r")
    for _ in range(20):
        writer.sample([tcp(n) for n in range(2000)])
    packed = pack(tmp_path / "r.zip", tmp_path / "r")
    with Engine(open_recording(packed)) as engine:
        assert engine.table(COUNT).to_pylist() == [{"rows": 40_000, "last": 19}]


def test_any_damage_of_a_zip_is_a_known_error_or_harmless(
    recording: Path, tmp_path: Path, place: Path
) -> None:
    chance = random.Random(4)
    whole = pack(tmp_path / "r.zip", recording).read_bytes()
    damaged = tmp_path / "damaged.zip"
    directory = whole.index(b"PK\x01\x02")
    for turn in range(300):
        bytes_ = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            # Most of it in the directory, where it matters.
            at = chance.randrange(0 if turn % 3 == 0 else directory, len(whole))
            bytes_[at] = chance.randrange(256)
        damaged.write_bytes(bytes_[: chance.randrange(len(whole))] if turn % 10 == 0 else bytes_)
        try:
            open_recording(damaged).close()
        except SockrecError as error:
            assert str(error).isprintable(), error  # noqa: PT017 - both ends are right
        assert list(place.iterdir()) == []


def test_what_is_unpacked_goes_when_it_is_forgotten(
    recording: Path, tmp_path: Path, place: Path
) -> None:
    packed = pack(tmp_path / "r.zip", recording)
    opened = open_recording(packed)
    assert list(place.iterdir())
    del opened
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("how", ["exit", "error", "interrupt"])
def test_what_is_unpacked_goes_with_the_process(how: str, recording: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "r.zip", recording)
    place = tmp_path / "place"
    place.mkdir()
    does: dict[str, str] = {
        "exit": "pass",
        "error": "raise SystemExit(3)",
        "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    }
    code = (
        "import sys, pathlib\nfrom analyzer.reading.recording import open_recording\n"
        f"opened = open_recording({str(packed)!r})\n"
        f"assert list(pathlib.Path({str(place)!r}).iterdir())\n{does[how]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == {"exit": 0, "error": 3, "interrupt": -2}[how], done.stderr
    assert list(place.iterdir()) == []


def test_unpacking_that_fails_halfway_leaves_nothing(
    recording: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(tmp_path / "r.zip", recording)
    real: Callable[..., None] = archive._unpack_one
    calls = iter(range(100))

    def stop_at_the_third(*words: object) -> None:
        if next(calls) == 2:
            assert len([path for path in place.rglob("*") if path.is_file()]) == 2
            raise KeyboardInterrupt
        real(*words)

    monkeypatch.setattr(archive, "_unpack_one", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_recording(packed)
    assert list(place.iterdir()) == []
