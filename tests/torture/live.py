"""Rounds in which something happens to a recorder at work; what it said was committed is there."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recorder.format.files import LIST_FILE
from recorder.format.segments import read_list
from recorder.schema import SockrecError
from recorder.store.save import save
from tests.torture import faults
from tests.torture.recordings import DEADLINE, TortureError, check_end, command, read

_PROGRAM = """
import sys
from pathlib import Path
from recorder.signals import Signals
with Signals() as signals:
    from recorder.store.imports import leave_out_pandas
    leave_out_pandas()
    from recorder.recording import Options, Recording
    from recorder.schema import SockrecError
    from recorder.store.ring import Keep
    from recorder.triggers.condition import parse
    from recorder.triggers.incidents import Keeping
    target = Path(sys.argv[1])
    options = Options(
        target, interval=0.02, seal_rows=400, netns=("current",), append=True,
        keep=Keep(float(sys.argv[2]) or None), triggers=(parse("sockets > 0 for 200ms"),),
        incidents=Keeping(target.parent / "incidents", 1 << 30, 0.5, 0.2),
    )
    try:
        result = Recording(options, signals, lambda p: print(p.samples, flush=True)).run()
    except (SockrecError, OSError) as error:
        sys.exit(f"{error}")
    for number, why in result.unsealed.items():
        sys.exit(f"{number} is not sealed: {why}")
"""
PATHS = ["00000", ".arrows", ".parquet", "samples/", "sockets/", "segments.jsonl", "recording.json"]
KINDS = ["kill", "kill the sealing child", "stop the sealing child", "full disk", "faults", "limit"]


def play(folder: Path, kind: str, chance: random.Random, library: Path | None) -> int:
    """Play a round; return how many samples were committed. Raises TortureError if one is lost."""
    environment = dict(os.environ)
    if kind == "faults" and library is not None:
        environment |= faults.chosen(library, PATHS, chance)
    how = faults.told(environment)
    kept = chance.choice([0.0, 0.0, 0.3, 3600.0])  # seconds; of an hour only a full disk drops
    how += f" keep={kept}"
    with _disk(folder, chance if kind == "full disk" else None) as place:
        target = place / "r"
        # what it says goes to files: nobody reads while it runs
        with (folder / "log").open("w+") as log, (folder / "said").open("w+") as said:
            recorder = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(target), str(kept)],
                stdout=log,
                stderr=said,
                env=environment,
                preexec_fn=_limited(chance) if kind == "limit" else None,
            )
            _wait_for_samples(recorder, folder / "log", chance.randint(2, 60))
            _save(target, place / "saved")
            killed = _befall(kind, recorder, target, chance)
            if not killed:
                recorder.send_signal(signal.SIGTERM)
            try:
                status = recorder.wait(DEADLINE)
            except subprocess.TimeoutExpired as error:
                recorder.kill()
                raise TortureError(f"the recorder hangs ({kind} {how})") from error
            log.seek(0)
            said.seek(0)
            lines, told = log.read().split(), said.read()
        _wait_for_sealer(target)
        if not killed:
            check_end(f"recorder ({kind} {how})", status, told)
            if status and not told:
                raise TortureError(f"the recorder fails without a word ({kind} {how})")
        truth = {number - 1 for number in map(int, lines)}
        truth = set(range(max(truth) + 1)) if truth else set()
        if not (target / "recording.json").exists():
            if truth:
                raise TortureError(f"recording.json is gone ({kind} {how})")
            return 0
        truth -= set(range(_dropped(target)))
        before = _samples(target)
        command("recover", target, may_fail=True)
        after = _samples(target)
        if before - after:
            raise TortureError(f"recover loses {sorted(before - after)} ({kind} {how})")
        if truth - before:
            raise TortureError(f"lost {sorted(truth - before)} of {len(truth)} ({kind} {how})")
        _check_kept(place, f"{kind} {how}")
        if kind != "full disk":
            _go_on(target, after, how)
        return len(truth)


def _save(target: Path, saved: Path) -> None:
    """Save while it is recorded; that it may fail is told, and nothing is left then."""
    try:
        save(target, saved)
    except (SockrecError, OSError):
        if saved.exists() or list(saved.parent.glob(f".{saved.name}.*")):
            raise TortureError("a save that failed left something behind") from None


def _check_kept(place: Path, how: str) -> None:
    """Check that what was saved, by a command or a trigger, is whole."""
    incidents = place / "incidents"
    kept = list(incidents.glob("2*")) if incidents.exists() else []
    for path in (place / "saved", *kept):
        if path.exists() and "whole" not in (said := command("verify", path)):
            raise TortureError(f"{path.name} is not whole ({how}): {said}")


def _go_on(target: Path, before: frozenset[int], how: str) -> None:
    """Go on in the recording, and look whether what was there is there yet."""
    log = target.parent / "log2"
    with log.open("w") as out:
        words = [sys.executable, "-c", _PROGRAM, str(target), "0"]
        with subprocess.Popen(words, stdout=out, stderr=subprocess.PIPE, text=True) as recorder:
            _wait_for_samples(recorder, log, 5)
            recorder.send_signal(signal.SIGTERM)
            _, told = recorder.communicate(timeout=DEADLINE)
    check_end(f"going on ({how})", recorder.returncode, told)
    if recorder.returncode:
        raise TortureError(f"cannot be gone on in ({how}): {told}")
    after = _samples(target)
    if before - after or len(after - before) < 5:
        raise TortureError(f"going on lost {sorted(before - after)} ({how})")


def _wait_for_samples(recorder: subprocess.Popen[Any], log: Path, count: int) -> None:
    """Wait until so many samples are committed, unless the recorder ends."""
    end = time.monotonic() + DEADLINE
    while recorder.poll() is None and log.read_bytes().count(b"\n") < count:
        if time.monotonic() > end:
            raise TortureError("the recorder takes no samples")
        time.sleep(0.01)


def _samples(target: Path) -> frozenset[int]:
    found = read(target)
    return frozenset() if found is None else found.samples


def _dropped(target: Path) -> int:
    """Return how many samples were dropped to stay within a bound, the first ones."""
    try:
        dropped = read_list(target / LIST_FILE).dropped
    except FileNotFoundError:
        return 0
    if dropped is None:
        return 0
    if dropped.samples is None:
        raise TortureError("it is unknown how many samples were dropped")
    return dropped.samples


def _befall(
    kind: str, recorder: subprocess.Popen[bytes], target: Path, chance: random.Random
) -> bool:
    """Let happen what the round is about; tell whether the recorder was killed by it."""
    if kind == "kill":
        recorder.kill()
        return True
    if kind in ("kill the sealing child", "stop the sealing child"):
        for _ in range(chance.randint(1, 3)):
            number = signal.SIGKILL if kind.startswith("kill") else signal.SIGSTOP
            for pid in _sealers(target):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(chance.uniform(0, 0.8))
        if kind.startswith("stop"):
            recorder.kill()
            for pid in _sealers(target):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            return True
    return False


def _sealers(target: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command_line = path.read_bytes()
            if b"recorder.store.sealer" in command_line and os.fsencode(target) in command_line:
                found.append(int(path.parent.name))
    return found


def _wait_for_sealer(target: Path) -> None:
    end = time.monotonic() + DEADLINE
    while _sealers(target):
        if time.monotonic() > end:
            raise TortureError("the sealing child does not end")
        time.sleep(0.05)


@contextlib.contextmanager
def _disk(folder: Path, chance: random.Random | None) -> Iterator[Path]:
    """Give the folder itself, or a small file system in it."""
    if chance is None:
        yield folder
        return
    mount = folder / "small"
    mount.mkdir()
    size = f"size={chance.randint(300, 1500)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def _limited(chance: random.Random):  # type: ignore[no-untyped-def] # what preexec_fn takes
    descriptors = chance.randint(24, 80)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return limit
