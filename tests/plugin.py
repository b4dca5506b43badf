"""How every run of tests begins and ends: alone, no test without an end, and with a summary."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout

from tests import alone

AGAIN_S = 20
"""Seconds after which what still waits, as the end of a context may, is interrupted once more."""

QUIET_S = 900.0
"""Seconds in which some worker begins or ends a test, or there is none that ever will."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, None, None]:
    """Start again alone, before pytest captures any output."""
    if alone.ALONE not in os.environ:
        alone.run(*sys.orig_argv[1:])
    alone.reset()
    yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Let each worker run alone, and not wait for ever for one."""
    for spec in specs:
        spec.python = shlex.join([sys.executable, alone.__file__])
    config.pluginmanager.register(Watch(QUIET_S))


class Watch:
    """Ends a run of which no worker tells anything any more: xdist would wait for ever.

    A test is bounded by its alarm, but not what comes before and after it; nor a worker that died
    without letting go of its pipe, or whose successor has collected other tests.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._told = time.monotonic()
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def _look(self) -> None:
        while (left := self._told + self._seconds - time.monotonic()) > 0:
            time.sleep(left)
        try:
            said = [f"no worker began or ended a test for {self._seconds:g} s:"]
            os.write(2, "\n".join([*said, *below(os.getpid()), ""]).encode())
        finally:
            os._exit(pytest.ExitCode.INTERNAL_ERROR)

    def pytest_runtest_logstart(self) -> None:
        self._told = time.monotonic()

    def pytest_runtest_logreport(self) -> None:
        self._told = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Arm the alarm of a test: it tells what every thread and every process below is doing."""

    def interrupt(number: int, frame: object) -> None:
        if pytest_timeout.is_debugging():
            return
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        told = [f"it took longer than {settings.timeout:g} s, and waited where the trace ends"]
        pytest.fail("\n".join([*told, *other_threads(), *below(os.getpid())]))

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # where pytest-timeout looks for it
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True


def other_threads() -> list[str]:
    """Return where every thread of this process but the calling one is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines.append(f"thread {names.get(ident)}:")
            lines += "".join(traceback.format_stack(frame)).splitlines()
    return lines


def below(pid: int) -> list[str]:
    """Return what every process below one is doing, as far as /proc tells."""
    lines = []
    for child in _children(pid):
        lines.append(f"process {child}: {_read(child, 'cmdline').replace(chr(0), ' ')}")
        for thread in _threads(child):
            where = {name: _read(child, f"task/{thread}/{name}") for name in ("comm", "wchan")}
            state = _read(child, f"task/{thread}/stat").rpartition(")")[2].split()[:1]
            call = _read(child, f"task/{thread}/syscall")
            stack = " < ".join(_read(child, f"task/{thread}/stack").split("\n")[:4])
            lines.append(f"  thread {thread} {where} {state} system call {call} {stack}")
        lines += [f"  {line}" for line in below(child)]
    return lines


def _threads(pid: int) -> list[str]:
    """Return the threads of a process, none if it has ended."""
    try:
        return sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    found = []
    for thread in _threads(pid):
        words = _read(pid, f"task/{thread}/children").split()
        found += [int(word) for word in words if word.isdigit()]
    return sorted(found)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file that make test reads its last line from."""
    parser.addoption(
        "--tell", type=Path, metavar="FILE", help="write one line about the run to FILE"
    )


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Tell in one line what was run, and what was skipped and why."""
    file = config.getoption("--tell")
    if file and not hasattr(config, "workerinput"):
        stats = terminalreporter.stats
        counts = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error")}
        said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
        skipped = Counter(report.longrepr[2] for report in stats.get("skipped", []))
        why = "; ".join(
            f"{number} {reason.removeprefix('Skipped: ')}"
            for reason, number in skipped.most_common()
        )
        file.write_text(f"{said}, {skipped.total()} skipped{why and f' ({why})'}\n")
