"""Runs tests alone: whatever is inherited, and whatever else the host does, does not show.

    python tests/alone.py ARGUMENT...

runs this Python with these arguments. Where root may, it does so in network, mount, process, IPC
and host name namespaces of its own: no interface but a loopback, no network namespace with a name,
in /proc no process of others. Without root only what is inherited is reset.

So tests.plugin starts pytest, and each worker of pytest-xdist once more, so that no worker sees
what another one does.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import NoReturn

ALONE = "SOCKREC_TESTS_ALONE"
"""Set in the environment of what runs alone."""

OPEN_FILES = 4096

# include/uapi/linux/sched.h, mount.h, prctl.h, sockios.h and if.h
_CLONE_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_MS_PRIVATE, _MS_REC, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1 << 18, 1 << 14, 2, 4, 8
_PR_SET_PDEATHSIG = 1
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def reset() -> None:
    """Take back what a shell, a service manager or a CI runner may have changed for us.

    A shell that is not interactive lets what it puts into the background ignore SIGINT and SIGQUIT.
    """
    pythons = {signal.SIGPIPE, signal.SIGXFSZ}  # it ignores these itself
    for number in signal.valid_signals() - pythons:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for name in [*os.environ]:
        if name in ("LANG", "LANGUAGE", "TZ") or name.startswith("LC_"):
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"


def _check(answer: int, what: str) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(kind: bytes, target: bytes, flags: int, data: bytes | None = None) -> None:
    _check(_libc.mount(b"none", target, kind, flags, data), f"mount on {os.fsdecode(target)}")


def _init(work: Callable[[], object]) -> int:
    """Be the first process of new namespaces: set them up, let a child work, bury the orphans."""
    _mount(b"", b"/", _MS_REC | _MS_PRIVATE)
    _mount(b"proc", b"/proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.makedirs("/run/netns", exist_ok=True)
    _mount(b"tmpfs", b"/run/netns", 0, b"mode=755")
    with socket.socket() as some:
        fcntl.ioctl(some, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    with open("/proc/sys/net/ipv4/tcp_rfc1337", "w") as file:
        file.write("1")  # a FIN repeated by a busy machine would end what is in TIME-WAIT
    worker = _fork(work)
    while True:
        pid, status = os.wait()
        if pid == worker:
            return _code(status)


def _fork(work: Callable[[], object]) -> int:
    """Let a child work, which is killed if this process ends first; return its number."""
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        answer = work()
        code = answer if isinstance(answer, int) else 0
    except OSError as error:
        print(f"tests/alone.py: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _set_apart(work: Callable[[], object]) -> int:
    """Let a child work in new namespaces; return how it ended."""
    _check(_libc.unshare(_CLONE_NEW), "unshare")
    return _code(os.waitpid(_fork(lambda: _init(work)), 0)[1])


def _may_be_set_apart() -> bool:
    if os.geteuid() != 0:
        return False
    probe = _fork(lambda: _set_apart(lambda: 0))
    return _code(os.waitpid(probe, 0)[1]) == 0


def run(*arguments: str) -> NoReturn:
    """Run this Python with these arguments alone, and end as it does."""
    reset()
    os.environ[ALONE] = "1"
    command = [sys.executable, *arguments]

    def work() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)

    if not _may_be_set_apart():
        work()
    for number in (signal.SIGINT, signal.SIGQUIT):  # of a terminal: they are for the tests
        signal.signal(number, signal.SIG_IGN)
    os._exit(_set_apart(work))


if __name__ == "__main__":
    run(*sys.argv[1:])
