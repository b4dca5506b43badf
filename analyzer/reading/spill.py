"""Private folders for temporary files, which the next command clears away if theirs was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

PREFIX = "sockrec-tmp-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MANY = 1 << 16


class Folder:
    """A new folder that nobody else may enter; it goes when it is removed or forgotten.

    Its lock dies with the process, so that another can tell a folder in use from one left behind.
    """

    def __init__(self) -> None:
        clear()
        self.path, self._lock = _make()
        self._remove = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())

    def remove(self) -> None:
        self._remove()


def clear() -> None:
    """Remove what killed commands of this user have left; what others own is not touched."""
    base = tempfile.gettempdir()
    with suppress(OSError):
        for name in os.listdir(base)[:_MANY]:
            if name.startswith(PREFIX):
                _clear_one(os.path.join(base, name))


def _clear_one(path: str) -> None:
    with suppress(OSError):
        folder = os.open(path, _OPEN)
        try:
            status = os.fstat(folder)
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(folder)
                os.rmdir(path)
        finally:
            os.close(folder)


def _make() -> tuple[Path, int]:
    """Return a folder and the descriptor that locks it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()  # mode 0700
        try:
            folder = os.open(path, _OPEN)
        except FileNotFoundError:  # another command took it for one left behind
            continue
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if os.fstat(folder).st_nlink and os.path.samestat(os.stat(path), os.fstat(folder)):
                return path, folder
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)


def _remove(path: Path, folder: int, owner: int) -> None:
    if os.getpid() != owner:  # a copy of the process, made by fork, ends before it
        return
    _empty(folder)
    with suppress(OSError):
        os.rmdir(path)
    os.close(folder)


def _empty(folder: int) -> None:
    """Remove all that is in a folder, wherever its name leads by now; follows no link."""
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
