"""Where an answer goes: to standard output, or whole or not at all into a file."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from recorder.schema import RECORDING_FILE, SockrecError

_MAX_LINKS = 40


class OutputError(SockrecError):
    """A file that may not, or cannot, be written."""


@contextmanager
def destination(path: Path | None, recordings: Collection[Path] = ()) -> Iterator[TextIO]:
    """Give standard output, or a new file that takes the name ``path`` when the block is done.

    Neither a recording nor anything within one is ever written. A device or a pipe is written as
    it is. Raises OutputError.
    """
    if path is None:
        # What the locale cannot write must not end in a traceback.
        if reconfigure := getattr(sys.stdout, "reconfigure", None):
            reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    try:
        _check_links(path)
        with _opened(path) if _is_special(path) else _renamed(_checked(path, recordings)) as file:
            yield file
    except OSError as error:
        if error.filename is None:  # of the query, or of a closed pipe
            raise
        raise OutputError(f"{path}: {error.strerror}") from error


def _check_links(path: Path) -> None:
    """Refuse a link of another user, who would choose which file of ours is replaced."""
    here, left, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while left:
        here /= left.pop()
        try:
            status = here.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISLNK(status.st_mode):
            continue
        if status.st_uid not in (0, os.geteuid()):
            raise OutputError(f"{path}: {here} is a link of another user: name the file itself")
        links += 1
        if links > _MAX_LINKS:
            raise OutputError(f"{path}: {os.strerror(errno.ELOOP)}")
        to = Path(os.readlink(here))
        # What a descriptor in /proc stands for has no name that could be another's.
        here = Path("/") if to.is_absolute() else here.parent
        left += reversed(to.parts[1:] if to.is_absolute() else to.parts)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _checked(path: Path, recordings: Collection[Path]) -> Path:
    """Return the file itself, unless it is or is in a recording, or is a directory."""
    target = path.resolve()
    if target.is_dir():
        raise OutputError(f"{path}: is a directory: name a file")
    own = {recording.resolve() for recording in recordings}
    # A segment is two floors below the directory of its recording, given or not.
    near = any((folder / RECORDING_FILE).exists() for folder in target.parents[:2])
    if near or not own.isdisjoint((target, *target.parents)):
        raise OutputError(f"{path}: belongs to a recording: name a file elsewhere")
    return target


def _opened(path: Path) -> TextIO:
    """Open a device or a pipe, which another user has not put there to read what we write."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    status = os.fstat(file)
    if stat.S_ISFIFO(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        os.close(file)
        raise OutputError(f"{path}: is a pipe of another user: name a file of your own")
    return os.fdopen(file, "w", encoding="utf-8", newline="")


@contextmanager
def _renamed(target: Path) -> Iterator[TextIO]:
    """Give a file beside the target that replaces it when the block is done."""
    beside = target.with_name(f".{target.name[:50]}.{os.getpid()}.part")
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    with _closing(beside.open("x", encoding="utf-8", newline=""), beside) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        yield file
    os.replace(beside, target)


@contextmanager
def _closing(file: TextIO, path: Path) -> Iterator[TextIO]:
    """Close the file; remove it if the block, or closing it, fails."""
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise
