"""System calls that fail: faults.c as a library, and what tells it which of them."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from errno import EAGAIN, EDQUOT, EINTR, EIO, EMFILE, ENOMEM, ENOSPC, EROFS
from pathlib import Path

from tests.torture.recordings import DEADLINE

CALLS = (
    "open read pread write pwrite mmap fsync fdatasync rename unlink link stat mkdir readdir "
    "fallocate ftruncate flock copy"
).split()
ERRORS = [EINTR, EIO, EAGAIN, ENOMEM, EMFILE, ENOSPC, EROFS, EDQUOT]


def compiled(folder: Path) -> Path | None:
    """Return faults.c as a library to be loaded first, None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True, timeout=DEADLINE)
    return library


def chosen(library: Path, paths: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Return the environment of a process some of whose calls fail, on a file of such a path."""
    return {
        "LD_PRELOAD": str(library),
        "FAULT_CALL": chance.choice(CALLS),
        "FAULT_PATH": chance.choice(paths),
        "FAULT_AFTER": str(int(chance.expovariate(1 / 30)) if chance.random() < 0.7 else 0),
        "FAULT_COUNT": chance.choice(["1", "1", "5", "1000000"]),
        "FAULT_ERRNO": str(chance.choice(ERRORS)),
    }


def told(environment: dict[str, str]) -> str:
    """Return which calls fail, in words that can be repeated."""
    return " ".join(f"{k}={v}" for k, v in environment.items() if k.startswith("FAULT_"))
