"""Recordings that are read, less what was found to be damaged on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from analyzer.reading.integrity import Checker, span
from analyzer.reading.recording import Recording
from analyzer.reading.segment import TOGETHER, TOGETHER_WHY, Missing


class Sources:
    """One recording or several; whoever reads says of which columns, so that these are checked."""

    def __init__(self, recordings: Iterable[Recording], threads: int | None = None) -> None:
        self.recordings = list(recordings)
        self.changes = 0
        """How many times something was left out."""
        self._checker = Checker(threads)
        self._told = [0] * len(self.recordings)

    @property
    def several(self) -> bool:
        return len(self.recordings) > 1

    @property
    def paths(self) -> list[Path]:
        """Return the segments, which are read by path."""
        return [path for recording in self.recordings for path in recording.paths]

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Return what is missing of all recordings, as far as that is known by now."""
        return tuple(lost for part in range(len(self.recordings)) for lost in self._missing(part))

    def news(self) -> tuple[Missing, ...]:
        """Return what is missing, as far as that was not returned before."""
        found: list[Missing] = []
        for part, told in enumerate(self._told):
            found += self._missing(part)[told:]
            self._told[part] = len(self.recordings[part].missing)
        return tuple(found)

    def _missing(self, part: int) -> list[Missing]:
        """Return what is missing of one recording; of several, with its name."""
        recording = self.recordings[part]
        if not self.several or not recording.whole:
            return list(recording.missing)
        return [replace(lost, what=f"{recording.path}: {lost.what}") for lost in recording.missing]

    def leave_out_damaged(
        self,
        columns: Mapping[str, Collection[str]],
        parts: Iterable[int],
        sample: int | None = None,
    ) -> None:
        """Check columns that are to be read; what is damaged is missing from then on.

        They are given by table. Raises OSError, MemoryError and RecordingError.
        """
        for part in parts:
            recording = self.recordings[part]
            damaged = dict(self._checker.check(recording.of_sample(sample).segments, columns))
            if not damaged:
                continue
            recording.check_kept()
            self.changes += 1
            halves = {segment.number for segment in damaged if segment.table.name in TOGETHER}
            for segment in recording.segments if recording.whole else ():
                if segment.table.name in TOGETHER and segment.number in halves:
                    damaged.setdefault(segment, TOGETHER_WHY)
            missing = tuple(
                Missing(
                    recording.name(segment.path),
                    why,
                    segment.rows,
                    *span(segment),
                    segment.table.name,
                )
                for segment, why in damaged.items()
            )
            self.recordings[part] = replace(
                recording,
                segments=tuple(s for s in recording.segments if s not in damaged),
                missing=recording.missing + missing,
            )

    def close(self) -> None:
        """Let go of files, and remove what was unpacked."""
        for recording in self.recordings:
            recording.close()
