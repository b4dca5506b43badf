"""What is made of a recording before it is handed over, by how its columns may be shared."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.reading.rows import TEXT, Part, Rewrite, TableRows
from analyzer.sharing import addresses
from analyzer.sharing.known import is_known, is_protocol, scrub
from analyzer.sharing.pseudonyms import Pseudonyms
from analyzer.sharing.selection import Selection
from analyzer.sharing.words import Level
from recorder.schema import TABLES, Column, SockrecError, Table

_KIND_OF = {
    "comm": "app",
    "busiest_comm": "app",
    "user": "user",
    "dev": "dev",
    "iif": "dev",
    "oif": "dev",
    "unit": "unit",
    "slice": "slice",
    "container": "container",
    "pod": "pod",
    "name": "netns",
    "cgroup": "cgroup",
    "path": "cgroup",
    "exe": "exe",
}
"""The kind of pseudonym of a column that is shared as a name or a path."""

_DAY_US = 86_400_000_000
_SHIFT_DAYS = 7300

# How recording.json is shared; what is not named here is left out.
_FACTS_KEPT = frozenset(
    "version sockrec interval_us tables owners network skipped machine kernel uid netns sysctl "
    "missing_sysctls unknown_attributes samples socket_rows".split()
)
_EXITS = frozenset({"duration", "samples", "signal", "command", "save", "imported"})
_IMPORTED = frozenset({"log", "dump"})
_KEPT_NETNS = re.compile(r"all|current|\d{1,10}")


class RedactionError(SockrecError):
    """Something that is not known how to be shared."""


@dataclass
class Account:
    """What became of values: distinct ones by table and column, kept, replaced and dropped."""

    kept: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


class Redaction:
    """Redacts the rows and the facts of a selection.

    The result is to be searched for ``originals``, which are replaced, and for ``words``: what is
    dropped, and its words. ``kept_words`` stay. Raises MapError if there are more values than
    pseudonyms.
    """

    def __init__(
        self,
        selection: Selection,
        facts: Mapping[str, Any],
        level: Level,
        known: Pseudonyms | None = None,
        *,
        prefixes: bool = False,
        shift: bool = False,
    ) -> None:
        self._level = level
        self.account = Account()
        self.originals: set[str] = set()
        self.words: set[str] = set()
        self.kept_words: set[str] = set()
        self._cache: dict[tuple[str, str], str | None] = {}
        found: dict[str, set[str]] = {}
        distinct = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for table, column, values in _values(selection):
            if column.share == "keep":
                self.kept_words |= {word.lower() for v in values for word in re.findall(r"\w+", v)}
                continue
            distinct.update(json.dumps([table.name, column.name, sorted(values)]).encode())
            self._look(table, column, values, found)
        self._look_at_facts(facts, found)
        if known is None:
            # The same recording gives the same names, and who has not got it cannot guess the key.
            key = hmac.digest(_content(selection.parts), distinct.digest(), "sha256")
            known = Pseudonyms(key, prefixes=prefixes)
        elif prefixes and not known.prefixes:
            raise RedactionError(
                "the map was made without --prefix-preserving: leave that out, or the map"
            )
        if shift and not known.shift_us:
            known.shift_us = _shift(known.key)
        self.pseudonyms = known
        self._shift_us = known.shift_us if shift else 0
        known.add(found)

    # What there is.

    def _look(
        self, table: Table, column: Column, values: set[str], found: dict[str, set[str]]
    ) -> None:
        name = f"{table.name}.{column.name}"
        if column.share == "drop":
            self.account.dropped[name] += len(values)
            self._add_dropped(values)
            return
        for value in values:
            if column.share == "text":
                _, removed = self._text(value, found)
                self.account.replaced[name] += bool(removed)
                self.account.kept[name] += not removed
                self._add_dropped(removed)
                continue
            replaced = False
            for kind, part in self._parts(column, value):
                if self._is_replaced(kind, part):
                    found.setdefault(kind, set()).add(part)
                    self.originals.add(part)
                    replaced = True
            self.account.replaced[name] += replaced
            self.account.kept[name] += not replaced
            if not replaced:
                self.kept_words |= {value, value.lower(), *re.findall(r"\w+", value.lower())}

    def _look_at_facts(self, facts: Mapping[str, Any], found: dict[str, set[str]]) -> None:
        for kind, name in (("host", "host"), ("boot", "boot_id")):
            value = facts.get(name)
            if isinstance(value, str) and value:
                found.setdefault(kind, set()).add(value)
                self.originals.add(value)
        command = facts.get("command")
        self._add_dropped(map(str, command) if isinstance(command, list) else ())
        for value in facts.get("netns_selected") or ():
            if isinstance(value, str) and not _KEPT_NETNS.fullmatch(value):
                found.setdefault("netns", set()).add(value)
                self.originals.add(value)
        self._add_dropped(map(str, _imported(facts).get("files") or ()))
        if isinstance(facts.get("filter"), str):
            self._add_dropped([facts["filter"]])
        for text in _texts(facts):
            self._add_dropped(scrub(text)[1])
        cut = facts.get("cut")
        if isinstance(cut, dict) and cut.get("where"):
            self._add_dropped([str(cut["where"])])

    def _add_dropped(self, texts: Any) -> None:
        for text in texts:
            self.words |= {text, *re.split(r"[\s\"'=,;()\[\]{}<>]+", text)}

    def _parts(self, column: Column, value: str) -> Iterator[tuple[str, str]]:
        """Yield of what a value consists, each with its kind; what is neither stays."""
        if column.share == "address":
            yield from _address_parts(value)
        elif column.name not in _KIND_OF:
            raise RedactionError(f"column {column.name}: shared as {column.share}, as which kind?")
        elif column.name == "name":
            yield from (("netns", part) for part in value.split(",") if part)
        else:
            yield _KIND_OF[column.name], value

    def _is_replaced(self, kind: str, value: str) -> bool:
        if kind == "address":
            parsed = addresses.parse(value)
            return parsed is not None and not addresses.is_kept(parsed[0])
        if not value:
            return False
        return self._level == Level.all or not is_known(kind, value)

    # What is made of it.

    def rewrite(self, table: Table) -> Rewrite | None:
        """Return what is made of the columns of a table."""
        columns = {column.name: column for column in table.columns}

        def made(name: str, array: pa.Array) -> pa.Array:
            column = columns[name]
            if column.kind == "time" and self._shift_us:
                return pc.add(array.cast(pa.int64()), self._shift_us).cast(array.type)
            if column.share == "keep":
                return array
            if column.share == "drop" or not pa.types.is_dictionary(array.type):
                return pa.nulls(len(array), array.type)
            return _mapped(array, lambda value: self._value(column, value))

        return made

    def _value(self, column: Column, value: str) -> str | None:
        key = (f"{column.share}.{column.name}", value)
        if key not in self._cache:
            self._cache[key] = self._made(column, value)
        return self._cache[key]

    def _made(self, column: Column, value: str) -> str | None:
        if column.share == "text":
            return self._text(value, None)[0]
        if column.share == "address":
            return self._address(value)
        if column.name == "name":
            return ",".join(self._name("netns", part) for part in value.split(","))
        return self._name(_KIND_OF[column.name], value)

    def _name(self, kind: str, value: str) -> str:
        return self.pseudonyms.names[kind][value] if self._is_replaced(kind, value) else value

    def _address(self, value: str) -> str:
        """Return an address, an address with a scope, or a name of a unix socket, replaced."""
        parsed = addresses.parse(value)
        if parsed is None:
            for kind, part in _address_parts(value):
                return self._name(kind, part)
            return value
        address, scope = parsed
        within = addresses.embedded(address)
        if within is not None:
            made = addresses.embed(address, IPv4Address(self._name("address", str(within))))
        else:
            made = self._name("address", str(address))
        return made if scope is None else f"{made}%{self._name('dev', scope)}"

    def _text(self, value: str, found: dict[str, set[str]] | None) -> tuple[str | None, list[str]]:
        """Return what is left of JSON or of a sentence, and what was removed.

        With ``found`` the addresses in it are only added there.
        """
        try:
            facts = json.loads(value)
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            return scrub(value)
        removed: list[str] = []

        def walked(item: Any) -> Any:
            if isinstance(item, dict):
                return {
                    key: walked(one)
                    for key, one in item.items()
                    if _is_field(key, removed) and "token" not in key
                }
            if isinstance(item, list):
                return [walked(one) for one in item]
            if not isinstance(item, str):
                return item
            host, _, port = item.rpartition(":")
            bare = host.strip("[]") if addresses.parse(item) is None and port.isdigit() else item
            if addresses.parse(bare) is None:
                text, gone = scrub(item)
                removed.extend(gone)
                return text if not gone else None
            if found is not None:
                for kind, part in _address_parts(bare):
                    if self._is_replaced(kind, part):
                        found.setdefault(kind, set()).add(part)
                        self.originals.add(part)
                return item
            return item.replace(bare, self._address(bare)) if bare else item

        return json.dumps(walked(facts), separators=(",", ":")), removed

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return recording.json as it may be shared; what is not known how is left out."""
        made: dict[str, Any] = {}
        for name, value in facts.items():
            if name in _FACTS_KEPT:
                made[name] = value
            elif name in ("started", "ended"):
                made[name] = self._time(value)
        host, boot = facts.get("host"), facts.get("boot_id")
        made["host"] = self._name("host", host) if isinstance(host, str) and host else None
        made["boot_id"] = self._boot(boot) if isinstance(boot, str) and boot else None
        ended = facts.get("exit")
        made["exit"] = ended if ended is None or ended in _EXITS else "error"
        made["command"] = None
        made["netns_selected"] = [
            value if _KEPT_NETNS.fullmatch(value) else self._name("netns", value)
            for value in facts.get("netns_selected") or ()
            if isinstance(value, str)
        ]
        for name in ("unseen", "reading", "trouble"):
            items = [item for item in facts.get(name) or () if isinstance(item, dict)]
            made[name] = [
                {
                    key: self._time(value)
                    if key == "time"
                    else scrub(value)[0]
                    if isinstance(value, str)
                    else value
                    for key, value in item.items()
                }
                for item in items
            ]
        source = _imported(facts).get("from")
        if source in _IMPORTED:
            made["imported"] = {"from": source}
        if facts.get("filter"):
            made["filter"] = "…"
        runs = facts.get("runs")
        if isinstance(runs, list):
            made["runs"] = [
                {name: self._time(run.get(name)) for name in ("started", "ended")}
                for run in runs
                if isinstance(run, dict)
            ]
        clock = facts.get("clock")
        if isinstance(clock, dict):
            made["clock"] = dict(clock)
            if isinstance(clock.get("realtime_us"), int):
                made["clock"]["realtime_us"] += self._shift_us
        cut = facts.get("cut")
        if isinstance(cut, dict):
            made["cut"] = {name: cut.get(name) for name in ("from_us", "to_us", "context", "had")}
            made["cut"]["where"] = "…" if cut.get("where") else None
            for name in ("from_us", "to_us"):
                if isinstance(cut.get(name), int):
                    made["cut"][name] += self._shift_us
        return made

    def moment(self, time_us: int | None) -> int | None:
        """Return a time as the redacted recording has it."""
        return None if time_us is None else time_us + self._shift_us

    def _boot(self, value: str) -> str:
        return self.pseudonyms.names["boot"][value]

    def _time(self, value: object) -> object:
        if not isinstance(value, str):
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        moved = moment + timedelta(microseconds=self._shift_us)
        return moved.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_field(key: str, removed: list[str]) -> bool:
    """Tell a name of a kernel's header from a text that someone put in its place."""
    if re.fullmatch(r"[a-z][a-z0-9_]{0,40}", key):
        return True
    removed.append(key)
    return False


def _address_parts(value: str) -> Iterator[tuple[str, str]]:
    """Yield the address, interface or unix socket in a local or peer address."""
    parsed = addresses.parse(value)
    if parsed is None:
        if not is_protocol(value):
            yield ("unix-name" if value.startswith("@") else "unix-path"), value
        return
    address, scope = parsed
    within = addresses.embedded(address)
    yield "address", str(address if within is None else within)
    if scope:
        yield "dev", scope


def _imported(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return of what an imported recording was made."""
    imported = facts.get("imported")
    return imported if isinstance(imported, dict) else {}


def _texts(facts: Mapping[str, Any]) -> Iterator[str]:
    for name in ("unseen", "reading", "trouble"):
        for item in facts.get(name) or ():
            if isinstance(item, dict):
                yield from (
                    value for key, value in item.items() if isinstance(value, str) and key != "time"
                )
    ended = facts.get("exit")
    if isinstance(ended, str) and ended not in _EXITS:
        yield ended


def _shift(key: bytes) -> int:
    """Return by how much times are moved: whole microseconds, up to twenty years back."""
    number = int.from_bytes(hmac.digest(key, b"shift", "sha256")[:8], "big")
    return -(number % (_SHIFT_DAYS * _DAY_US)) - _DAY_US


def _content(parts: Sequence[Part]) -> bytes:
    """Return a digest of all that was recorded, by the checksums of its files."""
    content = hashlib.sha256()
    for part in parts:
        for segment in part.recording.segments:
            content.update(f"{segment.table.name} {segment.rows} {segment.footer}".encode())
    return content.digest()


def _values(selection: Selection) -> Iterator[tuple[Table, Column, set[str]]]:
    """Yield the distinct values of the rows that are chosen, of each column of texts."""
    for table in TABLES.values():
        chosen = _chosen(selection, table)
        rows = selection.rows(table)
        for place, column in enumerate(table.columns):
            if column.kind in ("word", "text"):
                yield table, column, _distinct(rows, place, chosen)
            elif column.share not in ("keep", "drop"):
                raise RedactionError(f"{table.name}.{column.name}: a number shared as text")


def _chosen(selection: Selection, table: Table) -> npt.NDArray[np.bool_]:
    places = selection.places[table.name]
    if table.name == "sockets":
        places = np.concatenate((places, selection.context))
    chosen = np.zeros(int(places.max(initial=-1)) + 1, bool)
    chosen[places] = True
    return chosen


def _distinct(rows: TableRows, place: int, chosen: npt.NDArray[np.bool_]) -> set[str]:
    found: set[str] = set()
    first = 0
    for batch in rows.read([place]):
        column = batch.column(0)
        wanted = chosen[first : first + len(column)]
        first += len(column)
        if wanted.any() and column.null_count < len(column):
            indices = column.indices.slice(0, len(wanted)).filter(pa.array(wanted)).unique()
            found.update(column.dictionary.take(indices.drop_null()).to_pylist())
    return found


def _mapped(array: pa.DictionaryArray, made: Callable[[str], str | None]) -> pa.DictionaryArray:
    """Return a column of texts with something made of each; only words that rows use are left."""
    used = array.indices.unique().drop_null()
    words = [made(word) for word in array.dictionary.take(used).to_pylist()]
    new = list(dict.fromkeys(word for word in words if word is not None))
    place = {word: number for number, word in enumerate(new)}
    table: list[int | None] = [None] * len(array.dictionary)
    for index, word in zip(used.to_pylist(), words, strict=True):
        table[index] = None if word is None else place[word]
    indices = pa.array(table, pa.int32()).take(array.indices) if table else array.indices
    return pa.DictionaryArray.from_arrays(indices, pa.array(new, pa.string())).cast(TEXT)
