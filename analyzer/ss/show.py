"""What is asked of which moment, and what ss would have printed then."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.screen.cells import printable
from analyzer.ss.layout import NETID_FIELD, STATE_FIELD, Field, Layout, together
from analyzer.ss.moments import Moment, Moments, clock, told
from analyzer.ss.rows import Mask, Rows, associations, in_order
from analyzer.ss.selection import INET, Selection, SelectionError
from analyzer.ss.summary import Counts
from analyzer.ss.view import columns, fields, group_of
from analyzer.ss.words import Names, Options
from recorder.schema import CLOSES, NAMESPACES, OWNERS, SAMPLES, SOCKETS, public_schema
from recorder.ssfilter import Autobound, Filter, Owner, leaves
from recorder.ssfilter.rows import LOOKED_AT, Known, matching

if TYPE_CHECKING:
    from analyzer.sql.views import Filtered, Scope

_QUEUES = (2, 3)
_KEY = ("netns", "cookie")


@dataclass
class Asked:
    """Everything that options say."""

    selection: Selection = field(default_factory=Selection)
    filter: str = ""
    options: Options = field(default_factory=Options)
    at: str | None = None
    every: float | None = None
    start: str | None = None
    end: str | None = None
    zone: tzinfo = UTC
    netns: str | None = None
    header: bool = True
    queues: bool = True
    threads: bool = False
    summary: bool = False
    events: bool = False
    json: bool = False


class Recorded:
    """What of a recording no option changes: its moments, namespaces and ranges of ports."""

    def __init__(self, rows: Rows, zone: tzinfo, scope: Scope | None = None) -> None:
        self.rows = rows
        self.scope = scope
        self.moments = Moments(rows, zone)
        self._steps: dict[int, list[dict[str, Any]]] = {}

    @cached_property
    def spaces(self) -> dict[int, tuple[str, bool]]:
        """The names of the namespaces, and which one the recorder was started in."""
        known: dict[int, tuple[str, bool]] = {}
        for row in self.rows.read(NAMESPACES, ["netns", "name", "home", "entered"]).to_pylist():
            if row["entered"]:
                name, home = known.get(row["netns"], ("", False))
                known[row["netns"]] = (name or str(row["name"] or ""), home or bool(row["home"]))
        if known:
            return known
        found, _ = together(self.rows.read(SOCKETS, ["netns"])["netns"])
        return {netns: ("", len(found) == 1) for (netns,) in found}

    @cached_property
    def ranges(self) -> dict[int, tuple[int, int]]:
        """Of each namespace, the ports that connections take where none is asked for."""
        query = "SELECT netns, low, high FROM port_ranges"
        found = self.rows.engine.table(query, few=True).to_pylist()
        return {row["netns"]: (row["low"], row["high"]) for row in found}

    def steps(self, sample: int) -> list[dict[str, Any]]:
        """Return the tables that may lack rows at a sample."""
        if sample not in self._steps:
            names = ["step", "netns", "outcome", "detail"]
            known: dict[tuple[Any, ...], Any] = {}
            for row in self.rows.read(SAMPLES, names, sample).to_pylist():
                *step, detail = row.values()
                if row["outcome"] not in ("ok", "skipped_empty") and None not in step:
                    known[tuple(step)] = known.get(tuple(step)) or detail
            found = [dict(zip(names, (*step, why), strict=True)) for step, why in known.items()]
            self._steps[sample] = sorted(found, key=itemgetter("step", "netns", "outcome"))
        return self._steps[sample]

    def space(self, netns: int) -> str:
        """Return the name of a namespace, its number if it has none."""
        names = self.spaces.get(netns, ("", False))[0]
        return printable(names.partition(",")[0]) or str(netns)


class Show:
    """Answers what is asked of one recording; ``note`` tells what is not part of the answer."""

    def __init__(
        self,
        recorded: Recorded,
        asked: Asked,
        out: TextIO,
        note: Callable[[str], None],
        width: int | None = None,
    ) -> None:
        self._recorded = recorded
        self._source = recorded.rows
        self._moments = recorded.moments
        self._asked = asked
        self._out = out
        self._note = note
        self._width = width
        self._only_summary = asked.summary and not asked.filter and asked.selection.is_default
        self._filter = asked.selection.filtered(asked.filter)
        for warning in self._filter.warnings:
            note(warning)
        self._chosen = self._choose(asked.netns)
        auto = any(isinstance(leaf, Autobound) for leaf in leaves(self._filter.tree))
        named = not (asked.options.numeric or self._only_summary) and INET & asked.selection.tables
        self._ranges = recorded.ranges if auto or named else {}
        if asked.threads:
            note("threads are not recorded: -T shows processes")

    def run(self) -> None:
        """Print it. Raises SockrecError."""
        if self._asked.events:
            self._events()
            return
        moments = self._wanted()
        if self._asked.json and self._asked.every is None:
            self._json(moments[0])
            return
        for moment in moments:
            if self._asked.every is not None:
                self._out.write(f"{clock(moment.us, self._asked.zone)}\n")
            if self._asked.json:
                self._json(moment)
            else:
                self._moment(moment)

    def _wanted(self) -> list[Moment]:
        asked = self._asked
        _, last = self._moments.span
        if asked.every is None:
            found = self._moments.find(asked.at or "last")
            self._note(f"at {told(found, asked.zone)}")
            return [found]
        start = self._moments.find(asked.start or asked.at or "first").us
        end = self._moments.find(asked.end).us if asked.end else last
        return self._moments.every(asked.every, start, end)

    def _moment(self, moment: Moment) -> None:
        if self._asked.summary:
            self._summary(moment)
            if self._only_summary:
                return
        self._tell_unread(moment)
        table = self._rows(moment)
        names = Names(self._asked.options, self._ranges, self._processes(moment))
        shown = fields(table, self._asked.options, names)
        for lines in self._layout().text(shown, self._space_of(table)):
            self._out.write(lines)
        self._tell_shared(table)

    def _space_of(self, table: pa.Table) -> Field | None:
        return Field.of(self._recorded.space, table["netns"]) if self._every_space else None

    def _layout(self) -> Layout:
        selection = self._asked.selection
        hidden = [] if self._asked.queues else list(_QUEUES)
        hidden += [NETID_FIELD] * (len(selection.tables) == 1)
        hidden += [STATE_FIELD] * (len(selection.states) == 1)
        return Layout(
            hidden=hidden,
            header=self._asked.header,
            width=self._width,
            netns=self._every_space,
        )

    def _rows(self, moment: Moment, names: Sequence[str] | None = None) -> pa.Table:
        groups = {group_of(netid) for netid in self._asked.selection.netids()}
        wanted = names or columns(self._asked.options, sorted(groups), SOCKETS.names)
        also = LOOKED_AT if self._filter.tree else ()
        read = list(dict.fromkeys([*wanted, *also]))
        described = self._described(moment)

        def chosen(batch: pa.RecordBatch) -> Mask:
            mask = self._shown(batch) & matching(self._plain, batch, Known(self._ranges))
            if described is not None:
                keys = zip(*(batch[name].to_pylist() for name in _KEY), strict=True)
                mask &= np.fromiter((key in described for key in keys), np.bool_, len(mask))
            return mask

        found = self._source.read(SOCKETS, read, moment.sample, chosen)
        return in_order(found).select(wanted)

    @cached_property
    def _plain(self) -> Filter:
        """The conditions of the filter alone: its states and family are part of the selection."""
        tree = None if self._by_scope else self._filter.tree
        return replace(self._filter, tree=tree, states=None, family=None)

    def _shown(self, batch: pa.RecordBatch) -> Mask:
        """Return which rows are of the namespace, tables, families and states that are chosen."""
        tables = self._asked.selection.tables
        hangs = associations(batch) if "sctp" in tables else np.zeros(len(batch), np.bool_)
        of_proc = np.asarray(pc.less(batch["cookie"], 0).fill_null(False))
        kinds = [batch[name] for name in ("netns", "netid", "family", "state")]
        values, of = together(*kinds, pa.array(of_proc), pa.array(hangs))
        shows = [
            self._chosen in (None, netns) and self._asked.selection.shows(*kind)
            for netns, *kind in values
        ]
        return np.array(shows, np.bool_)[of]

    def _described(self, moment: Moment) -> set[tuple[int, int]] | None:
        """Return the sockets of a scope, where rows alone do not tell which they are."""
        if self._by_scope is None and self._recorded.scope is None:
            return None
        scope = replace(self._scope, start=moment.us, end=moment.us + 1)
        query = f"SELECT {', '.join(_KEY)} FROM sockets WHERE sample = {moment.sample}"
        found = self._source.engine.table(query, scope)
        return set(zip(*(column.to_pylist() for column in found.columns), strict=True))

    @property
    def _scope(self) -> Scope:
        from analyzer.sql.views import WHOLE

        return replace(self._recorded.scope or WHOLE, filter=self._by_scope)

    @cached_property
    def _by_scope(self) -> Filtered | None:
        """The filter as what a scope is narrowed by, if rows alone do not tell what it asks for."""
        found = self._filter
        if not any(isinstance(leaf, Owner) for leaf in leaves(found.tree)):
            return None
        from analyzer.sql.filters import is_described, tree_condition
        from analyzer.sql.views import Filtered

        if found.tree is None or not is_described(found):
            return None
        tree, ranges = found.tree, self._ranges
        conditions = (tree_condition(tree, table, ranges) for table in (SOCKETS, CLOSES))
        return Filtered(found.text, *conditions)

    def _of_chosen(self) -> str:
        return "true" if self._chosen is None else f"netns = {self._chosen}"

    def _json(self, moment: Moment) -> None:
        table = self._rows(moment, SOCKETS.names)
        rows = (
            {name: _plain(value) for name, value in row.items() if value is not None}
            for row in table.to_pylist()
        )
        self._out.write("[")
        for number, row in enumerate(rows):
            self._out.write(f"{',' * (number > 0)}\n {json.dumps(row, ensure_ascii=True)}")
        self._out.write("\n]\n")

    def _events(self) -> None:
        """Print each close as ss -E does: the columns grow with what they have to hold."""
        asked = self._asked
        bounds = ["true"]
        if asked.start or asked.at:
            bounds.append(f"t_us >= {self._moments.find(asked.start or asked.at or '').us}")
        if asked.end:
            bounds.append(f"t_us <= {self._moments.find(asked.end).us}")
        tables = asked.selection.tables & {"tcp", "udp"}
        families = asked.selection.families & {"inet", "inet6"}
        if not tables or not families:
            raise SelectionError("only TCP and UDP sockets are announced when they close", "-E")
        kinds = " OR ".join(
            f"(netid = '{table}' AND family = '{family}')"
            for table in sorted(tables)
            for family in sorted(families)
        )
        condition = f"({kinds})"
        if self._filter.tree is not None and self._by_scope is None:
            from analyzer.sql.filters import tree_condition

            condition += f" AND {tree_condition(self._filter.tree, CLOSES, self._ranges)}"
        known = [name for name in SOCKETS.names if name in CLOSES.names]
        table = self._source.engine.table(
            f"SELECT {', '.join(known)}, 'UNCONN' AS state, CAST(NULL AS BOOLEAN) AS v6only, "
            "CAST(0 AS BIGINT) AS inode, CAST(NULL AS SMALLINT) AS protocol "
            f"FROM closes AS sockets WHERE {' AND '.join(bounds)} AND {self._of_chosen()} "
            f"AND {condition} ORDER BY time, cookie",
            self._scope,
        )
        for column in public_schema(SOCKETS):  # of what is closed less is known
            if column.name not in table.column_names:
                table = table.append_column(column, pa.nulls(table.num_rows, column.type))
        names = Names(asked.options, self._ranges)
        shown = fields(table, asked.options, names)
        self._out.writelines(self._layout().growing(shown, self._space_of(table)))

    def _summary(self, moment: Moment) -> None:
        spaces = sorted(self._recorded.spaces) if self._chosen is None else [self._chosen]
        for netns in spaces:
            if self._every_space:
                self._out.write(f"Netns: {self._recorded.space(netns)}\n")
            counts = Counts.read(
                self._source, moment.sample, netns, alone=len(self._recorded.spaces) == 1
            )
            if counts is None:
                self._note(f"of {self._recorded.space(netns)} no counters were recorded by then")
                continue
            self._out.writelines(counts.lines())

    @property
    def _every_space(self) -> bool:
        return self._asked.netns == "all"

    def _choose(self, wanted: str | None) -> int | None:
        """Return the namespace that is shown, None for all."""
        if wanted == "all" or not self._recorded.spaces:
            return None
        if wanted is not None:
            for netns, (names, _) in self._recorded.spaces.items():
                if wanted in (str(netns), *names.split(",")):
                    return netns
            known = ", ".join(
                self._recorded.space(netns) for netns in sorted(self._recorded.spaces)
            )
            raise SelectionError(f"{wanted!r} was not recorded; there are {known}", "--net")
        home = [netns for netns, (_, is_home) in self._recorded.spaces.items() if is_home]
        if not home:
            facts = self._source.sources.recordings[0].facts.get("netns")
            home = [netns for netns in self._recorded.spaces if netns == facts] or sorted(
                self._recorded.spaces
            )
        if len(self._recorded.spaces) > 1:
            others = len(self._recorded.spaces) - 1
            self._note(
                f"of {self._recorded.space(home[0])}, in which the recorder was started; "
                f"{others:,} more by -N NAME, or -N all"
            )
        return home[0]

    def _processes(self, moment: Moment) -> dict[int, str]:
        """Return the names of the processes that hold sockets, for the ports of netlink."""
        if self._asked.options.numeric or "netlink" not in self._asked.selection.tables:
            return {}
        us = moment.us
        found = self._source.read(OWNERS, ["pid", "comm", "valid_from", "valid_to"])
        since, until = (found[name].cast(pa.int64()) for name in ("valid_from", "valid_to"))
        lasts = pc.and_(pc.less_equal(since, us), pc.greater(until.fill_null(us + 1), us))
        held = found.filter(lasts).to_pylist()
        return {row["pid"]: printable(str(row["comm"] or "")) for row in held if row["pid"]}

    def _tell_unread(self, moment: Moment) -> None:
        """Tell which tables could not be read at that moment."""
        groups = {group_of(netid) for netid in self._asked.selection.netids()}
        found = [
            row
            for row in self._recorded.steps(moment.sample)
            if row["step"].removesuffix("6") in groups and self._chosen in (None, row["netns"])
        ]
        missing = [row["step"] for row in found if row["outcome"] == "unavailable"]
        if missing and not self._asked.selection.is_default:
            self._note(f"the kernel had no table of {', '.join(missing)}")
        for row in found:
            if row["outcome"] != "unavailable":
                why = printable(str(row["detail"] or row["outcome"]))
                self._note(f"{row['step']} may lack sockets at that moment: {why}")

    def _tell_shared(self, table: pa.Table) -> None:
        if not self._asked.options.processes:
            return
        shared = sum(holders > 1 for holders in table["holders"].to_pylist() if holders)
        if shared:
            told = "socket is" if shared == 1 else "sockets are"
            self._note(f"{shared:,} {told} held by several processes: -p names the oldest")


def _plain(value: object) -> object:
    if isinstance(value, (bool, int, float, str)):
        return value
    isoformat = getattr(value, "isoformat", None)
    return f"{isoformat()}Z" if isoformat else str(value)
