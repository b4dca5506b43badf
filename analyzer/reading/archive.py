"""Recordings in a zip file: what is known by name is unpacked into a private folder, or nothing."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzer.reading.spill import Folder
from recorder.format.files import LIST_FILE
from recorder.schema import JOURNAL_SUFFIX, RECORDING_FILE, SEGMENT_SUFFIX, TABLES, SockrecError

MAX_MEMBERS = 1 << 17
MAX_RATIO = 100
"""How many times the size of the zip it may unpack to; one that stays small may do worse."""
SMALL = 1 << 30

SEAL = b"sockrec sha256 "
"""Of a bundle the comment begins so; the SHA-256 of all bytes before the digits follows."""

SEAL_DIGITS = 64

MANIFEST = "sockrec-bundle/MANIFEST.json"
"""The last file of a bundle."""

_TAIL = 4096

# Python reads the directory of a zip in one piece, and makes an object of every 46 bytes.
_MAX_READ = 16 << 20
_CHUNK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_KNOWN = re.compile(
    rf"(?:{'|'.join(TABLES)})/\d{{6,18}}(?:{re.escape(SEGMENT_SUFFIX)}|{re.escape(JOURNAL_SUFFIX)})",
    re.ASCII,
)
_DRIVE = re.compile(r"[A-Za-z]:")


class ArchiveError(SockrecError):
    """A zip file that holds no recording, or one that had better not be unpacked."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A private folder with what was in a zip file; it goes when this is closed or forgotten.

    ``files`` names what was unpacked: path → name in the zip. ``whole`` tells a recording from
    Parquet files alone.
    """

    private: Folder
    files: Mapping[Path, str]
    whole: bool

    @property
    def folder(self) -> Path:
        return self.private.path

    def close(self) -> None:
        self.private.remove()

    def original(self, text: str, archive: Path) -> str:
        """Return a message with the names that the user knows in place of the unpacked ones."""
        for path, name in self.files.items():
            text = text.replace(str(path), f"{archive}/{name}")
        return text.replace(str(self.folder), str(archive))


class _Reader(io.BufferedReader):
    """A file of which no more than a certain piece is read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # only the end of the file is read so, 64 KiB at most
            return super().read(_MAX_READ)
        if size > _MAX_READ:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size)


def is_zip(path: Path) -> bool:
    """Tell whether a regular file begins as a zip does; never waits. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        return regular and os.pread(file, 4, 0) in (b"PK\x03\x04", b"PK\x05\x06")
    finally:
        os.close(file)


def seal_is_broken(path: Path) -> bool | None:
    """Tell whether a bundle has bytes that were not written so; None if the zip is no bundle.

    Raises OSError.
    """
    digest, tail = hashlib.sha256(), b""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size - SEAL_DIGITS
        while size > 0 and (piece := file.read(min(_CHUNK, size))):
            digest.update(piece)
            size -= len(piece)
            tail = (tail + piece)[-_TAIL:]
        digits = file.read()
    if size or not tail.endswith(SEAL):
        # The seal itself may be what changed.
        return True if MANIFEST.encode() in tail else None
    return digits != digest.hexdigest().encode()


def unpack(path: Path) -> Unpacked:
    """Unpack a zip of a recording, or of Parquet files. Raises ArchiveError or OSError.

    Nothing is left behind when it fails, and nothing ever written outside the private folder.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with _Reader(io.FileIO(file)) as reader, zipfile.ZipFile(reader) as archive:
            wanted, whole = _choose(path, archive.infolist())
            size = os.fstat(file).st_size
            _check_sizes(path, size, list(wanted.values()))
            _check_overlap(path, file, archive.start_dir, list(wanted.values()))
            return _unpack(path, archive, wanted, whole)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        LookupError,
        ValueError,
        OverflowError,
        MemoryError,
        RuntimeError,
    ) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"{path}: damaged zip: {what}") from error


def _choose(
    path: Path, members: Sequence[zipfile.ZipInfo]
) -> tuple[dict[str, zipfile.ZipInfo], bool]:
    """Return what is to be unpacked by the name it gets, and whether that is a recording."""
    if len(members) > MAX_MEMBERS:
        raise ArchiveError(f"{path}: {len(members):,} files in a zip are too many")
    names: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        _check_member(path, member)
        if member.filename in names:
            raise ArchiveError(f"{path}: {_told(member.filename)} occurs twice in it")
        names[member.filename] = member
    files = {name: member for name, member in names.items() if not _ignored(name)}
    if nested := next((name for name in files if name.lower().endswith(".zip")), None):
        raise ArchiveError(f"{path}: holds another zip, {_told(nested)}: unpack it first")
    marks = [name for name in files if name.rpartition("/")[2] == RECORDING_FILE]
    if len(marks) > 1:
        raise ArchiveError(
            f"{path}: holds several recordings, {_told(marks[0])} and {_told(marks[1])}: "
            "unpack it and name one"
        )
    if marks:
        folder = marks[0].removesuffix(RECORDING_FILE)
        if folder.count("/") > 1:
            raise ArchiveError(f"{path}: its recording lies too deep: zip {_told(folder)} alone")
        inside = {
            name.removeprefix(folder): member
            for name, member in files.items()
            if name.startswith(folder)
        }
        return {
            name: member
            for name, member in inside.items()
            if name in (RECORDING_FILE, LIST_FILE) or _KNOWN.fullmatch(name)
        }, True
    # Their order by name is kept: the last one tells what the recording came to be.
    segments = sorted(
        (name for name in files if name.endswith(SEGMENT_SUFFIX)),
        key=lambda name: (name.rpartition("/")[2], name),
    )
    if not segments:
        raise ArchiveError(f"{path}: not a sockrec recording: no {RECORDING_FILE} in this zip")
    return {f"{n:06d}{SEGMENT_SUFFIX}": files[name] for n, name in enumerate(segments, 1)}, False


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse what no honest zip holds, whether it is wanted or not."""
    name, told = member.filename, _told(member.orig_filename)
    if member.orig_filename != name or not name.isprintable() or "\\" in name or _DRIVE.match(name):
        raise ArchiveError(f"{path}: holds a file of a name that is not plain: {told}")
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        raise ArchiveError(f"{path}: holds a file that would lie outside: {told}")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{path}: {told} in it is a link or a device")
    if member.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"{path}: is encrypted: unpack it first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{path}: {told} is packed in a way that is not read here: unpack it")


def _ignored(name: str) -> bool:
    """Tell folders and what a Mac adds from files."""
    return name.endswith("/") or name.rpartition("/")[2].startswith(".")


def _check_sizes(path: Path, size: int, members: Sequence[zipfile.ZipInfo]) -> None:
    total = sum(member.file_size for member in members)
    if total > max(SMALL, MAX_RATIO * size):
        raise ArchiveError(
            f"{path}: {size:,} bytes that unpack to {total:,} are no recording: if it is one, "
            "unpack it and name the directory"
        )
    base = tempfile.gettempdir()
    # The other half is left to the queries.
    free = shutil.disk_usage(base).free
    if total > free // 2:
        raise ArchiveError(
            f"{path}: it unpacks to {total:,} bytes, {base} has {free:,} free: point TMPDIR to a "
            "larger place, or unpack it and name the directory"
        )


def _check_overlap(path: Path, file: int, end: int, members: Sequence[zipfile.ZipInfo]) -> None:
    """Check that no byte of the zip belongs to two files: so do the worst of bombs."""
    previous = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        start = member.header_offset
        magic, name, extra = _LOCAL_HEADER.unpack(os.pread(file, _LOCAL_HEADER.size, max(0, start)))
        if magic != b"PK\x03\x04" or start < previous:
            raise zipfile.BadZipFile("its files overlap")
        previous = start + _LOCAL_HEADER.size + name + extra + member.compress_size
    if previous > end:
        raise zipfile.BadZipFile("its files overlap")


def _unpack(
    path: Path, archive: zipfile.ZipFile, wanted: Mapping[str, zipfile.ZipInfo], whole: bool
) -> Unpacked:
    private = Folder()
    unpacked = Unpacked(
        private, {private.path / name: member.filename for name, member in wanted.items()}, whole
    )
    try:
        for place, member in zip(unpacked.files, wanted.values(), strict=True):
            place.parent.mkdir(mode=0o700, exist_ok=True)
            _unpack_one(path, archive, member, place)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _unpack_one(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    """Write one file, never more than it says to be."""
    written = 0
    with archive.open(member) as source, to.open("xb") as target:
        while piece := source.read(_CHUNK):
            written += len(piece)
            if written > member.file_size:
                break
            target.write(piece)
    if written != member.file_size:
        raise ArchiveError(
            f"{path}: {_told(member.filename)} is not of the size that the zip says: damaged?"
        )


def _told(name: str) -> str:
    """Return a name from the zip as a message may show it."""
    return repr(name if len(name) <= 60 else name[:60] + "…")
