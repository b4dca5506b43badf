"""Going on in a recording: what an earlier run left, and what it counted."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import LIST_FILE, recording_file, segment_name
from recorder.format.runs import COUNTS, run_of
from recorder.format.segments import read_list
from recorder.schema import RECORDING_FILE, SAMPLES, SOCKETS, VERSION, SockrecError
from recorder.store.directory import Directory, InUseError, open_list

MOST_RUNS = 200
"""Of more, those are forgotten that followed another of the same boot."""

MOST_BETWEEN = 20
"""Gaps between runs that recording.json tells of, the latest."""

LOCK_PATIENCE_S = 10.0
"""A killed recorder's sealing child goes on with what it had begun."""

_BETWEEN = "what was between two runs"
_LOOKED_AT = 10


class AppendError(SockrecError):
    """A recording that cannot be gone on in."""


def is_recording(path: Path) -> bool:
    """Tell whether there is something to go on in."""
    return os.path.lexists(path / RECORDING_FILE)


def lock_list(directory: Directory) -> int:
    """Open and lock the list of segments, waiting a while for who is about to end."""
    until = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return open_list(directory)
        except InUseError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def read_earlier(directory: Directory, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what recording.json says; ``now`` are the facts of what is to go on in it.

    Raises AppendError, FileError or OSError.
    """
    place = recording_file(directory.path)
    facts = dict(parse_facts(place, read_facts(place, directory=directory.descriptor)))
    if facts["version"] != VERSION:
        raise AppendError(
            f"{directory.path}: has version {facts['version']} of the format and this is version "
            f"{VERSION}: record to another directory"
        )
    if facts.get("cut") or facts.get("exit") == "save":
        raise AppendError(
            f"{directory.path}: is a part of a recording: record to another directory"
        )
    if facts.get("filter") != now.get("filter"):
        by = f"by the filter {facts['filter']!r}" if facts.get("filter") else "without a filter"
        raise AppendError(
            f"{directory.path}: was recorded {by}: record the same, or to another directory"
        )
    for name in ("trouble", "unseen"):
        if not isinstance(facts.get(name), list):
            facts[name] = []
    return facts


def count(directory: Directory, earlier: Mapping[str, Any]) -> tuple[int, dict[str, int | None]]:
    """Return the number of the next sample, and what was recorded until now, dropped or not.

    All of it must be sealed. A count is None where it is not known.
    """
    listed = read_list(directory.path / LIST_FILE, directory=directory.descriptor)
    told: dict[str, list[int | None]] = {
        "samples": [one.samples if one.aside is None else None for one in listed.sealed],
        "socket_rows": [
            (one.files[SOCKETS.name].rows if SOCKETS.name in one.files else 0)
            if one.aside is None
            else None
            for one in listed.sealed
        ],
    }
    counts: dict[str, int | None] = {}
    for name in COUNTS:
        parts = told[name] + ([getattr(listed.dropped, name)] if listed.dropped else [])
        known = [part for part in parts if part is not None]
        counts[name] = sum(known) if len(known) == len(parts) else None
    # those that were salvaged are of earlier samples than the numbers before them
    latest = sorted(one.number for one in listed.sealed)[-_LOOKED_AT:]
    samples = [sample for number in latest if (sample := _last_sample(directory, number))]
    atleast = earlier.get("samples")
    return max([*samples, (atleast if isinstance(atleast, int) else 0) - 1, -1]) + 1, counts


def _last_sample(directory: Directory, number: int) -> int | None:
    try:
        with directory.folder(SAMPLES.name) as folder:
            file = folder.open_regular(segment_name(number))
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        found: int | None = pc.max(pq.read_table(opened, columns=["sample"])["sample"]).as_py()
    return found


def continued(
    earlier: Mapping[str, Any],
    facts: Mapping[str, Any],
    number: int,
    counted: Mapping[str, int | None],
) -> dict[str, Any]:
    """Return the facts of a recording that goes on with a number, after what was counted."""
    runs = [dict(run) for run in earlier.get("runs") or () if isinstance(run, dict)]
    if not all("number" in run for run in runs):
        runs = []  # those of a merge are one
    if not runs:
        runs = [run_of(earlier, 1, dict.fromkeys(COUNTS, 0))]
    runs[-1] |= {name: earlier.get(name) for name in ("ended", "exit")}
    runs.append(run_of(facts, number, counted))
    for place in range(len(runs) - 2, 0, -1):
        if len(runs) <= MOST_RUNS:
            break
        alike = ("boot_id", "interval_us")
        if all(runs[place][name] == runs[place - 1][name] for name in alike):
            del runs[place]
    since = earlier.get("ended") or "the last sample of a killed recorder"
    why = f"nothing was recorded from {since} to {facts['started']}"
    labels = {**(earlier.get("labels") or {}), **facts.get("labels", {})}
    between = [one for one in earlier["unseen"] if one.get("what") == _BETWEEN][-MOST_BETWEEN + 1 :]
    return {
        **facts,
        "started": earlier.get("started"),
        **({"labels": labels} if labels else {}),
        "runs": runs,
        "trouble": earlier["trouble"],
        "unseen": [*facts["unseen"], *between, {"what": _BETWEEN, "why": why}],
        "samples": counted["samples"],
        "socket_rows": counted["socket_rows"],
    }
