"""The files of a recording: their names, and opening them, never through a link or a pipe."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from recorder.schema import JOURNAL_SUFFIX, RECORDING_FILE, SEGMENT_SUFFIX, SockrecError

TEMPORARY = ".tmp"
"""What is being written is named so, beside its place; no reader looks at it."""

LIST_FILE = "segments.jsonl"
"""The list of what was sealed: recorder.format.segments."""

DAMAGED = "damaged"
"""The folder of the journals that were put aside, because something behind a damage is in them."""

_NUMBERED = re.compile(
    rf"(\d{{6,18}})({re.escape(JOURNAL_SUFFIX)}|{re.escape(SEGMENT_SUFFIX)})", re.ASCII
)


class FileError(SockrecError):
    """A file that is not what its place in a recording asks for."""


def journal_name(number: int) -> str:
    """Return the name of the journals of a number, each in the folder of its table."""
    return f"{number:06d}{JOURNAL_SUFFIX}"


def segment_name(number: int) -> str:
    """Return the name of the segments of a number, each in the folder of its table."""
    return f"{number:06d}{SEGMENT_SUFFIX}"


def number_of(name: str, suffix: str | None = None) -> int | None:
    """Return the number in the name of a journal or segment, None if it is neither.

    With ``suffix``, only of one of them.
    """
    match = _NUMBERED.fullmatch(name)
    if match is None or suffix not in (None, match[2]) or f"{int(match[1]):06d}" != match[1]:
        return None
    return int(match[1])


def open_regular(path: Path, *, directory: int | None = None, follow: bool = False) -> int:
    """Open a regular file to be read, and return its descriptor; never waits.

    ``directory`` is a descriptor of the folder it is in, to be taken instead of the folder's name.
    Raises FileError for a link (unless ``follow``), a pipe or a device; OSError names the path.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        file = os.open(path if directory is None else path.name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise FileError(f"{path}: is a symbolic link") from error
        raise named(error, path) from error
    try:
        if not stat.S_ISREG(status(file, path).st_mode):
            raise FileError(f"{path}: not a regular file")
    except BaseException:
        os.close(file)
        raise
    return file


def status(file: int, path: Path) -> os.stat_result:
    """Return what the kernel says of an open file. OSError names the path."""
    try:
        return os.fstat(file)
    except OSError as error:
        raise named(error, path) from error


def read_whole(path: Path, most: int, *, directory: int | None = None) -> bytes:
    """Return what is in a regular file of at most so many bytes. Raises FileError or OSError."""
    file = open_regular(path, directory=directory)
    try:
        size = status(file, path).st_size
        if size > most:
            raise FileError(f"{path}: {size:,} bytes are too many, {most:,} at most are read")
        return read_range(file, 0, min(size, most), path)
    finally:
        os.close(file)


def read_range(file: int, start: int, size: int, path: Path) -> bytes:
    """Return the bytes of a file from ``start`` on, fewer only where it ends. OSError names it."""
    pieces = []
    while size > 0:
        try:
            piece = os.pread(file, size, start)
        except OSError as error:
            raise named(error, path) from error
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def named(error: OSError, path: Path) -> OSError:
    """Return the same error with the whole path in it."""
    number = error.errno or 0
    return OSError(number, error.strerror or os.strerror(number), str(path))


def recording_file(directory: Path) -> Path:
    """Return where recording.json is."""
    return directory / RECORDING_FILE
