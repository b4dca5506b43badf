"""Incidents: what was recorded around a trigger, kept as recordings beyond what the ring drops."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recorder.schema import SockrecError
from recorder.store.save import save
from recorder.watch import Say

_NAMED = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9_.]+(-\d+)?", re.ASCII)
_HELD = ".held"
_MOST_COMMANDS = 8
_PATIENCE_S = 3.0


class IncidentsError(SockrecError):
    """A directory in which no incident can be kept."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where incidents are kept, how many bytes at most, and how many seconds before and after.

    ``command`` is run for each that is kept, without a shell.
    """

    directory: Path
    bytes: int
    before: float
    after: float
    command: tuple[str, ...] = ()


@dataclass(slots=True)
class _Pending:
    name: str
    text: str
    at_us: int
    due: float


class Incidents:
    """Keeps incidents; what goes wrong is told by ``say`` and ends nothing."""

    def __init__(
        self, recording: Path, keeping: Keeping, say: Say, environment: Mapping[str, str]
    ) -> None:
        """``environment`` is that of the command."""
        self._environment = environment
        self._recording = recording
        self._keeping = keeping
        self._say = say
        self._pending: list[_Pending] = []
        self._commands: dict[int, str] = {}
        try:
            keeping.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = [path for path in keeping.directory.iterdir() if path.name.endswith(_HELD)]
        except OSError as error:
            raise IncidentsError(
                f"{keeping.directory}: no incident can be kept there: {error.strerror}"
            ) from error
        for path in held:  # what a killed recorder was about to keep is kept as it is
            shown = path.with_name(path.name[1:].removesuffix(_HELD))
            with contextlib.suppress(OSError):
                path.rename(shown)

    def begin(self, name: str, text: str, time_us: int, now: float) -> None:
        """Keep what there is of the time before, until the time after has passed."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_us / 1e6))
        called = f"{stamp}-{name}"
        taken = {one.name for one in self._pending}
        number = 2
        while called in taken or (self._keeping.directory / called).exists():
            called, number = f"{stamp}-{name}-{number}", number + 1
        one = _Pending(called, text, time_us, now + self._keeping.after)
        if self._save(one, self._held(one), None):
            self._pending.append(one)

    def look(self, now: float) -> None:
        """Keep the incidents whose time has passed."""
        for one in [one for one in self._pending if one.due <= now]:
            self._finish(one)

    def end(self) -> None:
        """Keep all that were begun, as the recording ends, and wait a while for commands."""
        for one in list(self._pending):
            self._finish(one)
        until = time.monotonic() + _PATIENCE_S
        while self._commands and time.monotonic() < until:
            self.reap()
            time.sleep(0.02)

    def reap(self) -> None:
        """Take the exit status of commands that have ended."""
        for pid, name in list(self._commands.items()):
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    continue
                if code := os.waitstatus_to_exitcode(status):
                    self._say(f"the command for {name} ended with {code}")
            del self._commands[pid]

    def _finish(self, one: _Pending) -> None:
        self._pending.remove(one)
        target = self._keeping.directory / one.name
        if not self._save(one, target, self._held(one)):
            with contextlib.suppress(OSError):
                self._held(one).rename(target)
                self._say(f"{one.text}: only what was before it is kept, in {target}", "incident")
            return
        shutil.rmtree(self._held(one), ignore_errors=True)
        if self._fits(one.name):
            self._say(f"{one.text}: kept in {target}", "incident")
            self._run(one, target)

    def _held(self, one: _Pending) -> Path:
        return self._keeping.directory / f".{one.name}{_HELD}"

    def _save(self, one: _Pending, target: Path, held: Path | None) -> bool:
        start = one.at_us - round(self._keeping.before * 1e6)
        end = one.at_us + round(self._keeping.after * 1e6) + 1
        try:
            save(self._recording, target, lambda times: times.within(start, end), held=held)
        except (SockrecError, OSError, MemoryError) as error:
            self._say(f"{one.text}: could not be kept: {error}")
            return False
        return True

    def _fits(self, newest: str) -> bool:
        """Remove the oldest incidents beyond the budget; tell whether the newest is within it."""
        try:
            sizes = {
                path.name: _size(path)
                for path in sorted(self._keeping.directory.iterdir())
                if _NAMED.fullmatch(path.name)
            }
        except OSError as error:
            self._say(f"{self._keeping.directory}: its size is unknown: {error.strerror}")
            return True
        alone = sizes.get(newest, 0) > self._keeping.bytes  # then no other has to go for it
        for name in [newest] if alone else sorted(sizes, key=lambda name: (name == newest, name)):
            if sum(sizes.values()) <= self._keeping.bytes:
                break
            what = "is more than --incidents-size" if name == newest else "is the oldest"
            try:
                shutil.rmtree(self._keeping.directory / name)
            except OSError as error:
                self._say(f"the incident {name} could not be removed whole: {error.strerror}")
            else:
                self._say(f"the incident {name} was removed, as it {what}")
            del sizes[name]
        return newest in sizes

    def _run(self, one: _Pending, target: Path) -> None:
        command = self._keeping.command
        if not command:
            return
        if len(self._commands) >= _MOST_COMMANDS:
            self._say(f"the command for {one.name} was not run: {len(self._commands)} run already")
            return
        told: Mapping[str, str] = {"SOCKREC_INCIDENT": str(target), "SOCKREC_TRIGGER": one.text}
        nothing = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        try:
            pid = os.posix_spawnp(
                command[0],
                command,
                {**self._environment, **told},
                file_actions=nothing,
                setsigmask=[],
            )
        except OSError as error:
            self._say(f"{shlex.join(command)}: cannot be run: {error.strerror}")
        else:
            self._commands[pid] = one.name


def _size(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk, linked elsewhere or not."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # somebody removes it meanwhile
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
    return total
