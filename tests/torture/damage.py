"""Rounds in which a finished or a killed recording is damaged; what is read is right, or told."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.torture.live import _PROGRAM, _wait_for_samples, _wait_for_sealer
from tests.torture.recordings import DEADLINE, Read, TortureError, command, read

KINDS = ["flip", "cut", "zeros", "old bytes", "remove", "exchange", "foreign"]


def make(target: Path, *, samples: int, killed: bool) -> Read:
    """Record some samples; return what is in it."""
    log = target.with_name(f"{target.name}.log")
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(target), "0"], stdout=said
        ) as recorder,
    ):
        _wait_for_samples(recorder, log, samples)
        recorder.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        recorder.wait(DEADLINE)
    _wait_for_sealer(target)
    found = read(target)
    if found is None or not found.samples:
        raise TortureError(f"{target}: an undamaged recording is refused")
    return found


def play(
    original: Path, truth: Read, other: Path, target: Path, kind: str, chance: random.Random
) -> int:
    """Damage a copy somewhere and look at it with every command; return how many rows are gone."""
    shutil.copytree(original, target)
    target.chmod(0o700)
    what = _damage(target, other, kind, chance)
    try:
        return _examine(target, truth, chance)
    except TortureError as error:
        raise TortureError(f"{what}: {error}") from error


def _examine(target: Path, truth: Read, chance: random.Random) -> int:
    before = read(target)
    gone = _compare(before, truth, "reading")
    if before is not None:
        command(chance.choice(["info", "summary", "verify"]), target)
    command("recover", target)
    after = read(target)
    if after is not None:
        _compare(after, truth, "reading after recover")
        if before is not None and not before.samples <= after.samples:
            raise TortureError(f"recover loses {sorted(before.samples - after.samples)}")
    elif before is not None:
        raise TortureError("recover makes it unreadable")
    command("recover", "--salvage", target)
    salvaged = read(target)
    if salvaged is not None:
        _compare(salvaged, truth, "reading after salvaging", words_may_lack=True)
    return gone


def _compare(found: Read | None, truth: Read, what: str, *, words_may_lack: bool = False) -> int:
    """Raise TortureError for a row that never was, or one that is missing and not told."""
    if found is None:
        return sum(sum(rows.values()) for rows in truth.rows.values())
    gone = 0
    for table, rows in truth.rows.items():
        wrong = found.rows[table] - rows
        if wrong and not words_may_lack:
            raise TortureError(f"{what}: {sum(wrong.values())} rows of {table} are wrong")
        gone += sum((rows - found.rows[table]).values())
    if gone and not found.told and not words_may_lack:
        raise TortureError(f"{what}: {gone} rows are missing, and nothing is said")
    return gone


def _damage(target: Path, other: Path, kind: str, chance: random.Random) -> str:
    """Damage one file; return what was done, in words."""
    files = sorted(path for path in target.rglob("*") if path.is_file() and path.stat().st_size)
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[:place])
    elif kind == "zeros":
        path.write_bytes(data[:place] + bytes(len(data) - place))
    elif kind == "old bytes":
        path.write_bytes(data[:place] + chance.randbytes(len(data) - place))
    elif kind == "remove":
        path.unlink()
    elif kind == "exchange":
        second = chance.choice([file for file in files if file.suffix == path.suffix])
        path.write_bytes(second.read_bytes())
        second.write_bytes(data)
    elif kind == "foreign":
        foreign = other / path.relative_to(target)
        if foreign.exists():
            path.write_bytes(foreign.read_bytes())
    return f"{kind} at byte {place} of {path.relative_to(target)}"
