"""Records, breaks what can break, and compares with what is known: python -m tests.torture."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tests.torture import damage, live
from tests.torture.recordings import TortureError


def main(
    seconds: Annotated[float, typer.Option(help="How long to go on.")] = 60,
    seed: Annotated[
        int, typer.Option(help="Where chance begins; the same seed, the same rounds.")
    ] = 0,
    keep: Annotated[bool, typer.Option(help="Keep what is left of rounds that failed.")] = False,
) -> None:
    """Torture the recorder and the analyzer; exit 1 if anything was lost, wrong, or not told."""
    end = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    tried: Counter[str] = Counter()
    faults: list[str] = []
    samples = gone = 0
    try:
        library = live.compiled(folder)
        kinds = [k for k in live.KINDS if k != "full disk" or os.geteuid() == 0]
        kinds = [k for k in kinds if k != "faults" or library is not None]
        originals = []
        for number, killed in enumerate([True, False]):
            path = folder / f"original{number}"
            originals.append((path, damage.make(path, samples=50, killed=killed)))
        round_ = 0
        while time.monotonic() < end or round_ < len(kinds):
            chance = random.Random(f"{seed} {round_}")
            place = folder / str(round_)
            place.mkdir(mode=0o700)
            try:
                if round_ % 3 == 0:
                    kind = kinds[round_ // 3 % len(kinds)]
                    count, _ = live.play(place, kind, chance, library)
                    samples += count
                else:
                    kind = chance.choice(damage.KINDS)
                    which = chance.randrange(2)
                    original, truth = originals[which]
                    other, _ = originals[1 - which]
                    gone += damage.play(original, truth, other, place / "r", kind, chance)
                tried[kind] += 1
            except TortureError as error:
                faults.append(f"round {round_}: {error}")
                print(faults[-1], flush=True)
                if keep:
                    continue
            finally:
                round_ += 1
            shutil.rmtree(place, ignore_errors=True)
    finally:
        if not (keep and faults):
            shutil.rmtree(folder, ignore_errors=True)
    rounds = ", ".join(f"{count} × {kind}" for kind, count in sorted(tried.items()))
    print(f"tried: {rounds}; {samples:,} samples committed; {gone:,} rows damaged, each told")
    print(f"{len(tried and list(tried.elements()))} passed, {len(faults)} failed")
    sys.exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
