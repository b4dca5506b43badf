"""A sample: the kernel's tables one after the other, their owners, and how each step went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recorder.host import counters, settings
from recorder.host.counters import HOST, Changes, Counters
from recorder.host.settings import Settings
from recorder.kernel.closes import Closes
from recorder.kernel.places import UNCOUNTED, Place, Places
from recorder.kernel.tables import EVERYTHING, NO_INODES, Choice, Gathered, Reading, Step, Steps
from recorder.owners.owners import Owners, OwnersStep
from recorder.owners.processes import Processes, ProcessesStep
from recorder.procnet.tables import in_use
from recorder.sampling import kernel_sockets
from recorder.sampling.kernel_sockets import KernelSockets
from recorder.sampling.labels import Labels
from recorder.sampling.ownership import Ownership
from recorder.sampling.steplog import Row, StepLog
from recorder.sampling.unexplained import Unexplained
from recorder.schema import TABLES
from recorder.ssfilter import Autobound, Filter, leaves
from recorder.ssfilter.rows import Known, matching
from recorder.store.journal import BatchMaker
from recorder.wire.columns import Arrays, Values
from recorder.wire.netlink import Dump

if TYPE_CHECKING:
    from recorder.kernel.conntrack import Conntrack
    from recorder.network.network import Dumped, Network

_PORTS = "net.ipv4.ip_local_port_range"

_UNIX_NAMES = ("local_addr", "peer_addr")

MERGED_ROWS = 10_000
"""A sample of fewer sockets is one batch: a batch of 164 columns costs 15 kB, rows or none."""

WARM_UP_BUDGET_S = 60.0
"""Before the first sample every process is read, however long it takes."""

OWNERS_SHARE = 0.2
"""Share of the interval that finding owners may take."""

PROCESSES_SHARE = 0.05
"""Share of the interval that looking at what processes do may take."""

NETWORK_SHARE = 0.05
"""Share of the interval that looking at the network beneath may take."""

PLACES_SHARE = 0.25
"""Share of the interval that the tables of all namespaces but the recorder's own may take."""

SETTINGS_EVERY = 30
"""Samples after which the settings of a namespace are looked at again,"""

SETTINGS_S = 10.0
"""or seconds, if these are over before: a limit that was set in an incident is part of it."""

NEW_SETTINGS = 4
"""Namespaces at most whose settings one sample looks at besides those whose turn it is."""

_FAILED = ("busy", "truncated", "corrupt", "error")

Batches = list[tuple[str, pa.RecordBatch]]

_Read = tuple[Place, Step, Row, Reading]
"""How a step went in a namespace, and its row."""


@dataclass
class Sample:
    """A sample ready to be written: batches by table, in the order of writing, and its facts."""

    number: int
    time_us: int
    sockets: int = 0
    namespaces: int = 0
    closes: int = 0
    lost: int = 0
    batches: Batches = field(default_factory=list)
    unknown: dict[str, dict[str, int]] = field(default_factory=dict)
    unseen: list[tuple[str, str]] = field(default_factory=list)
    reading: list[Row] = field(default_factory=list)
    """How each table is read: step, source, why not by the first way, number of namespaces."""
    missing_sysctls: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    """The steps that failed, and one reason of each."""


@dataclass
class _Closed:
    """What was taken of the close events of one namespace since the last sample."""

    events: int = 0
    opened: int = 0
    lost: int = 0


class Sampler:
    """Takes samples. The arrays of a sample are used again by the next.

    Closes the places, owners and closes that it is given.
    """

    def __init__(
        self,
        choice: Choice,
        *,
        release: tuple[int, int],
        places: Places,
        owners: Owners | None,
        closes: Closes | None,
        interval_s: float,
        command_lines: bool = True,
        unix_names: bool = True,
        network: Network | None = None,
        conntrack: Conntrack | None = None,
        found: Filter | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """``command_lines`` and ``unix_names`` say whether these are recorded.

        With a filter (``found``) only sockets that it lets through are.
        """
        self.steps = Steps(choice, release, found)
        self._filter = found
        self._known = Known()
        self.places = places
        self._owners = owners
        self._closes = closes
        self._processes = Processes(owners.proc) if owners is not None else None
        self._owners_budget = OWNERS_SHARE * interval_s
        self._processes_budget = PROCESSES_SHARE * interval_s
        self._network = network
        self._conntrack = conntrack
        self._network_budget = NETWORK_SHARE * interval_s
        self._places_budget = PLACES_SHARE * interval_s
        self._now_us = now_us
        self._makers = {name: BatchMaker(table) for name, table in TABLES.items()}
        self._labels = Labels(places)
        self._unix_names = unix_names
        self._who = Ownership(
            owners,
            self._labels.user,
            announced=closes is not None,
            command_lines=command_lines,
        )
        self._counters = Counters()
        self._settings = Settings()
        self._settings_every = min(SETTINGS_EVERY, max(1, int(SETTINGS_S / interval_s)))
        self._checked: dict[int, int] = {}
        self._kernels: dict[int, KernelSockets] = {}
        explained = owners and choice == EVERYTHING and found is None
        self._unexplained = Unexplained(owners) if owners and explained else None
        self._closed: dict[int, _Closed] = {}
        self._closes_dump = Dump()
        self._new_places: list[int] = []
        self._again = False
        """Whether this sample tells all that is known."""
        self._gone: list[Changes] = []
        self._begin(0)

    def close(self) -> None:
        """Close every socket and descriptor."""
        if self._closes is not None:
            self._closes.close()
        self.places.close()
        if self._owners is not None:
            self._owners.close()
        if self._processes is not None:
            self._processes.close()
        self._labels.close()

    def warm_up(self) -> None:
        """Read everything once, unrecorded: the first look at every process is no sample's cost."""
        self.places.update()
        self._read_counters("counters", "before", list(self.places))
        self._counters.restart()
        self._read_tables(math.inf)
        if self._owners is not None:
            self._who.update(self._sought(), self._now_us(), WARM_UP_BUDGET_S)
        for key, gathered in self.steps.gathered.items():
            self._who.observe(key, gathered)
        if self._processes is not None:
            self._look_at_processes(0, WARM_UP_BUDGET_S)
            self._processes.again()
        if self._closes is not None:
            self._who.closed(self._closes.take())

    def begin_journal(self) -> None:
        """Tell again in the next sample what is otherwise only told when it changes.

        So each number can be read without those before it.
        """
        self._counters.restart()
        self._again = True

    def take(self, number: int, *, late_us: int = 0, skipped: int = 0) -> Sample:
        """Take a sample; it must be written before the next is taken."""
        sample, log = self._begin(number), self._log
        boottime_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        self._find_places()
        self._read_counters("counters", "before", list(self.places))
        dumped = self._read_tables(self._places_budget)
        self._read_owners()
        self._look_up(dumped)
        self._make_sockets()
        self._read_processes()
        with log.measured() as cost:
            sample.batches += self.take_closes(number)
        self._log_closes(cost, dumped)
        self._read_network(dumped)
        self._read_conntrack()
        self._read_counters("counters_after", "after", dumped)
        self._read_settings()
        if self._again:
            self._labels.again()
        self._add_rows("cgroups", self._labels.cgroups())
        self._again = False
        for inode in self.places.left:  # now that its last events have their interfaces' names
            self._labels.forget(inode)
        sample.failing = {
            str(row["step"]): str(row.get("detail") or row["outcome"])
            for row in log.rows
            if row["outcome"] in _FAILED
        }
        for row in log.rows:
            row |= {"late_us": late_us, "skipped": skipped, "boottime_us": boottime_us}
        self._add_rows("samples", log.rows)
        return sample

    def take_closes(self, number: int) -> Batches:
        """Return the close events since the last call, for the sample of this number.

        Where samples are far apart this is also called in between, lest events pile up. What it
        returns must be written before the next call.
        """
        if self._closes is None:
            return []
        taken = self._closes.take()
        self._closes_dump.bytes += taken.dump.bytes
        self._closes_dump.bad += taken.dump.bad
        self._closes_dump.count_unknown(taken.dump.unknown)
        for netns, lost in taken.lost.items():
            self._closed_in(netns).lost += lost
        for netns, events in taken.events.items():
            self._closed_in(netns).events += events
        count = taken.netns.size
        if not count:
            return []
        columns = taken.columns()
        owners, opened = self._who.closed(taken)
        for netns, connections in _counts(taken.netns[opened]):
            self._closed_in(netns).opened += connections
        columns |= owners
        columns |= self._labels.devices(taken.netns, taken.decoder.columns)
        columns["sample"] = Values(np.full(count, number, np.uint32))
        batch = self._makers["closes"].make(count, columns)
        if self._filter is not None:
            batch, left_out = self._filtered(batch)
            for netns, events in _counts(taken.netns[left_out]):
                self._closed_in(netns).events -= events
        return [("closes", batch)] if batch.num_rows else []

    def _filtered(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_]]:
        """Return the rows that the filter lets through, and which it does not."""
        assert self._filter is not None
        passed = matching(self._filter, batch, self._known)
        return (batch if passed.all() else batch.filter(pa.array(passed))), ~passed

    def _look_up(self, dumped: list[Place]) -> None:
        """Find what the filter compares rows with that they do not tell."""
        if self._filter is None:
            return
        ranges: dict[int, tuple[int, int]] = {}
        if any(isinstance(leaf, Autobound) for leaf in leaves(self._filter.tree)):
            every = self.places.each(dumped, lambda _: settings.read_namespace())
            for place, values in zip(dumped, every, strict=True):
                if not isinstance(values, OSError) and (ports := values.get(_PORTS)):
                    low, high = map(int, ports.split())
                    ranges[place.inode] = low, high
        names = {place.inode: place.namespace.names for place in self.places}
        self._known = Known(ranges, names)

    def _begin(self, number: int) -> Sample:
        self._sample = Sample(number, self._now_us(), unseen=list(self._labels.unseen))
        self._labels.begin()
        self._log = StepLog(self._now_us)
        return self._sample

    def _find_places(self) -> None:
        with self._log.timed("namespaces", HOST) as row:
            step = self.places.update()
            row |= {"source": "proc", "rows": len(self.places)}
            if step.denied:
                detail = f"{step.denied} processes whose namespaces may not be seen"
                row |= {"outcome": "partial", "denied": step.denied, "detail": detail}
        self._sample.namespaces = len(self.places)
        for inode in self.places.left:
            self._who.forget(inode)
            if self._network is not None:
                self._network.forget(inode)
            if self._conntrack is not None:
                self._conntrack.forget(inode)
        for namespace in step.vanished:
            self._gone.append(self._counters.forget(namespace.inode))
            self._settings.forget(namespace.inode)
            self._checked.pop(namespace.inode, None)
            self._kernels.pop(namespace.inode, None)
        if self._again:
            self.places.again()
        self._add_rows("namespaces", self.places.rows(self._sample.time_us))
        self._sample.unseen += self.places.take_unseen()

    def _read_counters(self, step: str, phase: str, places: list[Place]) -> None:
        """Read the counters of namespaces, and what the kernel says they have of sockets."""
        changes, self._gone = self._gone, []
        with self._log.timed(step, HOST) as row:
            row["source"] = "proc"
            try:
                changes.append(self._counters.changed(HOST, counters.read_host()))
            except OSError as error:
                row |= {"outcome": "error", "errno": error.errno, "detail": error.strerror}
            else:
                row |= _counted(changes[-1])
        with self._log.measured() as cost:
            every = self.places.read_counters(places)
        cost["cpu_us"] //= max(len(places), 1)
        for place, files in zip(places, every, strict=True):
            if isinstance(files, OSError):
                place.in_use = {}
                facts: Row = {"outcome": "error", "errno": files.errno, "detail": files.strerror}
            else:
                change = self._counters.changed(place.inode, files)
                changes.append(change)
                if phase == "before":
                    place.in_use = in_use(
                        *(files.get(name, b"") for name in ("protocols", "sockstat", "sockstat6"))
                    )
                facts = _counted(change)
            self._log.note(step, place.inode, source="proc", **cost | facts)
        self._add("counters", self._counters.columns(changes, phase))

    def _read_tables(self, budget_s: float) -> list[Place]:
        """Read the tables of the namespaces whose turn it is; return these."""
        self.steps.begin()
        self._new_places = []
        dumped: list[Place] = []
        read: list[_Read] = []
        spent = 0.0
        for place in self.places.in_turn():
            if place.is_empty:
                place.inodes = NO_INODES
                self._kernels.pop(place.inode, None)
                place.dumped = self._sample.number
                for step in self.steps:
                    step.skip(place.inode)
                self._log.note("all", place.inode, outcome="skipped_empty", rows=0)
                continue
            others = not place.namespace.home
            if others and spent and spent + place.cost > budget_s:
                self._log.note("all", place.inode, outcome="rotated")
                continue
            began = time.process_time()
            read += self._read_place(place)
            cost = time.process_time() - began
            # what waits to be decoded will take what it took the last time
            spent += cost + place.cost_later if others else 0.0
            place.cost, place.cost_later = cost, 0.0
            if place.dumped < 0:
                self._new_places.append(place.inode)
            place.dumped = self._sample.number
            dumped.append(place)
        self.steps.finish()
        self._take_readings(dumped, read)
        self._sample.reading = self._reading()
        return dumped

    def _take_readings(self, dumped: list[Place], read: list[_Read]) -> None:
        """Note what the tables of namespaces had."""
        inodes: dict[int, list[npt.NDArray[np.uint32]]] = {p.inode: [NO_INODES] for p in dumped}
        for place, step, row, reading in read:
            row |= _facts(reading) | {"cpu_us": row["cpu_us"] + reading.cpu_us}
            place.cost_later += reading.cpu_us / 1e6
            if wrong := place.compare(step, reading):
                self._disbelieve(step, wrong, row)
            inodes[place.inode].append(reading.inodes)
            if step.name in UNCOUNTED:
                place.uncounted[step.name] = reading.inodes
            if reading.dump.unknown:
                counts = self._sample.unknown.setdefault(step.name, {})
                for kind, count in reading.dump.unknown.items():
                    counts[kind] = counts.get(kind, 0) + count
        for place in dumped:
            place.cost += place.cost_later
            place.inodes = np.concatenate(inodes[place.inode])
            self._kernels[place.inode] = kernel_sockets.find(self.steps.gathered, place.inode)

    def _reading(self) -> list[Row]:
        """Return how each table was read so far, and in how many namespaces."""
        rows: list[Row] = []
        for step in self.steps:
            for source in tuple(step.read_in) or (None,):
                why = step.why if source != "diag" else None
                count = len(step.read_in.get(source, ())) if source else 0
                rows.append({"step": step.name, "source": source, "why": why, "namespaces": count})
        return rows

    def _read_place(self, place: Place) -> list[_Read]:
        number, log = self._sample.number, self._log
        read: list[_Read] = []
        whole = True
        for step in self.steps:
            if place.skips(step, number):
                whole = False
                step.skip(place.inode)
                log.note(step.name, place.inode, outcome="skipped_empty", rows=0)
                continue
            if step.rests(number):
                row = log.note(step.name, place.inode)
                reading = step.read(place, place.inode, number)
            else:
                with log.timed(step.name, place.inode) as row:
                    reading = step.read(place, place.inode, number)
            if step.name == "tcp" and reading.source == "diag" and self._filter is None:
                row["opened"] = 0
            read.append((place, step, row, reading))
        if whole:
            place.whole = number
        return read

    def _disbelieve(self, step: Step, sockets: int, row: Row) -> None:
        """Tell that the kernel did not count sockets of a table, which is read always from now."""
        step.believed = False
        row["detail"] = (
            f"the kernel counted none of {sockets} sockets; from here on its count is not believed"
        )
        self._sample.unseen.append(
            (
                f"{step.name} sockets of earlier samples",
                f"the kernel counted none where there were {sockets}",
            )
        )

    def _inodes(self) -> npt.NDArray[np.uint32]:
        return np.concatenate([NO_INODES, *(place.inodes for place in self.places)])

    def _sought(self) -> npt.NDArray[np.uint32]:
        """Return the inodes of all tables that a process may hold."""
        carriers = [kernels.carriers for kernels in self._kernels.values()]
        inodes = self._inodes()
        mine = np.concatenate([NO_INODES, *carriers])
        return inodes[~np.isin(inodes, mine)] if mine.size else inodes

    def _read_owners(self) -> None:
        if self._owners is None:
            return
        with self._log.timed("owners", HOST) as row:
            step = self._who.update(self._sought(), self._sample.time_us, self._owners_budget)
            some = [each for each in self._kernels.values() if each is not kernel_sockets.NONE]
            mine = sum(kernels.of(self._who.unheld) for kernels in some)
            sure = [kernels.certain(self._who.unheld) for kernels in some]
            self._who.of_kernel = np.concatenate([NO_INODES, *sure])
            row |= _owners_facts(step, step.unresolved - mine)
            if step.denied:
                why = "descriptors are unreadable"
                self._sample.unseen.append(("owners in some processes", why))
            if self._unexplained is not None and self.places.complete:
                if self._again:
                    self._unexplained.again()
                before = [part for place in self.places for part in place.uncounted.values()]
                shown = np.concatenate([self._inodes(), *before])
                self._add_rows(
                    "unexplained",
                    self._unexplained.update(shown, self._sample.number, self.places.oldest),
                )
        rows = list(self._who.rows(self._sample.time_us))
        if self._again:
            told = {(row["pid"], row["start_us"], row["comm"]) for row in rows}
            keys = ("pid", "start_us", "comm")
            rows += [r for r in self._who.again() if tuple(r[k] for k in keys) not in told]
        self._add_rows("owners", rows)

    def _read_processes(self) -> None:
        if self._processes is None:
            return
        if self._again:
            self._processes.again()
        with self._log.timed("processes", HOST) as row:
            step = self._look_at_processes(self._sample.time_us, self._processes_budget)
            row |= _processes_facts(step)
            self._add_rows("processes", step.rows)

    def _look_at_processes(self, now_us: int, budget_s: float) -> ProcessesStep:
        assert self._owners is not None
        assert self._processes is not None
        return self._processes.look(
            self._owners.descriptors(),
            now_us,
            budget=budget_s,
            waited_for=self._who.waited_for,
        )

    def _read_network(self, places: list[Place]) -> None:
        """Look at the network of the namespaces whose turn it was."""
        if self._network is None:
            return
        if self._again:
            self._network.again()
        with self._log.timed("network", HOST) as row:
            step = self._network.look(
                [place.inode for place in places],
                self._inside,
                self._sample.time_us,
                budget=self._network_budget,
                home=next((place.inode for place in places if place.namespace.home), None),
            )
            row |= {"source": "rtnetlink", "rows": step.looked, "left_out": step.left_out}
            if step.left_out:
                detail = f"{step.left_out} namespaces left out until their turn comes"
                row |= {"outcome": "partial", "detail": detail}
            for table, rows in step.rows.items():
                self._add_rows(table, rows)
        self._sample.unseen += step.unseen

    def _read_conntrack(self) -> None:
        """Look at the connection tracking tables whose time it is."""
        conntrack = self._conntrack
        if conntrack is None:
            return
        for place in [place for place in self.places if conntrack.is_due(place.inode)]:
            with self._log.timed("conntrack", place.inode) as row:
                (look,) = self.places.each(
                    [place], lambda namespace: conntrack.look(namespace.inode)
                )
                if isinstance(look, OSError):
                    row |= {"outcome": "error", "errno": look.errno, "detail": look.strerror}
                    continue
                outcome = look.outcome
                row |= {"source": "ctnetlink", "outcome": outcome.name, "rows": look.entries}
                row |= {"errno": outcome.errno, "detail": outcome.detail}
            if outcome.name == "unavailable" and outcome.detail:
                self._sample.unseen.append(("connection tracking tables", outcome.detail))
            self._add_rows("conntrack", ({"netns": place.inode} | one for one in look.rows))

    def _inside(
        self, namespaces: Sequence[int], action: Callable[[int], Dumped]
    ) -> list[Dumped | OSError]:
        places = [self.places[inode] for inode in namespaces]
        return self.places.each(places, lambda namespace: action(namespace.inode))

    def _make_sockets(self) -> None:
        """Make the rows of all dumps, and count the connections first seen."""
        sample = self._sample
        batches = []
        for key, table in self.steps.gathered.items():
            owners = self._observe(key, table)
            if not table.rows:
                continue
            batch = self._make_table(key, table, owners)
            if self._filter is not None:
                whole = batch
                batch, left_out = self._filtered(batch)
                self._uncount(key, whole.filter(pa.array(left_out)))
            if batch.num_rows:
                batches.append(batch)
        sample.sockets = sum(batch.num_rows for batch in batches)
        if sample.sockets < MERGED_ROWS and len(batches) > 1:
            batches = [pa.concat_batches(batches)]
        sample.batches += [("sockets", batch) for batch in batches]

    def _uncount(self, key: str, rows: pa.RecordBatch) -> None:
        """Take from what was read of a table the rows that the filter has left out."""
        step = key.rpartition("/")[2]
        six = np.asarray(pc.equal(rows.column("family"), "inet6").fill_null(False))
        netns = np.asarray(rows.column("netns"))
        for name, which in ((step, ~six), (f"{step}6", six)):
            for place, count in _counts(netns[which]):
                row = self._log.find(name, place) or self._log.of(step, place)
                row["rows"] -= count

    def _observe(self, key: str, table: Gathered) -> Arrays:
        """Return the owner columns of a table."""
        owners, opened = self._who.observe(key, table)
        if opened is not None and self._filter is None:
            netns = table.netns()
            # what is there when a namespace is first seen was opened before
            opened &= ~np.isin(netns, np.array(self._new_places, np.uint64))
            for place, count in _counts(netns[opened]):
                self._log.of(key, place)["opened"] = count
        return owners

    def _make_table(self, key: str, table: Gathered, owners: Arrays) -> pa.RecordBatch:
        netns = table.netns()
        columns = table.decoder.rows() | owners | {"netns": Values(netns)}
        if not self._unix_names and key.rpartition("/")[2] == "unix":
            columns = {name: c for name, c in columns.items() if name not in _UNIX_NAMES}
        columns |= self._labels.devices(netns, table.decoder.columns)
        columns |= self._labels.columns(columns)
        return self._batch("sockets", table.rows, columns)

    def _closed_in(self, netns: int) -> _Closed:
        return self._closed.setdefault(netns, _Closed())

    def _log_closes(self, cost: Row, dumped: list[Place]) -> None:
        """Add a row for each namespace that was dumped or had events; the first has the time."""
        if self._closes is None:
            return
        dump, self._closes_dump = self._closes_dump, Dump()
        if dump.unknown:
            self._sample.unknown["closes"] = dump.unknown
        cost["bytes"] = dump.bytes
        if dump.bad:
            detail = f"{dump.bad} broken events left out"
            cost |= {"outcome": "corrupt", "detail": detail}
        alive = {place.inode for place in dumped}
        for netns in alive:
            self._closed_in(netns)  # that none was received is told too
        for netns, closed in self._closed.items():
            if not (closed.events or closed.lost or netns in alive):
                continue
            self._sample.closes += closed.events
            self._sample.lost += closed.lost
            facts: Row = {"rows": closed.events, "lost": closed.lost}
            if self._filter is None:  # what a filter let through later may be older
                facts["opened"] = closed.opened
            if closed.lost:
                facts |= {
                    "outcome": "partial",
                    "detail": f"{closed.lost} events lost as the buffer was full",
                }
            self._log.note("closes", netns, source="diag", **cost | facts)
            cost = {"t0": cost["t0"], "t1": cost["t1"]}
        self._closed = {}

    def _read_settings(self) -> None:
        """Look at the settings of new namespaces, and of those whose turn it is."""
        number = self._sample.number
        every = self._settings_every
        most = max(1, len(self.places) // every)
        due = sorted(self.places, key=lambda place: self._checked.get(place.inode, -every))
        due = [
            place
            for place in due[: most + NEW_SETTINGS]
            if number - self._checked.get(place.inode, -every) >= every
        ]
        changed = []
        if any(place.namespace.home for place in due) or len(self._checked) == 0:
            changed.append((HOST, self._settings.changed(HOST, settings.read_host())))
        values_of = self.places.each(due, lambda _: settings.read_namespace())
        for place, values in zip(due, values_of, strict=True):
            self._checked[place.inode] = number
            if not isinstance(values, OSError):
                changed.append((place.inode, self._settings.changed(place.inode, values)))
        if self._again:
            gone = [(netns, [row for row in rows if row[1] is None]) for netns, rows in changed]
            changed = self._settings.all() + gone
        self._sample.missing_sysctls = self._settings.missing()
        self._add("settings", settings.columns(changed))

    def _add(self, table: str, columns: Arrays) -> None:
        """Add rows to the sample, if any; their number is that of any of the columns."""
        if not columns:
            return
        first = next(iter(columns.values()))
        count = len(first.data if isinstance(first, Values) else first)
        if count:
            self._sample.batches.append((table, self._batch(table, count, columns)))

    def _add_rows(self, table: str, rows: Iterable[Row]) -> None:
        listed = list(rows)
        values: dict[str, list[Any]] = {}
        for place, row in enumerate(listed):
            for name, value in row.items():
                if name not in values:
                    values[name] = [None] * len(listed)
                values[name][place] = value
        schema = self._makers[table].schema
        self._add(
            table,
            {
                name: pa.array(values[name], schema.field(name).type)
                for name in schema.names
                if name in values
            },
        )

    def _batch(self, table: str, count: int, columns: Arrays) -> pa.RecordBatch:
        sample = {
            "sample": Values(np.full(count, self._sample.number, np.uint32)),
            "sample_time": Values(np.full(count, self._sample.time_us, np.int64)),
        }
        return self._makers[table].make(count, columns | sample)


def _counts(netns: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Return how often each namespace occurs."""
    places, counts = np.unique(netns, return_counts=True)
    return list(zip(places.tolist(), counts.tolist(), strict=True))


def _counted(change: Changes) -> Row:
    if not change.broken:
        return {"rows": change.rows}
    detail = f"{change.broken} lines or values could not be read"
    return {"rows": change.rows, "outcome": "corrupt", "detail": detail}


def _facts(reading: Reading) -> Row:
    dump = reading.dump
    return {
        "source": reading.source,
        "rows": reading.rows,
        "bytes": dump.bytes,
        "outcome": dump.outcome.name,
        "errno": dump.outcome.errno,
        "detail": dump.outcome.detail,
        "repeated": dump.repeated,
    }


def _owners_facts(step: OwnersStep, unresolved: int) -> Row:
    detail = {
        "inodes without a process": unresolved,
        "processes whose descriptors may not be read": step.denied,
    }
    return _proc_facts(step.processes, detail) | {
        "unresolved": unresolved,
        "denied": step.denied,
        "tables_read": step.tables_read,
    }


def _processes_facts(step: ProcessesStep) -> Row:
    detail = {
        "processes left out until their turn comes": step.left_out,
        "processes that may not be seen": step.denied,
    }
    return _proc_facts(step.looked, detail) | {"denied": step.denied, "left_out": step.left_out}


def _proc_facts(rows: int, lacking: dict[str, int]) -> Row:
    """Return what a step over /proc did; ``lacking`` says how many of what it did not see."""
    detail = [f"{count} {what}" for what, count in lacking.items() if count]
    return {
        "source": "proc",
        "rows": rows,
        "bytes": 0,
        "outcome": "partial" if detail else "ok",
        "detail": ", ".join(detail) or None,
    }
