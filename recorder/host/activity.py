"""What a process is doing, as /proc shows it: its state, its CPU time, where its threads wait."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from recorder.host.procfs import GONE, decode, list_directory, read_file

MOST_THREADS = 512
"""Threads at most of which each is looked at."""

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat, proc_pid_stat(5), counted from "state" (field 3) = 0.
_STATE, _UTIME, _STIME, _THREADS, _START, _RSS = 0, 11, 12, 17, 19, 21

# The system calls that a thread may wait in for long, arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h.
_X86_64 = {
    0: "read",
    1: "write",
    7: "poll",
    16: "ioctl",
    17: "pread64",
    18: "pwrite64",
    19: "readv",
    20: "writev",
    23: "select",
    24: "sched_yield",
    34: "pause",
    35: "nanosleep",
    40: "sendfile",
    42: "connect",
    43: "accept",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    56: "clone",
    58: "vfork",
    61: "wait4",
    65: "semop",
    72: "fcntl",
    73: "flock",
    74: "fsync",
    75: "fdatasync",
    128: "rt_sigtimedwait",
    130: "rt_sigsuspend",
    202: "futex",
    219: "restart_syscall",
    220: "semtimedop",
    230: "clock_nanosleep",
    232: "epoll_wait",
    247: "waitid",
    257: "openat",
    262: "newfstatat",
    270: "pselect6",
    271: "ppoll",
    281: "epoll_pwait",
    288: "accept4",
    299: "recvmmsg",
    307: "sendmmsg",
    426: "io_uring_enter",
    435: "clone3",
    441: "epoll_pwait2",
    449: "futex_waitv",
}
_GENERIC = {
    22: "epoll_pwait",
    25: "fcntl",
    29: "ioctl",
    32: "flock",
    56: "openat",
    63: "read",
    64: "write",
    65: "readv",
    66: "writev",
    67: "pread64",
    68: "pwrite64",
    71: "sendfile",
    72: "pselect6",
    73: "ppoll",
    79: "newfstatat",
    82: "fsync",
    83: "fdatasync",
    95: "waitid",
    98: "futex",
    101: "nanosleep",
    115: "clock_nanosleep",
    124: "sched_yield",
    128: "restart_syscall",
    133: "rt_sigsuspend",
    137: "rt_sigtimedwait",
    192: "semtimedop",
    193: "semop",
    202: "accept",
    203: "connect",
    206: "sendto",
    207: "recvfrom",
    211: "sendmsg",
    212: "recvmsg",
    220: "clone",
    242: "accept4",
    243: "recvmmsg",
    260: "wait4",
    269: "sendmmsg",
    426: "io_uring_enter",
    435: "clone3",
    441: "epoll_pwait2",
    449: "futex_waitv",
}
_SYSCALLS: Mapping[str, Mapping[int, str]] = {
    "x86_64": _X86_64,
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}
_NAMES = _SYSCALLS.get(os.uname().machine, {})

_BELOW_4_GIB = 1 << 32
"""A stack there is that of a 32-bit program, whose system calls have other numbers."""


@dataclass(frozen=True, slots=True)
class Activity:
    """One look at a process; times are its CPU times so far."""

    start_us: int
    state: str
    threads: int
    utime_us: int
    stime_us: int
    rss_bytes: int

    @property
    def cpu_us(self) -> int:
        return self.utime_us + self.stime_us


@dataclass(frozen=True, slots=True)
class Waits:
    """What the threads of a process are in; None is what may not be read.

    ``syscall`` is that of most threads, ``wchan`` of one of these, or of one in state D.
    """

    running: int
    blocked: int
    syscall: str | None
    syscall_threads: int | None
    wchan: str | None


def read_activity(proc: int, pid: int) -> Activity:
    """Read /proc/PID/stat below an open /proc. Raises one of GONE, or PermissionError."""
    line = read_file(proc, f"{pid}/stat", 1024)
    fields = line[line.rindex(b")") + 2 :].split()
    return Activity(
        start_us=int(fields[_START]) * _TICK_US,
        state=fields[_STATE].decode(),
        threads=int(fields[_THREADS]),
        utime_us=int(fields[_UTIME]) * _TICK_US,
        stime_us=int(fields[_STIME]) * _TICK_US,
        rss_bytes=int(fields[_RSS]) * _PAGE,
    )


def read_thread_times(proc: int, pid: int, threads: int) -> dict[int, int] | None:
    """Return the CPU time of each thread so far in microseconds, by its number.

    None if there are more than MOST_THREADS, or the kernel does not tell.
    """
    if threads > MOST_THREADS:
        return None
    times = {}
    for thread, _, text in _of_threads(proc, pid, "schedstat"):
        times[thread] = int(text.split(maxsplit=1)[0]) // 1000
    return times or None


def read_thread_name(proc: int, pid: int, thread: int) -> str | None:
    """Return the name of a thread, None if it is gone."""
    try:
        return decode(read_file(proc, f"{pid}/task/{thread}/comm", 64).rstrip(b"\n"))
    except OSError:
        return None


def read_waits(proc: int, pid: int, threads: int) -> Waits | None:
    """Look at where each thread of a process waits; None if there are more than MOST_THREADS."""
    if threads > MOST_THREADS:
        return None
    states: Counter[bytes] = Counter()
    calls: dict[str, list[str]] = {}
    stuck: list[str] = []
    for _, path, text in _of_threads(proc, pid, "stat"):
        state = text[text.rindex(b")") + 2 :][:1]
        states[state] += 1
        if state == b"D":
            stuck.append(path)
        elif state != b"R" and (call := _syscall(proc, path)) is not None:
            calls.setdefault(call, []).append(path)
    # of as many the first by name, so that it stays the same
    most = max(sorted(calls), key=lambda call: len(calls[call]), default=None)
    among = [*stuck, *(calls[most] if most is not None else [])]
    return Waits(
        running=states[b"R"],
        blocked=states[b"D"],
        syscall=most,
        syscall_threads=len(calls[most]) if most is not None else None,
        wchan=read_wchan(proc, among[0] if among else f"{pid}"),
    )


def read_wchan(proc: int, path: str) -> str | None:
    """Return the kernel's function that a process or thread waits in, None if it is not told."""
    try:
        name = read_file(proc, f"{path}/wchan", 128)
    except OSError:
        return None
    return decode(name) if name not in (b"", b"0") else None


def _syscall(proc: int, path: str) -> str | None:
    """Return the system call that a thread waits in, None if it may not be read or is in none."""
    try:
        fields = read_file(proc, f"{path}/syscall", 256).split()
    except OSError:
        return None
    if len(fields) < 3 or fields[0] == b"-1":
        return None
    if int(fields[-2], 16) < _BELOW_4_GIB:
        return None
    number = int(fields[0])
    return _NAMES.get(number, str(number))


def _of_threads(proc: int, pid: int, name: str) -> Iterator[tuple[int, str, bytes]]:
    """Yield number, path and what a file says of each thread there is."""
    for thread in list_directory(proc, f"{pid}/task"):
        path = f"{pid}/task/{thread}"
        try:
            yield int(thread), path, read_file(proc, f"{path}/{name}", 1024)
        except GONE:
            continue
