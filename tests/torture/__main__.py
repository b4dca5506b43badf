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

from tests.torture import commands, damage, faults, live
from tests.torture.recordings import TortureError

KINDS = [*live.KINDS, *damage.KINDS, *commands.KINDS]


def main(
    seconds: Annotated[float, typer.Option(help="How long to go on.")] = 60,
    seed: Annotated[
        int, typer.Option(help="Where chance begins; the same seed, the same rounds.")
    ] = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="Rounds of this kind only; may be repeated.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep what is left of rounds that failed.")] = False,
) -> None:
    """Torture the recorder and the analyzer; exit 1 if anything was lost, wrong, or not told."""
    unknown = set(kind or ()) - set(KINDS)
    if unknown:
        raise typer.BadParameter(f"{unknown.pop()!r} is none of {', '.join(KINDS)}")
    end = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    tried: Counter[str] = Counter()
    failed: list[str] = []
    samples = gone = 0
    try:
        library = faults.compiled(folder)
        kinds = [one for one in kind or KINDS if _can_be_played(one, library)]
        if not kinds:
            raise typer.BadParameter("none of these can be played here", param_hint="--kind")
        originals = []
        for number, killed in enumerate([True, False]):
            path = folder / f"original{number}"
            originals.append((path, damage.make(path, samples=50, killed=killed)))
        round_ = 0
        while time.monotonic() < end or round_ < len(kinds):
            # each kind once, in an order of their own, then each again
            turn, which = divmod(round_, len(kinds))
            played = random.Random(f"{seed} {turn}").sample(kinds, len(kinds))[which]
            chance = random.Random(f"{seed} {round_}")
            place = folder / str(round_)
            place.mkdir(mode=0o700)
            number = chance.randrange(2)
            (original, truth), (other, _) = originals[number], originals[1 - number]
            try:
                if played in live.KINDS:
                    samples += live.play(place, played, chance, library)
                elif played in commands.KINDS:
                    assert library is not None
                    commands.play(original, truth, place, played, chance, library)
                else:
                    gone += damage.play(original, truth, other, place / "r", played, chance)
                tried[played] += 1
            except TortureError as error:
                failed.append(f"round {round_}, {played}: {error}")
                print(failed[-1], flush=True)
                if keep:
                    continue
            finally:
                round_ += 1
            shutil.rmtree(place, ignore_errors=True)
    finally:
        if not (keep and failed):
            shutil.rmtree(folder, ignore_errors=True)
    rounds = ", ".join(f"{count} × {one}" for one, count in sorted(tried.items()))
    print(f"tried: {rounds}; {samples:,} samples committed; {gone:,} rows damaged, each told")
    print(f"{tried.total()} passed, {len(failed)} failed")
    sys.exit(bool(failed))


def _can_be_played(kind: str, library: Path | None) -> bool:
    if kind == "full disk":
        return os.geteuid() == 0  # it mounts one
    return library is not None or not kind.startswith("faults")


if __name__ == "__main__":
    typer.run(main)
