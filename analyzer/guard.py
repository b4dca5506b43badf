"""What is around a command that reads recordings: bounds, signals, and what is told at its end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from analyzer.screen.cells import printable
from recorder.schema import SockrecError

if TYPE_CHECKING:
    from analyzer.reading.sources import Sources

_TOLD = 5


class WantError(SockrecError):
    """What the process would need and may not have."""


@contextmanager
def guarded(threads: int | None = None, memory_limit: str | None = None) -> Iterator[None]:
    """Bound what a command does, which ends with the block.

    A query that Ctrl-C cannot stop ends with the process, when all else is cleared away. So
    does a terminal that is closed, or a plain kill, clear away what is in temporary files. Within
    the block the process has a bound of memory.
    """
    import pyarrow.parquet  # noqa: F401 - libraries are no part of what is bounded

    from analyzer.sql.memory import bounded, default_size, parse_size

    size = default_size() if memory_limit is None else parse_size(memory_limit)
    try:
        with _signals_end(), bounded(size, threads), wants_told():
            yield
    except KeyboardInterrupt:
        _leave(130)
        raise
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else 1)
        raise
    _leave(0)


def _leave(status: int) -> None:
    """End the process at once should a query run that nothing can stop."""
    if engine := sys.modules.get("analyzer.sql.engine"):
        engine.leave(status)


@contextmanager
def telling(sources: Sources) -> Iterator[Sources]:
    """Tell at the end of the block what of recordings no answer can rest on."""
    try:
        yield sources
    finally:
        tell_missing(sources)
        _tell_dropped(sources)
        _tell_filter(sources)


def tell_missing(sources: Sources) -> None:
    """Say once what no answer can rest on, each file in a line."""
    found = sources.news()
    for missing in found[:_TOLD]:
        note(f"missing: {missing}")
    if len(found) > _TOLD:
        note(f"missing: and {len(found) - _TOLD:,} more: 'sockrec info' names all")


def _tell_dropped(sources: Sources) -> None:
    """Say of which recordings the recorder itself let go of the beginning."""
    for recording in sources.recordings:
        if recording.dropped is not None:
            from analyzer.sql.info import dropped_words

            name = f"{recording.path}: " if sources.several else ""
            words = dropped_words(recording.dropped)
            note(f"{name}the recording begins later than its recorder did: {words}")


def _tell_filter(sources: Sources) -> None:
    """Say which recordings have only what a filter let through."""
    for recording in sources.recordings:
        if text := recording.facts.get("filter"):
            name = f"{recording.path}: " if sources.several else ""
            note(f"{name}only sockets that this filter lets through were recorded: {text}")


@contextmanager
def wants_told() -> Iterator[None]:
    """Make one line of what Python raises where there is no more memory, or no thread."""
    try:
        yield
    except MemoryError as error:
        raise WantError(
            "out of memory: this needs more than --memory allows: narrow it by --from, --to or "
            "--where, or raise --memory"
        ) from error
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise WantError("no more threads can be started: give less as --threads") from error


@contextmanager
def _signals_end() -> Iterator[None]:
    """Let a signal that would kill end the block as an exit does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note(text: str) -> None:
    print(f"sockrec: {printable(text)}", file=sys.stderr)
