"""One recording from start to end: schedule, journals, sealing, signals and the command."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recorder import host
from recorder.journal import Journals
from recorder.manifest import Manifest, iso_time, make_directory
from recorder.owners import Owners
from recorder.sampler import TABLES, Sample, Sampler
from recorder.schema import SockrecError
from recorder.sealer import Sealer
from recorder.signals import Signals

SEAL_ROWS = 1_000_000
SEAL_BYTES = 64 << 20
SEAL_SECONDS = 3600.0
"""Journals are sealed by rows, size or time, whichever comes first, all tables together."""

OWNERS_SHARE = 0.2
"""Share of the interval that finding owners may take."""

LATE_SHARE = 0.1
"""A sample counts as late past this share of the interval."""


class RecordingError(SockrecError):
    """The recording could not go on; what was committed before is whole."""


class CommandError(SockrecError):
    """The command could not be started."""


@dataclass(frozen=True)
class Options:
    """What is to be recorded. ``tables`` are names of sampler.TABLES; times are in seconds."""

    directory: Path
    interval: float = 1.0
    duration: float | None = None
    samples: int | None = None
    tables: tuple[str, ...] = TABLES
    owners: bool = True
    command: tuple[str, ...] = ()
    seal_rows: int = SEAL_ROWS
    seal_seconds: float = SEAL_SECONDS


@dataclass
class Progress:
    """Where the recording stands: totals so far; ``cpu`` includes the sealing child."""

    elapsed: float = 0.0
    samples: int = 0
    sockets: int = 0
    rows: int = 0
    bytes: int = 0
    cpu: float = 0.0
    late: int = 0
    skipped: int = 0


@dataclass
class Result:
    """How a recording ended. ``status`` is the command's exit status, 0 without a command."""

    progress: Progress
    reason: str
    status: int
    unsealed: dict[int, str]


class Schedule:
    """When samples are due: at multiples of the interval after the start, by a steady clock.

    A sample that cannot be begun before the next is due is left out and counted.
    """

    def __init__(self, interval: float, start: float) -> None:
        self._interval = interval
        self._start = start
        self._tick = -1

    def next_due(self, now: float) -> tuple[float, int]:
        """Return when the next sample is due, and how many due ones it comes after unsampled."""
        tick = max(self._tick + 1, int((now - self._start) / self._interval))
        skipped = tick - self._tick - 1
        self._tick = tick
        return self._start + tick * self._interval, skipped


class Recording:
    """A recording being made; ``signals`` must have been entered."""

    def __init__(
        self,
        options: Options,
        signals: Signals,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._options = options
        self._signals = signals
        self._on_progress = on_progress or (lambda progress: None)
        self._progress = Progress()
        self._child: int | None = None
        self._status = 0

    def run(self) -> Result:
        """Record until the end asked for, a signal, or the end of the command.

        Whatever happens to the recording, a command that was started is waited for.
        """
        make_directory(self._options.directory)
        try:
            reason = self._record()
        except OSError as error:
            raise RecordingError(
                f"{self._options.directory}: recording ended: {error.strerror or error}; "
                f"the {self._progress.samples} samples before are whole"
            ) from error
        finally:
            while self._child is not None and not self._reap(self._child):
                self._wait(time.monotonic() + 1)
        return Result(self._progress, reason, self._status, self._sealer.failures)

    def _record(self) -> str:
        options = self._options
        manifest = Manifest(options.directory, self._facts())
        manifest.save()
        self._sealer = Sealer(options.directory)
        self._journals = Journals(options.directory, 1)
        sampler = Sampler(
            options.tables,
            netns=manifest.facts["netns"],
            release=host.release(),
            owners=Owners() if options.owners else None,
            owners_budget_s=OWNERS_SHARE * options.interval,
        )
        reason = "error"
        try:
            reason = self._loop(sampler, manifest)
        finally:
            sampler.close()
            self._journals.close()
            self._sealer.seal(self._journals.number)
            self._sealer.finish()
            manifest.facts["exit"] = reason
            manifest.facts["ended"] = iso_time(time.time_ns() // 1000)
            manifest.save()
        return reason

    def _facts(self) -> dict[str, Any]:
        options = self._options
        unseen = host.unseen(host.capabilities())
        unseen += [
            {"what": f"{table} sockets", "why": "not asked for (-A)"}
            for table in TABLES
            if table not in options.tables
        ]
        if not options.owners:
            unseen.append({"what": "owners", "why": "not asked for (--no-owners)"})
        unseen += [
            {"what": "other network namespaces", "why": "this version records the current one"},
            {"what": "sockets that lived between two samples", "why": "only samples are taken"},
        ]
        return {
            "sockrec": version("sockrec"),
            "started": iso_time(time.time_ns() // 1000),
            "ended": None,
            "exit": None,
            "interval_us": round(options.interval * 1e6),
            "tables": list(options.tables),
            "owners": options.owners,
            "command": list(options.command) or None,
            "skipped": 0,
            "unseen": unseen,
            "unknown_attributes": {},
            **host.facts(),
        }

    def _loop(self, sampler: Sampler, manifest: Manifest) -> str:
        options = self._options
        sampler.warm_up()
        start = time.monotonic()
        schedule = Schedule(options.interval, start)
        self._sealed_at = start
        end = None if options.duration is None else start + options.duration
        number, ending = 0, ""
        while not ending:
            due, skipped = schedule.next_due(time.monotonic())
            if end is not None and due > end:
                self._wait(end)
                return "duration"
            ending = self._wait(due)
            now = time.monotonic()
            late = 0 if ending else round(max(now - due, 0) * 1e6)
            if ending == "signal":
                return ending
            self._progress.skipped += skipped
            self._progress.late += late > LATE_SHARE * options.interval * 1e6
            self._write(sampler.take(number, late_us=late, skipped=skipped), manifest)
            number += 1
            if number == 1 and options.command:
                self._child = _start(options.command)
            self._report(start)
            if options.samples is not None and number >= options.samples:
                return "samples"
        return ending

    def _write(self, sample: Sample, manifest: Manifest) -> None:
        journals = self._journals
        before = journals.size
        for table, batch in sample.batches:
            journals.append(table, batch)
        journals.commit(sample.number)
        progress = self._progress
        progress.samples += 1
        progress.sockets = sample.sockets
        progress.rows += sample.sockets
        progress.bytes += journals.size - before
        if self._note(sample, manifest):
            manifest.save()
        self._sealer.poll()
        now = time.monotonic()
        if (
            journals.rows >= self._options.seal_rows
            or journals.size >= SEAL_BYTES
            or now - self._sealed_at >= self._options.seal_seconds
        ):
            self._sealed_at = now
            manifest.save()
            journals.close()
            self._sealer.seal(journals.number)
            self._journals = Journals(self._options.directory, journals.number + 1)

    def _note(self, sample: Sample, manifest: Manifest) -> bool:
        """Bring the facts up to date; tell whether there is more news than higher counts."""
        news = False
        for step, unknown in sample.unknown.items():
            counts = manifest.facts["unknown_attributes"].setdefault(step, {})
            for kind, count in unknown.items():
                news |= kind not in counts
                counts[kind] = counts.get(kind, 0) + count
        for step, outcome in sample.outcomes.items():
            if outcome.name == "unavailable":
                news |= manifest.add_unseen(f"{step} sockets", outcome.detail or "no handler")
        if sample.denied:
            news |= manifest.add_unseen("owners in some processes", "descriptors are unreadable")
        manifest.facts["skipped"] = self._progress.skipped
        return news

    def _wait(self, until: float) -> str:
        """Wait for a time; return early with why the recording is to end, or "" at that time."""
        while True:
            info = self._signals.wait(until - time.monotonic())
            if info is None:
                return ""
            if info.si_signo == signal.SIGCHLD:
                if self._child is not None and self._reap(self._child):
                    return "command"
            elif self._child is None:
                return "signal"
            elif info.si_code <= 0:  # sent by a process: one from the terminal reached the command
                os.kill(self._child, info.si_signo)

    def _reap(self, child: int) -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            self._child = None
            self._status = _exit_status(status)
        return bool(pid)

    def _report(self, start: float) -> None:
        self._progress.elapsed = time.monotonic() - start
        self._progress.cpu = time.process_time() + self._sealer.cpu()
        self._on_progress(self._progress)


def _start(command: tuple[str, ...]) -> int:
    try:
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        raise CommandError(f"{command[0]}: cannot run it: {error.strerror}") from error


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
