"""Rounds in which a command meets system calls that fail; what it says and leaves is right."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import shutil
from pathlib import Path
from subprocess import CompletedProcess

from tests.torture import faults
from tests.torture.recordings import Read, TortureError, command, read, run

ASKING, MAKING, CHANGING = KINDS = [
    "faults while asking",
    "faults while making",
    "faults while changing",
]
COMMANDS = {
    ASKING: (
        "info victim",
        "verify victim",
        "summary victim",
        "report states victim",
        "ss -tan victim",
        "sql victim 'SELECT * FROM samples ORDER BY sample'",
    ),
    MAKING: (
        "cut victim -o made",
        "compact victim -o made",
        "save victim -o made",
        "bundle victim --redact none -o made.zip",
        "export victim --format parquet -o made.parquet",
        "record -o made -n 3 -i 50ms --netns current",
    ),
    CHANGING: (
        "recover victim",
        "recover --salvage victim",
        "record --append victim -n 3 -i 50ms --netns current",
    ),
}
PATHS = (
    "victim made spill 00000 .arrows .parquet .tmp samples/ sockets segments.jsonl recording.json"
).split()
RECORDED = 3
"""Samples of the commands above."""

_NAMELESS = {f"sockrec: {os.strerror(number)}" for number in faults.ERRORS}

Said = CompletedProcess[str]
_unharmed: dict[tuple[Path, str], Said] = {}


def play(
    original: Path, truth: Read, place: Path, kind: str, chance: random.Random, library: Path
) -> None:
    """Let a command meet faults in a copy of a recording. Raises TortureError."""
    words = chance.choice(COMMANDS[kind])
    harmed = faults.chosen(library, PATHS, chance)
    recording = _copy(original, place)
    before = _contents(recording)
    try:
        expected = _as_it_is(original, words, place) if kind == ASKING else None
        said = _run(words, place, harmed)
        if kind == CHANGING:
            _check_changed(recording, truth, said, words)
            return
        if _contents(recording) != before:
            raise TortureError("it changes what it reads")
        if expected is not None:
            _check_said(said, expected)
        else:
            _check_made(place, truth, said, words)
    except TortureError as error:
        raise TortureError(f"{words} ({faults.told(harmed)}): {error}") from error


def _copy(original: Path, place: Path) -> Path:
    recording = place / "victim"
    shutil.copytree(original, recording)
    recording.chmod(0o700)
    (place / "spill").mkdir()
    return recording


def _run(words: str, place: Path, more: dict[str, str]) -> Said:
    """Run a command beside the recording; what fails does so in one line."""
    environment = dict(os.environ) | {"TMPDIR": str(place / "spill"), "COLUMNS": "200"} | more
    said = run(shlex.split(words), environment, place)
    told = said.stderr.splitlines()
    if said.returncode and told and not told[-1].startswith(("sockrec: ", "recording ")):
        raise TortureError(f"fails, and ends in {told[-1]!r}")
    if said.returncode and told and told[-1] in _NAMELESS:
        raise TortureError(f"fails by {told[-1]!r}, and names no file")
    return said


def _as_it_is(original: Path, words: str, place: Path) -> Said:
    """Return what a command says where nothing fails."""
    known = _unharmed.get((original, words))
    if known is None:
        known = _unharmed[original, words] = _run(words, place, {})
    return known


def _check_said(said: Said, expected: Said) -> None:
    """Raise TortureError for an answer that is another one, without a word of why."""
    if said.returncode or said.stderr != expected.stderr:
        return
    if said.stdout != expected.stdout:
        raise TortureError(f"says, as if all were well: {said.stdout}")


def _check_made(place: Path, truth: Read, said: Said, words: str) -> None:
    """Raise TortureError unless what is made is whole, or not there."""
    made = sorted(path for path in place.iterdir() if path.name not in ("victim", "spill"))
    new = words.startswith("record")
    if said.returncode and not new:
        if made:
            raise TortureError(f"fails and leaves {[path.name for path in made]}: {said.stderr}")
        return
    if [path.name for path in made] == ["made.parquet"]:
        return
    if not made or len(made) > 1:
        if new and said.returncode and not made:
            return
        raise TortureError(f"makes {[path.name for path in made]}")
    if new and not (made[0] / "recording.json").exists():
        if not said.returncode:
            raise TortureError("records nothing")
        return
    checked = command("recover" if new and said.returncode else "verify", made[0])
    found = read(made[0])
    if new and said.returncode:
        return  # what was taken is there, or was not committed: tests.torture.live knows
    if found is None or "whole" not in checked:
        raise TortureError(f"what is made is not whole: {checked}")
    if new:
        if len(found.samples) != RECORDED and not said.stderr:
            raise TortureError(f"{len(found.samples)} samples, and not a word of why")
    elif found.rows != truth.rows and not said.stderr:
        raise TortureError("what is made lacks rows, and not a word of why")


def _check_changed(recording: Path, truth: Read, said: Said, words: str) -> None:
    """Raise TortureError if a row is gone, however it ended."""
    command("recover", recording, may_fail=bool(said.returncode))
    found = read(recording)
    if found is None:
        raise TortureError(f"it can be read no more: {said.stderr}")
    for table, rows in truth.rows.items():
        if lost := rows - found.rows[table]:
            raise TortureError(f"{sum(lost.values())} rows of {table} are lost: {said.stderr}")
    if "append" in words and not said.returncode and not said.stderr:
        more = len(found.samples - truth.samples)
        if more != RECORDED:
            raise TortureError(f"{more} samples more, and not a word of why")


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
