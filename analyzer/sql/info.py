"""What a recording is: its host, its span, what it holds, and what it could not see."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from analyzer.reading.segment import Missing
from analyzer.screen.render import printable
from analyzer.sql.catalog import find_report
from analyzer.sql.engine import Engine
from analyzer.sql.marks import marks
from analyzer.sql.views import Scope
from recorder.format.segments import Dropped
from recorder.schema import TABLES

LATE_SHARE = 0.1
"""A sample is late from this share of the interval on."""

_MOST_TOLD = 20
"""Of what befell the recorder, and of marks, the latest so many are told to a person."""

_SAMPLES = """
SELECT
  count(*) AS samples,
  min(t_us) AS first_us,
  max(t_us) AS last_us,
  count(*) FILTER (WHERE late_us > {late}) AS late,
  max(late_us) AS most_late_us,
  CAST(sum(skipped) AS BIGINT) AS skipped
FROM (
  SELECT sample, min(t_us) AS t_us, max(late_us) AS late_us, max(skipped) AS skipped
  FROM samples
  GROUP BY sample
)
"""

_LONE_SOCKETS = """
SELECT
  count(DISTINCT sample) AS samples, min(t_us) AS first_us, max(t_us) AS last_us,
  NULL AS late, NULL AS most_late_us, NULL AS skipped
FROM sockets
"""

_OUTCOMES = """
SELECT
  step,
  outcome,
  count(DISTINCT sample) AS samples,
  -- What a sample lost is in its detail; beside the total of all it would mislead.
  CASE
    WHEN step = 'closes' AND sum(lost) > 0
      THEN format('{:,} events lost', CAST(sum(lost) AS BIGINT))
    ELSE max(detail)
  END AS detail
FROM samples
WHERE outcome NOT IN ('ok', 'skipped_empty')
GROUP BY step, outcome
ORDER BY step, outcome
"""

_ROWS = "SELECT " + ", ".join(f"(SELECT count(*) FROM raw.{name}) AS {name}" for name in TABLES)

_NAMESPACES = """
SELECT count(*) AS found, CAST(sum(entered) AS BIGINT) AS entered
FROM (
  SELECT netns, max(CASE WHEN entered THEN 1 ELSE 0 END) AS entered FROM namespaces GROUP BY netns
)
"""

_CLOSES = """
SELECT CAST(sum(rows) AS BIGINT) AS events, CAST(sum(lost) AS BIGINT) AS lost
FROM samples
WHERE step = 'closes'
"""

_OWNERS = """
SELECT
  max_by(unresolved, sample) AS unresolved,
  max(unresolved) AS most_unresolved,
  max_by(denied, sample) AS denied
FROM samples
WHERE step = 'owners'
"""


@dataclass(frozen=True, slots=True)
class Info:
    """The facts of a recording; ``facts`` holds them in the order in which they are told.

    They are also what ``info --format json`` prints, of several recordings as a list. A name is
    never taken away nor changed in meaning; null is unknown. Of several values in one fact:

    * ``filter``, in the language of ss: no other sockets were recorded;
    * ``rows`` by table; ``files`` by form;
    * ``namespaces``: ``found`` on the host by their numbers, of which ``entered`` at some time;
    * ``reading``, each way by which a kernel table was read: ``step``, ``source`` (``diag``,
      ``proc``, null if not at all), ``why`` not otherwise, ``namespaces`` for which that is so;
    * ``coverage``, the first row of the report of that name: ``says``, ``seen``, ``kernel``,
      ``margin``, ``share_percent``; all null if the kernel's counters were not recorded;
    * ``closes``: ``events`` received, and ``lost``; null if none were asked for;
    * ``incomplete``: ``step``, ``outcome``, in how many ``samples``, one ``detail`` of these, of
      closes the total; step ``all`` is every table of some namespaces;
    * ``unknown_attributes``: by table and number, how often; ``missing_sysctls``: their names;
    * ``not_seen``: ``what`` and ``why``;
    * ``trouble``, what befell the recorder, the latest 1,000: ``time`` and ``what``;
    * ``labels``, what its owner noted with it, by key;
    * ``marks``: ``time``, ``kind``, ``name`` and ``detail``;
    * ``dropped``, what the recorder let go of to stay within its bounds, null if nothing:
      ``numbers`` of segments, ``samples``, ``socket_rows``, ``first``, ``last``, and ``why``, the
      bound;
    * ``missing``, what no answer rests on: ``file``, ``rows``, ``first``, ``last``, and ``why``;
    * ``sandbox``, what keeps SQL from other files while this is read;
    * ``left_out``: ``bytes`` at the end of the journals of a ``number``, and ``why``.
    """

    facts: Mapping[str, object]

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) in the order of printing; several lines may have one label."""
        result: list[tuple[str, str]] = []
        for name, value in self.facts.items():
            label, unit = (name[:-2], " s") if name.endswith("_s") else (name, "")
            label = label.replace("_", " ")
            match name, value:
                case "coverage", {"says": says}:
                    value = says
                case "reading", list():
                    value = _joined(value)
                case "dropped", dict():
                    value = _dropped_words(value)
                case "trouble" | "marks", list():
                    value = value[-_MOST_TOLD:]
                case "incomplete", list():
                    value = [
                        item | {"of": self.facts["samples"]}
                        for item in value
                        if item["outcome"] != "unavailable"
                    ]
            if isinstance(value, list):
                result += [(label, printable(_sentence(item))) for item in value]
            elif isinstance(value, dict):
                known = {key: item for key, item in value.items() if item is not None}
                words = ", ".join(f"{key} {_sentence(item)}" for key, item in known.items())
                result += [(label, printable(words))] if words else []
            elif value is not None:
                result.append((label, printable(_sentence(value)) + unit))
        return result


def describe(
    engine: Engine, part: int = 0, *, now: float | None = None, boot_id: str | None = None
) -> Info:
    """Gather what there is to know of one of the recordings; time and boot decide if it is live."""
    recording = engine.recordings[part]
    scope = Scope(part=part)
    said = recording.facts
    interval = said.get("interval_us")
    # A stranger's number may be too large for SQL.
    interval_us = interval if isinstance(interval, int) and 0 < interval < 1 << 53 else None
    samples = _one(engine, scope, _SAMPLES.format(late=round((interval_us or 0) * LATE_SHARE)))
    if not samples["samples"]:
        samples = _one(engine, scope, _LONE_SOCKETS)
    owners = _one(engine, scope, _OWNERS)
    namespaces = _one(engine, scope, _NAMESPACES)
    first, last = _integer(samples["first_us"]), _integer(samples["last_us"])
    return Info(
        {
            "recording": str(recording.path),
            "state": _state(
                recording.whole,
                said,
                last,
                interval_us,
                time.time() if now is None else now,
                _boot_id() if boot_id is None else boot_id,
            ),
            "host": _text(said.get("host")),
            "kernel": " ".join(_texts([said.get("kernel"), said.get("machine")])) or None,
            "command": " ".join(_texts(said.get("command"))) or None,
            "filter": _text(said.get("filter")),
            "first_sample": iso(first),
            "last_sample": iso(last),
            "span_s": None if first is None or last is None else (last - first) / 1e6,
            "interval_s": None if interval_us is None else interval_us / 1e6,
            "samples": samples["samples"],
            "late_samples": samples["late"],
            "most_late_s": _seconds(samples["most_late_us"]),
            "skipped_samples": _first_known(samples["skipped"], said.get("skipped")),
            "rows": _one(engine, scope, _ROWS),
            "bytes": recording.bytes,
            "files": {"segments": len(recording.segments), "journals": len(recording.journals)},
            "namespaces": namespaces if namespaces["found"] else {"found": None, "entered": None},
            "reading": _reading(said.get("reading")),
            "coverage": coverage(engine, scope),
            "closes": _one(engine, scope, _CLOSES),
            "unresolved_owners": owners["unresolved"],
            "most_unresolved_owners": owners["most_unresolved"],
            "unreadable_processes": owners["denied"],
            "incomplete": engine.table(_OUTCOMES, scope).to_pylist(),
            "unknown_attributes": _counts(said.get("unknown_attributes")),
            "missing_sysctls": _texts(said.get("missing_sysctls")),
            "not_seen": _told(said.get("unseen"), ("what", "why")),
            "trouble": _told(said.get("trouble"), ("time", "what")),
            "labels": _labels(said.get("labels")),
            "marks": [
                {"time": iso(mark.us)} | {name: getattr(mark, name) for name in mark._fields[1:]}
                for mark in marks(engine, scope)
            ],
            "dropped": dropped(recording.dropped),
            "missing": [lost(missing) for missing in engine.recordings[part].missing],
            "sandbox": engine.sandbox,
            "left_out": [
                {"number": rest.number, "bytes": rest.bytes, "why": rest.why or None}
                for rest in recording.left_out
            ],
        }
    )


def _state(
    whole: bool,
    said: Mapping[str, object],
    last_us: int | None,
    interval_us: int | None,
    now: float,
    boot_id: str,
) -> str:
    if not whole:
        return "part of a recording"
    if said.get("ended"):
        return f"ended {_text(said.get('ended'))} ({_text(said.get('exit')) or 'unknown reason'})"
    # A recorder writes every interval; one that was silent for three is taken for dead.
    patience = max(10.0, 3 * (interval_us or 0) / 1e6)
    if last_us is None:
        started = _text(said.get("started")) or ""
        try:
            since = datetime.fromisoformat(started).timestamp()
        except ValueError:
            since = 0.0
    else:
        since = last_us / 1e6
    if said.get("boot_id") == boot_id and abs(now - since) < patience:
        return "being recorded"
    return "killed: it has no end; every sample before is whole"


def _joined(reading: Sequence[Mapping[str, object]]) -> list[object]:
    """Join the tables that were read alike; how many namespaces that were matters for oddities."""
    alike: dict[tuple[object, ...], dict[str, object]] = {}
    for item in reading:
        usual = item["source"] == "diag" and not item["why"]
        namespaces = None if usual else item["namespaces"] or None
        same = {"source": item["source"], "why": item["why"], "namespaces": namespaces}
        found = alike.setdefault(tuple(same.values()), {"step": ""} | same)
        found["step"] = f"{found['step']}, {item['step']}" if found["step"] else item["step"]
    return list(alike.values())


def _sentence(value: object) -> str:
    """Return one item as a person reads it."""
    match value:
        case {"what": what, "why": why}:
            return f"{what}: {why}"
        case {"time": at, "what": what}:
            return f"{at}: {what}"
        case {"time": at, "name": name, "detail": detail}:
            return f"{at} {name}" + (f" ({detail})" if detail else "")
        case {"step": step, "outcome": outcome, "samples": samples, "of": all_, "detail": detail}:
            what = "whole namespaces" if step == "all" else step
            share = f"{samples:,} of {all_:,} samples"
            return f"{what} {outcome} in {share}" + (f": {detail}" if detail else "")
        case {"step": step, "source": source, "why": why, "namespaces": namespaces}:
            how = f"by {source}" if source else "not at all" if why else "never: no such sockets"
            where = f" in {namespaces:,} namespaces" if namespaces is not None else ""
            return f"{step} {how}{where}" + (f": {why}" if why else "")
        case {"file": file, "rows": rows, "first": first, "last": last, "why": why}:
            known = [f"{rows:,} rows"] if rows is not None else []
            known += [f"{first} to {last}"] if first and last else []
            return f"{file}{' (' + ', '.join(known) + ')' if known else ''}: {why}"
        case {"number": number, "bytes": size, "why": why}:
            reason = why or "a sample that was not finished"
            return f"{size:,} bytes at the end of number {number}: {reason}"
        case dict():
            return " ".join(f"{key}:{count}" for key, count in value.items())
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
    return str(value)


def _one(engine: Engine, scope: Scope, query: str) -> dict[str, object]:
    row: dict[str, object] = engine.table(query, scope).to_pylist()[0]
    return row


def coverage(engine: Engine, scope: Scope) -> dict[str, object]:
    """Return what the report coverage says of the whole recording."""
    report = find_report("coverage")
    rows = engine.table(report.sql, scope, report.values({"top": 1})).to_pylist()
    return {key: rows[0][key] for key in ("says", "seen", "kernel", "margin", "share_percent")}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def lost(missing: Missing) -> dict[str, object]:
    """Return what no answer can rest on, in words of facts."""
    return {
        "file": missing.what,
        "rows": missing.rows,
        "first": iso(missing.first),
        "last": iso(missing.last),
        "why": missing.why,
    }


def dropped(what: Dropped | None) -> dict[str, object] | None:
    """Return what the recorder let go of itself, in words of facts."""
    if what is None:
        return None
    return {
        "numbers": what.numbers,
        "samples": what.samples,
        "socket_rows": what.socket_rows,
        "first": iso(what.first),
        "last": iso(what.last),
        "why": what.why,
    }


def dropped_words(what: Dropped) -> str:
    """Return the same in words."""
    return _dropped_words(dropped(what) or {})


def _dropped_words(facts: Mapping[str, object]) -> str:
    samples = facts["samples"]
    count = f"{samples:,} samples" if isinstance(samples, int) else "all"
    span = f" from {facts['first']} to {facts['last']}" if facts["first"] and facts["last"] else ""
    return f"{count}{span} were dropped by plan ({facts['why']})"


def iso(microseconds: int | None) -> str | None:
    """Return a moment, in microseconds UTC, as ISO writes it."""
    if microseconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{microseconds} us"
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _seconds(value: object) -> float | None:
    return value / 1e6 if isinstance(value, int) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _first_known(*values: object) -> int | None:
    return next((value for value in values if isinstance(value, int)), None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _counts(value: object) -> dict[str, dict[str, int]]:
    """Return how often an attribute that this sockrec does not know came, by table and number."""
    if not isinstance(value, dict):
        return {}
    return {
        str(table): {str(k): n for k, n in counts.items() if isinstance(n, int)}
        for table, counts in value.items()
        if isinstance(counts, dict) and counts
    }


def _reading(value: object) -> list[dict[str, object]]:
    items: Sequence[object] = value if isinstance(value, list) else []
    return [
        {
            "step": str(item.get("step")),
            "source": _text(item.get("source")),
            "why": _text(item.get("why")),
            "namespaces": _integer(item.get("namespaces")),
        }
        for item in items
        if isinstance(item, dict)
    ]


def _labels(value: object) -> dict[str, str]:
    found = value.items() if isinstance(value, dict) else ()
    return {str(key): text for key, text in found if isinstance(text, str)}


def _told(value: object, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the objects of a list with these of their facts, as texts."""
    items: Sequence[object] = value if isinstance(value, list) else []
    return [
        {name: str(item.get(name)) for name in names} for item in items if isinstance(item, dict)
    ]
