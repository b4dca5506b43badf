"""The directory of a recording that is written: ours, and reached by descriptors only.

Another user may exchange what a name means, or plant a link where a file is about to be made. So
the directory and each folder in it are opened once, checked to belong to who writes, and everything
is made, renamed and removed relative to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from recorder.format.files import LIST_FILE, TEMPORARY, named, open_regular, status
from recorder.schema import SockrecError

_LIBC = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h: Python has posix_fallocate only

LIST_ROOM = 64 << 10
"""Bytes that are taken on the disk for lines of the list to come."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryError(SockrecError):
    """The directory for the recording cannot be used."""


class InUseError(DirectoryError):
    """Another process writes in the recording."""


class Directory:
    """An open directory of a recording, or a folder in it; ``path`` serves messages only."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def make(cls, path: Path) -> Directory:
        """Make the directory of a new recording, readable by its owner only; it must be empty.

        Where that fails it is taken away again, if it was made here.
        """
        made = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                made = True
            directory = cls(path, _open_folder(path))
            try:
                directory.check_owner()
                directory.check_empty()
                os.fchmod(directory.descriptor, 0o700)
                directory.check_empty()  # what another put there meanwhile; no more can come
            except BaseException:
                directory.close()
                raise
        except OSError as error:
            if made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise DirectoryError(
                f"{path}: cannot make the recording here: {error.strerror}; give another with -o"
            ) from error
        return directory

    @classmethod
    def open(cls, path: Path) -> Directory:
        """Open a directory to write in. Raises DirectoryError if others may too, or OSError."""
        directory = cls(path, _open_folder(path))
        try:
            directory.check_owner()
            directory.check_mode()
        except BaseException:
            directory.close()
            raise
        return directory

    def check_owner(self) -> None:
        """Raise DirectoryError unless it is ours."""
        uid = status(self.descriptor, self.path).st_uid
        if uid != os.geteuid():
            raise DirectoryError(
                f"{self.path}: belongs to {_user(uid)}, not to {_user(os.geteuid())}, who would "
                "write there: give another directory, or run as its owner"
            )

    def check_mode(self) -> None:
        """Raise DirectoryError if others may put something there."""
        mode = stat.S_IMODE(status(self.descriptor, self.path).st_mode)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DirectoryError(
                f"{self.path}: others may write there (mode {mode:o}): chmod go-w it first"
            )

    def check_empty(self) -> None:
        """Raise DirectoryError unless nothing is in it."""
        if os.listdir(self.descriptor):
            raise DirectoryError(f"{self.path}: is not empty; give another directory with -o")

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @contextlib.contextmanager
    def folder(self, name: str, *, make: bool = False) -> Iterator[Directory]:
        """Open a folder in it, made readable by its owner only if need be."""
        path = self.path / name
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.descriptor)
        folder = Directory(path, _open_folder(path, self.descriptor))
        try:
            folder.check_owner()
            folder.check_mode()
            yield folder
        finally:
            folder.close()

    def names(self) -> list[str]:
        """Return the names of what is in it."""
        return os.listdir(self.descriptor)

    def exists(self, name: str) -> bool:
        """Tell whether there is something of that name."""
        try:
            self.status(name)
        except FileNotFoundError:
            return False
        return True

    def status(self, name: str) -> os.stat_result:
        """Return what lstat(2) says of a name in it. Raises OSError."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def create(self, name: str) -> int:
        """Make a file that is not there, readable by its owner only; return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o600, dir_fd=self.descriptor)
        except OSError as error:
            raise named(error, self.path / name) from error

    def create_temporary(self, name: str) -> int:
        """Make the file that will come to be ``name``, in place of one left by who died."""
        self.discard(name + TEMPORARY)
        return self.create(name + TEMPORARY)

    def place(self, name: str) -> None:
        """Give a temporary file its name, durably; it is synced already."""
        try:
            os.rename(
                name + TEMPORARY, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor
            )
            self.sync()
        except OSError as error:
            raise named(error, self.path / name) from error

    def discard(self, name: str) -> None:
        """Remove a file that is of no worth, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def open_regular(self, name: str) -> int:
        """Open a file in it to be read. Raises FileError or OSError."""
        return open_regular(self.path / name, directory=self.descriptor)

    def sync(self) -> None:
        """Make what was renamed and removed durable."""
        os.fsync(self.descriptor)


def _open_folder(path: Path, parent: int | None = None) -> int:
    try:
        return os.open(path if parent is None else path.name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise DirectoryError(
                f"{path}: is no directory, or a link to one: name what it leads to"
            ) from error
        raise named(error, path) from error


def open_list(directory: Directory) -> int:
    """Open the list of segments of a recording to append to it, and lock the recording by it.

    The lock is held until the descriptor, and each copy that other processes have of it, is closed,
    or they end. Raises InUseError if another process has it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    path = directory.path / LIST_FILE
    try:
        while True:
            file = os.open(LIST_FILE, flags, 0o600, dir_fd=directory.descriptor)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise DirectoryError(f"{path}: not a regular file")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), directory.status(LIST_FILE)):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # a shorter one took its place meanwhile
    except BlockingIOError as error:
        raise InUseError(
            f"{directory.path}: is being written, by a recorder or by recover: wait until it ends"
        ) from error
    except OSError as error:
        raise named(error, path) from error


def shorten_list(directory: Directory, lines: Iterable[bytes]) -> int:
    """Put a list of these lines in place of the one that is locked; return it, open and locked.

    Who waits for the lock of the one before finds that it is not the list any more.
    """
    file = directory.create_temporary(LIST_FILE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        for line in lines:
            append_line(file, line)
        directory.place(LIST_FILE)
    except BaseException:
        os.close(file)
        directory.discard(LIST_FILE + TEMPORARY)
        raise
    return file


def keep_room(listing: int) -> None:
    """Take space on the disk for lines to come, where the file system can and has some.

    What another process frees or takes meanwhile does not matter then.
    """
    size = os.fstat(listing).st_size
    _LIBC.fallocate(listing, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size + LIST_ROOM))


def append_line(listing: int, line: bytes) -> None:
    """Add a line to the list of segments, durably. Raises OSError, ENOSPC also if part of it fits.

    A line that is torn counts as damage, so that one that does not fit is taken back.
    """
    size = os.fstat(listing).st_size
    torn = size and os.pread(listing, 1, size - 1) != b"\n"
    line = b"\n" * bool(torn) + line
    written = os.write(listing, line)
    if written != len(line):
        if os.fstat(listing).st_size == size + written:
            os.ftruncate(listing, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), LIST_FILE)
    os.fsync(listing)


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
