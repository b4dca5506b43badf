"""The bar that is shown on a terminal while a query takes longer than a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from analyzer.screen.units import duration

if TYPE_CHECKING:
    from rich.progress import Progress

Share = Callable[[], float | None]

_REFRESH = 0.1


class Bar:
    """The share done and the time it took, from ``after`` seconds on until stopped.

    ``share`` tells what is done, from 0 to 1; it is called in a thread of the bar's own. Nothing
    is written unless ``out`` is a terminal, and nothing of it stays.
    """

    def __init__(self, share: Share, out: TextIO, *, after: float = 1.0) -> None:
        self._share = share
        self._out = out
        self._after = after
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Bar:
        if self._out.isatty():
            self._thread = threading.Thread(target=self._run, name="sockrec-bar", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Erase the bar for good; it may be stopped twice."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if self._stopped.wait(self._after):
            return
        begun = time.monotonic() - self._after
        with _progress(self._out) as progress:
            task = progress.add_task("", total=None)
            while not self._stopped.is_set():
                share = self._share()
                if share is not None:
                    progress.update(task, total=1.0, completed=min(max(share, 0.0), 1.0))
                progress.update(task, description=duration(round(time.monotonic() - begun)))
                progress.refresh()
                self._stopped.wait(_REFRESH)


def _progress(out: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    class Terminal(Console):
        """A terminal whose cursor stays: one that is hidden when a process is killed stays so."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        console=Terminal(file=out),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
