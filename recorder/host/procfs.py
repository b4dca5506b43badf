"""One process as /proc shows it: its name, whether it ran, the sockets in its descriptor tables."""

import ctypes
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

GONE = (FileNotFoundError, ProcessLookupError)
"""What opening or reading anything below /proc/PID raises once the process is no more."""

COMMAND_LINE_LIMIT = 4096

_PF_KTHREAD = 0x0020_0000  # include/linux/sched.h
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat, proc_pid_stat(5), counted from "state" (field 3) = 0.
_STATE, _FLAGS, _THREADS, _START = 0, 6, 17, 19
_START_CODE, _START_STACK, _ARGUMENTS_START, _ARGUMENTS_END = 23, 25, 45, 46

# A row of /proc/PID/limits, fs/proc/base.c: the soft limit, then the hard one.
_DESCRIPTOR_LIMIT = b"\nMax open files "

_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}.get(
    os.uname().machine
)
_KCMP_FILES = 2  # include/uapi/linux/kcmp.h


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says of a process, in the parts that tell one process from another."""

    start_us: int  # since boot
    comm: str
    threads: int
    leader_dead: bool  # its first thread ended, others live
    empty: bool  # a kernel thread or a zombie: it has no descriptors
    image: tuple[bytes, ...]  # addresses that an exec changes; empty when they cannot be seen


@dataclass(frozen=True, slots=True)
class Table:
    """One descriptor table as it was read."""

    inodes: list[int]
    fds: list[int]
    size: int  # its number of descriptors; -1 when it changed while it was read


class ProcessDirectory:
    """Hold one /proc/PID, so that everything read through it belongs to the same process.

    Once that process is gone every read raises one of `GONE`, even if its pid is in use again.
    """

    def __init__(self, proc: int, pid: int) -> None:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._directory = os.open(str(pid), flags, dir_fd=proc)
        self._pid = pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    def stat(self) -> Stat:
        """Read /proc/PID/stat."""
        return parse_stat(read_file(self._directory, "stat", 4096))

    def command_line(self) -> str:
        """Read the arguments, a blank between two, at most `COMMAND_LINE_LIMIT` bytes of them."""
        raw = read_file(self._directory, "cmdline", COMMAND_LINE_LIMIT)
        return decode(raw.rstrip(b"\0").replace(b"\0", b" "))

    def executable(self) -> str | None:
        """Return the path behind /proc/PID/exe, None when there is none or it may not be read."""
        try:
            return decode(os.readlink(b"exe", dir_fd=self._directory))
        except OSError:
            return None

    def cgroup(self) -> bytes:
        """Return /proc/PID/cgroup, empty when it may not be read or the kernel has no cgroups.

        It has a line for each hierarchy, and no limit.
        """
        try:
            return read_whole_file(self._directory, "cgroup")
        except OSError:
            return b""

    def uid(self) -> int | None:
        """Return the effective user id, None when it may not be read."""
        try:
            status = read_file(self._directory, "status", 4096)
        except PermissionError:
            return None
        for line in status.splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[2])
        return None

    def descriptor_limit(self) -> int | None:
        """Return the soft limit of open descriptors, None when it may not be read."""
        try:
            limits = read_file(self._directory, "limits", 4096)
        except OSError:
            return None
        soft = limits.partition(_DESCRIPTOR_LIMIT)[2].split(maxsplit=1)[:1]
        return int(soft[0]) if soft and soft[0].isdigit() else None

    def tables(self, stat: Stat, *, sized: bool, kcmp: bool) -> tuple[str, ...]:
        """Return one path, below /proc/PID, for each descriptor table that the threads use.

        Threads nearly always share one. One that called unshare(CLONE_FILES) has its own, and the
        table of a leader that ended is only reachable by the threads that live on. Without kcmp(2)
        two tables of equal size are taken for one.
        """
        if stat.threads <= 1 and not stat.leader_dead:
            return ("fd",)
        threads = sorted(list_directory(self._directory, "task"), key=int)
        if stat.leader_dead:
            threads = [thread for thread in threads if thread != str(self._pid)]
        found = self._tables_by_kcmp(threads) if kcmp else None
        if found is None:
            found = self._tables_by_size(threads, sized)
        leader = str(self._pid)
        return tuple("fd" if thread == leader else f"task/{thread}/fd" for thread in found)

    def read_table(self, path: str, *, sized: bool) -> Table:
        """Read every descriptor of the table at a path returned by `tables`."""
        directory = os.open(path, _LISTING, dir_fd=self._directory)
        try:
            before = os.fstat(directory).st_size
            names = os.listdir(directory)
            inodes, fds, vanished = _read_links(directory, names)
            after = os.fstat(directory).st_size
        finally:
            os.close(directory)
        changed = vanished or (sized and not before == len(names) == after)
        return Table(inodes, fds, -1 if changed else len(names))

    def _tables_by_kcmp(self, threads: Sequence[str]) -> list[str] | None:
        first_of_table: list[str] = []
        for thread in threads:
            for known in first_of_table:
                order = compare_tables(int(known), int(thread))
                if order is None:
                    return None
                if order == 0:
                    break
            else:
                first_of_table.append(thread)
        return first_of_table

    def _tables_by_size(self, threads: Sequence[str], sized: bool) -> list[str]:
        first_of_size: dict[int, str] = {}
        for thread in threads:
            path = f"task/{thread}/fd"
            try:
                size = (
                    os.stat(path, dir_fd=self._directory).st_size
                    if sized
                    else len(list_directory(self._directory, path))
                )
            except GONE:
                continue
            first_of_size.setdefault(size, thread)
        return list(first_of_size.values())


def parse_stat(line: bytes) -> Stat:
    """Decode a /proc/PID/stat line; the name in it may contain any byte, parentheses included."""
    opening, closing = line.index(b"("), line.rindex(b")")
    fields = line[closing + 2 :].split()
    image = tuple(
        fields[place]
        for place in (_START_CODE, _START_STACK, _ARGUMENTS_START, _ARGUMENTS_END)
        if place < len(fields)
    )
    threads = int(fields[_THREADS])
    dead = fields[_STATE] in (b"Z", b"X")
    return Stat(
        start_us=int(fields[_START]) * 1_000_000 // _TICKS_PER_SECOND,
        comm=decode(line[opening + 1 : closing]),
        threads=threads,
        leader_dead=dead and threads > 1,
        empty=bool(int(fields[_FLAGS]) & _PF_KTHREAD) or (dead and threads <= 1),
        image=image if any(field not in (b"0", b"1") for field in image) else (),
    )


def runs(proc: int, pid: int, threads: int) -> bytes | None:
    """Return how long and how often each thread ran: while it stays equal, none has run.

    A descriptor table only changes by a thread that uses it. None when the kernel does not say.
    """
    try:
        if threads <= 1:
            record = read_file(proc, f"{pid}/schedstat", 128)
        else:
            record = b"".join(
                thread.encode() + b" " + read_file(proc, f"{pid}/task/{thread}/schedstat", 128)
                for thread in list_directory(proc, f"{pid}/task")
            )
    except OSError:
        return None
    return None if record.startswith(b"0 0 0") else record


def read_file(directory: int, path: str, limit: int) -> bytes:
    """Read the first bytes of a file below an open directory."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, limit)
    finally:
        os.close(file)


def read_whole_file(directory: int, path: str) -> bytes:
    """Read a file below an open directory, of which one read may give a part only."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
        return file.read()


def list_directory(directory: int, path: str) -> list[str]:
    """Return the names in a directory below an open one."""
    opened = os.open(path, _LISTING, dir_fd=directory)
    try:
        return os.listdir(opened)
    finally:
        os.close(opened)


def compare_tables(first: int, second: int) -> int | None:
    """Return 0 when two threads use the same descriptor table, None when the kernel won't say.

    kcmp(2) with KCMP_FILES; a thread that is gone differs from every other.
    """
    if _SYS_KCMP is None:
        return None
    arguments = (_SYS_KCMP, first, second, _KCMP_FILES, 0, 0)
    order = int(_LIBC.syscall(*map(ctypes.c_long, arguments)))
    if order < 0:
        return 1 if ctypes.get_errno() == errno.ESRCH else None
    return order


def same_pids(proc: int) -> bool:
    """Tell whether the pids below a /proc are those that a system call of this process means."""
    try:
        status = read_file(proc, "self/status", 4096)
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith(b"NSpid:"):
            return line.split()[1:] == [str(os.getpid()).encode()]
    return False


def shows_sizes(proc: int) -> bool:
    """Tell whether the size of /proc/PID/fd is its number of descriptors, as of Linux 6.2."""
    try:
        is_procfs = b"NSpid:" in read_file(proc, "self/status", 4096)
        return is_procfs and os.stat("self/fd", dir_fd=proc).st_size > 0
    except OSError:
        return False


def _read_links(directory: int, names: list[str]) -> tuple[list[int], list[int], int]:
    vanished = 0
    fds: list[str] = []
    inodes: list[str] = []
    readlink, remaining = os.readlink, iter(names)
    while True:
        try:
            for name in remaining:
                link = readlink(name, dir_fd=directory)
                if link.startswith("socket:["):
                    fds.append(name)
                    inodes.append(link[8:-1])
        except FileNotFoundError:  # closed since it was listed
            vanished += 1
            continue
        return list(map(int, inodes)), list(map(int, fds)), vanished


def decode(raw: bytes) -> str:
    """Decode text that any process may choose: every byte stays visible, none is lost."""
    return raw.decode("utf-8", "backslashreplace")
