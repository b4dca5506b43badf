"""One recording from start to end: schedule, journals, sealing, signals and the command."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from resource import RLIMIT_DATA, RLIMIT_NOFILE
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from recorder import control
from recorder.control import Asked, Control
from recorder.host import clocks, facts
from recorder.host.io_class import BEST_EFFORT, set_io_class
from recorder.host.limits import Room, is_lack, lack
from recorder.host.namespaces import Namespaces, raise_descriptor_limit
from recorder.kernel.closes import Closes
from recorder.kernel.conntrack import Conntrack
from recorder.kernel.places import Places
from recorder.kernel.tables import EVERYTHING, Choice, describe
from recorder.kernel.transport import EVENTS_BUFFER
from recorder.notify import Notify
from recorder.owners.owners import Owners
from recorder.pace import Budget, Schedule
from recorder.sampling import marks
from recorder.sampling.marks import Mark
from recorder.sampling.sampler import Sample, Sampler
from recorder.schema import MARKS, SockrecError
from recorder.signals import Signals
from recorder.ssfilter import Filter
from recorder.store.manifest import Manifest, iso_time
from recorder.store.ring import Keep
from recorder.store.writer import EVERYTHING as EVERYTHING_KEPT
from recorder.store.writer import Writer
from recorder.triggers.condition import Condition, Trigger
from recorder.triggers.incidents import Incidents, Keeping
from recorder.triggers.measures import Measures
from recorder.watch import Say, Watch

if TYPE_CHECKING:
    from recorder.network.network import Network

SEAL_ROWS = 2_000_000
SEAL_BYTES = 96 << 20
SEAL_SECONDS = 3600.0
"""Journals are sealed by rows, size or time, whichever comes first, all tables together."""

CLOSES_SECONDS = 1.0
"""Close events are written at least this often, however far apart samples are."""

NETWORK_MEMORY = 192 << 20
"""What has to be left for the network to be followed, which takes a tenth: sockets come first."""

LAST_SECONDS = 0.1
"""The end of a recording is a sample of its own if the one before is longer ago than this."""

GAP_S = 10.0
"""A gap that is told: at least so long, and three intervals, without a sample that was due."""

SEALING_S = 60.0
"""What sealing takes of a CPU is judged over so much time at least: it comes in bursts."""

LATE_SHARE = 0.1
"""A sample counts as late past this share of the interval."""


_FAILURES = (OSError, MemoryError, RuntimeError, pa.ArrowException, SockrecError)
"""What a recording may fail with; a RuntimeError may say that a thread could not be started."""


class RecordingError(SockrecError):
    """The recording could not go on; what was committed before is whole."""


class CommandError(SockrecError):
    """The command could not be started; ``status`` is what a shell would exit with."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Options:
    """What is to be recorded. ``netns`` is what Namespaces selects by; times are in seconds.

    ``closes_buffer`` is the memory, in bytes, that the kernel may fill with close events of one
    namespace before it drops them. With ``sync`` a sample is on the disk before the next is taken.
    """

    directory: Path
    interval: float = 1.0
    duration: float | None = None
    samples: int | None = None
    choice: Choice = EVERYTHING
    filter: Filter | None = None
    """Which sockets; None is all of the choice."""
    netns: tuple[str, ...] = ("all",)
    owners: bool = True
    closes: bool = True
    command_lines: bool = True
    unix_names: bool = True
    network: bool = True
    conntrack: bool = False
    closes_buffer: int = EVENTS_BUFFER
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    """The command's; without one it gets ours."""
    seal_rows: int = SEAL_ROWS
    seal_seconds: float = SEAL_SECONDS
    sync: bool = False
    keep: Keep = EVERYTHING_KEPT
    """Bounds within which the oldest is dropped."""
    triggers: tuple[Condition, ...] = ()
    incidents: Keeping | None = None
    """Where what is around a trigger is kept; without it a trigger makes a mark only."""
    max_cpu: float | None = None
    """Share of one CPU that it may take; samples are left out to keep to it."""
    nice: int = 0
    heartbeat: float | None = None
    append: bool = False
    """Go on in the directory if there is a recording."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What recording.json says of the recording in its owner's words."""


@dataclass
class Progress:
    """Where the recording stands: totals so far; ``cpu`` includes the sealing child."""

    elapsed: float = 0.0
    samples: int = 0
    sockets: int = 0
    namespaces: int = 0
    closes: int = 0
    lost: int = 0
    rows: int = 0
    bytes: int = 0
    cpu: float = 0.0
    late: int = 0
    skipped: int = 0


@dataclass
class Result:
    """How a recording ended. ``status`` is the command's exit status, 0 without a command.

    ``unsealed`` says which numbers are still journals, and why; ``trouble`` what befell sealing.
    """

    progress: Progress
    reason: str
    status: int
    unsealed: dict[int, str]
    trouble: list[str]


class Recording:
    """A recording being made; ``signals`` must have been entered."""

    def __init__(
        self,
        options: Options,
        signals: Signals,
        on_progress: Callable[[Progress], None] | None = None,
        on_lack: Callable[[str, str], None] | None = None,
        room: Room | None = None,
        on_news: Say | None = None,
        notify: Notify | None = None,
    ) -> None:
        """``on_lack`` is told what is not recorded for want of something, and of what.

        ``on_news`` is told what begins and ends meanwhile, in a sentence. ``notify`` is told that
        it goes on.
        """
        self._options = options
        self._signals = signals
        self._on_progress = on_progress or (lambda progress: None)
        self._on_lack = on_lack or (lambda what, why: None)
        self._on_news = on_news or _nobody
        self._notify = notify or Notify({})
        self._room = room or Room()
        self._progress = Progress()
        self._child: int | None = None
        self._status = 0
        self._waits_for_room = False
        self._first = 0
        self._control: Control | None = None
        self._marks: list[Mark] = []
        self._asked: list[Asked] = []
        self._mark_maker = marks.maker()
        watched = [condition.counter for condition in options.triggers]
        self._measures = Measures(filter(None, watched), sockets=None in watched)
        self._triggers = [Trigger(condition) for condition in options.triggers]
        self._incidents: Incidents | None = None

    def run(self) -> Result:
        """Record until the end asked for, a signal, or the end of the command.

        Whatever happens to the recording, a command that was started is waited for.
        """
        namespaces = Namespaces(self._options.netns)
        self._given = {kind: resource.getrlimit(kind) for kind in (RLIMIT_NOFILE, RLIMIT_DATA)}
        raise_descriptor_limit()
        try:
            give_way(self._options.nice)
            with self._room.bounded():
                writer = Writer(
                    self._options.directory,
                    self._facts(),
                    sync=self._options.sync,
                    keep=self._options.keep,
                    tell=self._on_news,
                    append=self._options.append,
                )
                try:
                    reason = self._record(namespaces, writer)
                except _FAILURES as error:
                    if isinstance(error, CommandError) or _is_ours(error):
                        raise
                    left = (
                        ", some of them in journals, which recover seals" if writer.unsealed else ""
                    )
                    raise RecordingError(
                        f"{self._options.directory}: recording ended: {_why(error)}; "
                        f"the {self._progress.samples} samples before are whole{left}"
                    ) from error
        finally:
            if self._child is not None and not self._reap(self._child):
                waited_for = self._options.command[0]
                self._on_news(f"recording has ended, {waited_for} has not: waiting for it", "end")
            while self._child is not None and not self._reap(self._child):
                self._wait(time.monotonic() + 1)
        return Result(self._progress, reason, self._status, writer.unsealed, writer.trouble)

    def _record(self, namespaces: Namespaces, writer: Writer) -> str:
        options = self._options
        reason = "error"
        try:
            closes = self._receive_closes(writer.manifest) if options.closes else None
            sampler = Sampler(
                options.choice,
                release=facts.release(),
                places=Places(namespaces, closes, options.closes_buffer),
                owners=Owners() if options.owners else None,
                closes=closes,
                interval_s=options.interval,
                command_lines=options.command_lines,
                unix_names=options.unix_names,
                network=self._follow_network(writer.manifest) if options.network else None,
                conntrack=Conntrack() if options.conntrack else None,
                found=options.filter,
            )
            try:
                self._listen(writer)
                if options.incidents is not None:
                    environment = os.environ if options.environment is None else options.environment
                    self._incidents = Incidents(
                        options.directory, options.incidents, writer.say, environment
                    )
                reason = self._loop(sampler, writer)
                if self._incidents is not None:
                    self._incidents.end()
            finally:
                sampler.close()
                self._hear_no_more()
        except _FAILURES as error:
            reason = f"error: {_why(error)}"
            raise
        finally:
            self._notify.stopping()
            writer.manifest.facts.pop(control.FACT, None)
            writer.end(reason)
        return reason

    def _receive_closes(self, manifest: Manifest) -> Closes | None:
        """Return what receives the closes, None if its thread cannot be started."""
        try:
            return Closes(facts.release())
        except OSError as error:
            why = lack(error)
            if why is None:
                raise
            self._add_unseen(manifest, "closes", why)
            return None

    def _listen(self, writer: Writer) -> None:
        try:
            self._control = Control()
        except OSError as error:
            why = lack(error) or str(error)
            self._add_unseen(writer.manifest, "marks by sockrec mark", why)
        else:
            writer.manifest.facts[control.FACT] = self._control.name
            writer.tell(news=True)

    def _hear_no_more(self) -> None:
        for asked in self._asked:
            asked.answer("the recording ended")
        if self._control is not None:
            self._control.close()
            self._control = None

    def _follow_network(self, manifest: Manifest) -> Network | None:
        """Return what follows the network beneath, None if there is too little memory for that."""
        if not self._room.has(NETWORK_MEMORY):
            self._add_unseen(manifest, "the network beneath", "memory is short")
            return None
        from recorder.network.network import Network

        return Network()

    def _add_unseen(self, manifest: Manifest, what: str, why: str) -> bool:
        """Note once what is not seen, and tell it at once if that is for want of something."""
        news = manifest.add_unseen(what, why)
        if news and is_lack(why):
            self._on_lack(what, why)
        return news

    def _facts(self) -> dict[str, Any]:
        options = self._options
        unseen = facts.unseen(facts.capabilities())
        or_filter = ", FILTER" if options.filter is not None else ""
        if options.filter is not None:
            unseen.append({"what": "sockets that the filter leaves out", "why": "not asked for"})
            if options.closes and options.filter.states is not None:
                why = "a closed one is in none of the states that the filter asks for"
                unseen.append({"what": "closes", "why": why})
        unseen += [
            {"what": f"{table} sockets", "why": f"not asked for (-A{or_filter})"}
            for table in describe(EVERYTHING - options.choice)
        ]
        if not options.owners:
            unseen.append({"what": "owners", "why": "not asked for (--no-owners)"})
        if not options.closes:
            unseen.append({"what": "closes", "why": "not asked for (--no-closes)"})
        if not options.command_lines:
            unseen.append({"what": "command lines", "why": "not asked for (--no-cmdline)"})
        if not options.unix_names:
            why = "not asked for (--no-unix-paths)"
            unseen.append({"what": "names of unix sockets", "why": why})
        if not options.network:
            unseen.append({"what": "the network beneath", "why": "not asked for (--no-network)"})
        if "all" not in options.netns:
            why = f"not asked for (--netns {' '.join(options.netns)})"
            unseen.append({"what": "other network namespaces", "why": why})
        some = options.choice != EVERYTHING or options.filter is not None
        if some or "all" not in options.netns or not options.owners:
            no_filter = ", no FILTER" if options.filter is not None else ""
            why = f"needs -A all{no_filter}, --netns all and the owners"
            unseen.append({"what": "sockets that no table shows (unexplained)", "why": why})
        unseen.append(
            {
                "what": "closes of sockets that are neither TCP nor UDP",
                "why": "the kernel does not announce them",
            }
        )
        return {
            "sockrec": version("sockrec"),
            "started": iso_time(time.time_ns() // 1000),
            "ended": None,
            "exit": None,
            "interval_us": round(options.interval * 1e6),
            "tables": describe(options.choice),
            **({"filter": options.filter.text} if options.filter is not None else {}),
            "netns_selected": list(options.netns),
            "owners": options.owners,
            "network": options.network,
            "conntrack": options.conntrack,
            **({"keep": options.keep.facts()} if options.keep else {}),
            **({"labels": dict(options.labels)} if options.labels else {}),
            "command": (list(options.command) or None) if options.command_lines else None,
            "skipped": 0,
            "samples": 0,
            "socket_rows": 0,
            "unseen": unseen,
            "reading": [],
            "missing_sysctls": [],
            "unknown_attributes": {},
            **facts.facts(),
        }

    def _loop(self, sampler: Sampler, writer: Writer) -> str:
        options = self._options
        sampler.warm_up()
        start = time.monotonic()
        schedule = Schedule(options.interval, start)
        budget = Budget(options.max_cpu, options.interval) if options.max_cpu else None
        watch, self._beat = Watch(writer.say), start
        self._sealed_at = start
        self._seal_seconds, self._seal_bytes = writer.ring.bounds(options.seal_seconds, SEAL_BYTES)
        end = None if options.duration is None else start + options.duration
        number, ending, begun, left_out = writer.sample, "", start, 0
        self._first = number
        looked = clocks.read()
        while not ending:
            due, skipped = schedule.next_due(time.monotonic())
            if end is not None and due > end:
                ending = self._wait_for_sample(end, number, sampler, writer) or "duration"
            else:
                ending = self._wait_for_sample(due, number, sampler, writer)
            now = time.monotonic()
            late = 0 if ending else round(max(now - due, 0) * 1e6)
            # the end is sampled too, for what was closed meanwhile, unless a sample was just taken
            if ending in ("signal", "duration") and now - begun < LAST_SECONDS:
                self._write_closes(number, sampler, writer)
                return ending
            before, looked = looked, clocks.read()
            for what in clocks.befell(before, looked):
                writer.say(what)
            missed = late / 1e6 + skipped * options.interval
            if missed >= max(GAP_S, 3 * options.interval) and schedule.stretch == 1:
                writer.say(f"no sample was taken for {missed:,.1f} s: the recorder did not run")
            skipped, left_out = skipped + left_out, 0
            if not self._has_room(writer) and not ending:
                left_out = skipped + 1
                continue
            begun = now
            self._room.check()
            self._progress.skipped += skipped
            self._progress.late += late > LATE_SHARE * options.interval * 1e6
            before_cpu = time.process_time()
            sample = sampler.take(number, late_us=late, skipped=skipped)
            self._write(sample, writer)
            watch.sample(lost=sample.lost, failing=sample.failing)
            self._look(sample, number + 1, writer)
            if not ending:
                self._rotate(sampler, writer)
            if budget is not None:
                sealing = writer.cpu() / max(time.monotonic() - start, SEALING_S)
                cost = time.process_time() - before_cpu
                self._keep_pace(schedule, budget.spent(cost, sealing), writer)
            number += 1
            self._notify.ready(f"recording to {options.directory}")
            self._tell_beat(writer)
            if number == self._first + 1 and options.command:
                self._child = self._start(options.command)
            self._report(start, writer)
            if options.samples is not None and number - self._first >= options.samples:
                return "samples"
        return ending

    def _wait_for_sample(self, due: float, number: int, sampler: Sampler, writer: Writer) -> str:
        """Wait as ``_wait`` does, and write close events and marks meanwhile."""
        ending = ""
        while not ending and due - time.monotonic() > 1.5 * CLOSES_SECONDS:
            ending = self._wait(time.monotonic() + CLOSES_SECONDS, writer, number)
            self._write_closes(number, sampler, writer)
            if self._incidents is not None:
                self._incidents.look(time.monotonic())
        ending = ending or self._wait(due, writer, number)
        self._write_marks(number, writer)
        return ending

    def _write_closes(self, number: int, sampler: Sampler, writer: Writer) -> None:
        """Write the close events so far, as those of the sample to come."""
        if number == self._first:
            return  # before the first sample nothing is recorded
        batches = sampler.take_closes(number)
        for table, batch in batches:
            writer.append(table, batch)
        if batches:
            writer.commit(number)

    def _mark(self, kind: str, name: str, time_us: int | None = None) -> None:
        """Have a mark written, of this moment unless another is given."""
        self._marks.append(Mark(time_us or time.time_ns() // 1000, kind, name))

    def _take_marks(self) -> None:
        """Take what others ask for."""
        if self._control is None:
            return
        for asked in self._control.take():
            self._mark("mark", asked.name, asked.time_us)
            self._asked.append(asked)

    def _write_marks(self, number: int, writer: Writer) -> None:
        """Write the marks so far, as those of the sample to come, and answer who made them."""
        self._take_marks()
        if number == self._first or not self._marks:
            return  # before the first sample nothing is recorded
        writer.append(MARKS.name, marks.batch_of(self._marks, number, self._mark_maker))
        writer.commit(number)
        for asked in self._asked:
            asked.answer()
        self._marks, self._asked = [], []

    def _write(self, sample: Sample, writer: Writer) -> None:
        before = writer.size
        for table, batch in sample.batches:
            writer.append(table, batch)
        writer.commit(sample.number)
        progress = self._progress
        progress.samples += 1
        progress.sockets = sample.sockets
        progress.namespaces = sample.namespaces
        progress.closes += sample.closes
        progress.lost += sample.lost
        progress.rows += sample.sockets
        progress.bytes += writer.size - before
        writer.tell(news=self._note(sample, writer))

    def _rotate(self, sampler: Sampler, writer: Writer) -> None:
        """Have the journals sealed and begin new ones once it is time."""
        now = time.monotonic()
        if (
            writer.rows >= self._options.seal_rows
            or writer.size >= self._seal_bytes
            or now - self._sealed_at >= self._seal_seconds
        ):
            self._sealed_at = now
            writer.rotate()
            sampler.begin_journal()

    def _look(self, sample: Sample, number: int, writer: Writer) -> None:
        """See whether a trigger fires; mark the moment, with the number of the next sample."""
        if not self._triggers:
            return
        now = time.monotonic()
        seen = self._measures.take(sample.batches, now)
        for trigger in self._triggers:
            value = trigger.look(seen, self._measures.risen, now)
            if value is None:
                continue
            condition = trigger.condition
            detail = condition.told(value)
            self._marks.append(Mark(sample.time_us, "trigger", condition.text, detail))
            self._write_marks(number, writer)
            writer.say(f"{condition.text}: {detail}", "trigger")
            if self._incidents is not None:
                self._incidents.begin(condition.name, condition.text, sample.time_us, now)
        if self._incidents is not None:
            self._incidents.look(now)

    def _keep_pace(self, schedule: Schedule, stretch: int, writer: Writer) -> None:
        """Take samples further apart, or closer again, and tell."""
        if stretch == schedule.stretch:
            return
        interval = self._options.interval
        every = f"a sample is taken every {stretch * interval:,.3g} s"
        if stretch > schedule.stretch:
            writer.say(f"{every}, as one every {interval:,.3g} s takes more than --max-cpu")
        else:
            writer.say(f"{every} again, as they cost less", "recovery")
        schedule.stretch = stretch

    def _tell_beat(self, writer: Writer) -> None:
        """Tell how it goes, where that is asked for."""
        now = time.monotonic()
        if self._options.heartbeat is None or now - self._beat < self._options.heartbeat:
            return
        self._beat = now
        progress = self._progress
        self._on_news(
            f"{progress.samples:,} samples, {progress.sockets:,} sockets, {progress.late:,} late, "
            f"{progress.skipped:,} skipped, {progress.lost:,} closes lost, {writer.ring.used:,} "
            f"bytes at most, {time.process_time() + writer.cpu():,.1f} s of CPU",
            "heartbeat",
        )

    def _has_room(self, writer: Writer) -> bool:
        """Drop what is past the bounds; tell when there is no room even so, and when there is."""
        enough = writer.keep_up()
        if enough == self._waits_for_room:
            self._waits_for_room = not enough
            self._on_news(
                "samples are taken again"
                if enough
                else "nothing is left to drop: no sample is taken until there is room",
                "recovery" if enough else "degradation",
            )
        return enough

    def _note(self, sample: Sample, writer: Writer) -> bool:
        """Bring the facts up to date; tell whether there is more news than higher counts."""
        manifest = writer.manifest
        news = False
        for step, unknown in sample.unknown.items():
            counts = manifest.facts["unknown_attributes"].setdefault(step, {})
            for kind, count in unknown.items():
                news |= kind not in counts
                counts[kind] = counts.get(kind, 0) + count
        for what, why in sample.unseen:
            news |= self._add_unseen(manifest, what, why)
        known = {(fact["step"], fact["source"]) for fact in manifest.facts["reading"]}
        news |= known != {(fact["step"], fact["source"]) for fact in sample.reading}
        manifest.facts["reading"] = sample.reading
        manifest.facts["missing_sysctls"] = sample.missing_sysctls
        manifest.facts["skipped"] = self._progress.skipped
        counts = {"samples": self._progress.samples, "socket_rows": self._progress.rows}
        for name, count in counts.items():
            before = writer.counted[name]
            manifest.facts[name] = None if before is None else before + count
        return news

    def _wait(self, until: float, writer: Writer | None = None, number: int = 0) -> str:
        """Wait for a time; return early with why the recording is to end, or "" at that time.

        Meanwhile marks are written where there is something to write them with.
        """
        listens: Sequence[int] = self._control.descriptors if self._control and writer else ()
        while True:
            self._notify.alive()
            info = self._signals.wait(until - time.monotonic(), listens)
            if info is None:
                if writer is not None:
                    self._write_marks(number, writer)
                    listens = self._control.descriptors if self._control else ()
                if time.monotonic() >= until:
                    return ""
                continue
            if info.si_signo == signal.SIGUSR1:
                self._mark("signal", "SIGUSR1")
            elif info.si_signo == signal.SIGCHLD:
                if self._incidents is not None:
                    self._incidents.reap()
                if self._child is not None and self._reap(self._child):
                    return "command"
            elif self._child is None:
                return "signal"
            elif info.si_code <= 0:  # sent by a process: one from the terminal reached the command
                os.kill(self._child, info.si_signo)

    def _start(self, command: tuple[str, ...]) -> int:
        """Start the command, with the limits and the environment that it would have without us."""
        ours = {kind: resource.getrlimit(kind) for kind in self._given}
        environment = self._options.environment
        try:
            for kind, limits in self._given.items():
                resource.setrlimit(kind, limits)
            return os.posix_spawnp(
                command[0],
                command,
                os.environ if environment is None else environment,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            raise CommandError(
                f"{command[0]}: cannot be run: {error.strerror}",
                status=127 if error.errno == errno.ENOENT else 126,
            ) from error
        finally:
            for kind, limits in ours.items():
                resource.setrlimit(kind, limits)

    def _reap(self, child: int) -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            self._child = None
            self._status = _exit_status(status)
        return bool(pid)

    def _report(self, start: float, writer: Writer) -> None:
        self._progress.elapsed = time.monotonic() - start
        self._progress.cpu = time.process_time() + writer.cpu()
        self._on_progress(self._progress)


def give_way(nice: int) -> None:
    """Let others have the CPU and the disk first: at least this niceness, best effort 7."""
    with contextlib.suppress(OSError):
        more = nice - os.getpriority(os.PRIO_PROCESS, 0)
        if nice > 0 and more > 0:
            os.nice(more)
            set_io_class(BEST_EFFORT, 7)


def _nobody(text: str, event: str = "degradation") -> None:
    pass


def _is_ours(error: Exception) -> bool:
    """Tell a fault in the program from want of a thread, which Python tells by the same class."""
    return isinstance(error, RuntimeError) and lack(error) is None


def _why(error: Exception) -> str:
    return lack(error) or (isinstance(error, OSError) and error.strerror) or str(error)


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
