"""Names for the numbers in a socket's row: users and interfaces."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.host.procfs import decode

PATIENCE_S = 0.05
"""How long a sample may wait for the names of users that are not in /etc/passwd."""

Mask = npt.NDArray[np.bool_]


def named_column(
    numbers: npt.NDArray[Any],
    names: Callable[[list[int]], Sequence[str | None]],
    valid: Mask | None = None,
) -> pa.DictionaryArray | None:
    """Return a text column of N rows from numbers; None if every row would be NULL.

    ``names`` gives the texts of distinct numbers, None for those that have none. Rows that are not
    ``valid`` are NULL.
    """
    if not numbers.size or (valid is not None and not valid.any()):
        return None
    if (numbers == numbers[0]).all():
        distinct, codes = [int(numbers[0])], np.zeros(numbers.size, np.int32)
    else:
        coded = pa.array(numbers).dictionary_encode()
        distinct, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    texts = names(distinct)
    known = np.array([text is not None for text in texts])
    if not known.all():
        found = known[codes]
        valid = found if valid is None else found & valid
        if not valid.any():
            return None
    mask = None if valid is None else ~valid
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, mask=mask), pa.array([text or "" for text in texts], pa.string())
    )


class Users:
    """The names of users, each looked up once.

    /etc/passwd is read here. Who is not in it is asked for by getpwuid(3), in another thread, as
    that may wait for a directory server: a sample waits `PATIENCE_S` for it and, once that was in
    vain, no more until the server has answered. Rows before the answer are NULL.
    """

    def __init__(
        self,
        passwd: Path = Path("/etc/passwd"),
        ask: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
    ) -> None:
        self._passwd = passwd
        self._version: tuple[int, int] | None = None
        self._ask = ask
        self._names: dict[int, str | None] = {}
        self._asked: set[int] = set()
        self._questions: SimpleQueue[int | threading.Event] | None = None
        self._answered = threading.Event()
        self._answered.set()

    def column(
        self, uids: npt.NDArray[np.uint32], valid: Mask | None = None
    ) -> pa.DictionaryArray | None:
        """Return the names of N users; NULL where there is none, None if there is none at all."""
        return named_column(uids, self.names, valid)

    def names(self, uids: Sequence[int]) -> list[str | None]:
        """Return the name of each user, None where there is none or no answer yet."""
        if any(uid not in self._names for uid in uids):
            self._read_passwd()
            unknown = [uid for uid in uids if uid not in self._names and uid not in self._asked]
            if unknown:
                self._question(unknown)
        return [self._names.get(uid) for uid in uids]

    def _read_passwd(self) -> None:
        with contextlib.suppress(OSError):
            found = self._passwd.stat()
            version = (found.st_ino, found.st_mtime_ns)
            if version == self._version:
                return
            for line in reversed(self._passwd.read_bytes().splitlines()):
                fields = line.split(b":")
                if len(fields) >= 3 and fields[2].isdigit():
                    self._names[int(fields[2])] = decode(fields[0])
            self._version = version

    def _question(self, uids: Sequence[int]) -> None:
        if self._questions is None:
            self._questions = SimpleQueue()
            thread = threading.Thread(target=self._answer, name="users", daemon=True)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                thread.start()  # inherits the mask
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        patient = self._answered.is_set()
        self._answered = threading.Event()
        self._asked.update(uids)
        for uid in uids:
            self._questions.put(uid)
        self._questions.put(self._answered)
        if patient:
            self._answered.wait(PATIENCE_S)

    def _answer(self) -> None:
        assert self._questions is not None
        while True:
            question = self._questions.get()
            if isinstance(question, threading.Event):
                question.set()
                continue
            try:
                self._names[question] = decode(os.fsencode(self._ask(question)))
            except (KeyError, OSError, OverflowError):
                self._names[question] = None


class Interfaces:
    """The names of interfaces in each network namespace.

    ``read`` gives index → name of namespaces, by inode number, or the OSError that it met. It is
    called at most once between two calls of `begin`, for the namespaces in which an index is not
    known, and for those whose names are ``refresh`` samples old: interfaces are renamed.
    """

    def __init__(
        self,
        read: Callable[[list[int]], Sequence[dict[int, str] | OSError]],
        *,
        refresh: int = 60,
    ) -> None:
        self._read = read
        self._refresh = refresh
        self._sample = 0
        self._names: dict[int, dict[int, str]] = {}
        self._read_in: dict[int, int] = {}  # namespace -> sample

    def begin(self) -> None:
        """Begin a sample."""
        self._sample += 1

    def forget(self, netns: int) -> None:
        """Forget a namespace that vanished: the kernel may use its number again."""
        self._names.pop(netns, None)
        self._read_in.pop(netns, None)

    def column(
        self,
        netns: npt.NDArray[np.uint64] | int,
        index: npt.NDArray[np.uint32],
        valid: Mask | None = None,
    ) -> pa.DictionaryArray | None:
        """Return the names of N interfaces by namespace, one or one for each row, and index.

        NULL where the index is 0 or not known; None if there is no name at all.
        """
        bound = index != 0 if valid is None else valid & (index != 0)
        if not bound.any():
            return None
        keys = np.zeros(index.size, np.uint64)
        np.copyto(keys, index, where=bound)
        keys |= (
            np.uint64(netns) << np.uint64(32) if isinstance(netns, int) else netns << np.uint64(32)
        )
        return named_column(keys, self._lookup, bound)

    def _lookup(self, keys: list[int]) -> list[str | None]:
        pairs = [(key >> 32, key & 0xFFFF_FFFF) for key in keys]
        self._update({netns for netns, index in pairs if index and self._is_due(netns, index)})
        return [self._names.get(netns, {}).get(index) for netns, index in pairs]

    def _is_due(self, netns: int, index: int) -> bool:
        age = self._sample - self._read_in.get(netns, -self._refresh)
        return age >= self._refresh or (age > 0 and index not in self._names.get(netns, {}))

    def _update(self, due: set[int]) -> None:
        if not due:
            return
        wanted = sorted(due)
        for netns, names in zip(wanted, self._read(wanted), strict=True):
            self._read_in[netns] = self._sample
            if not isinstance(names, OSError):
                self._names[netns] = names
