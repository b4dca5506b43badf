"""What processes of our own must not load, nor start by loading."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

_NO_THREADS = {
    # OpenBLAS starts a thread for each core, and of the rest numpy may come with one
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # also the size of Arrow's pool for computing, of which the recorder uses nothing
    "OMP_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
    # jemalloc's thread returns memory by and by; the sealing child does so after each segment
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}

_M_ARENA_MAX = -8  # malloc.h


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("no command needs pandas", name=name)


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas, as it does by itself on converting a list or an array.

    That would cost a command 0.2 to 2 s of CPU, and a recording 112 MB in each of its two
    processes. To be called where a process of our own begins; does nothing where pandas is loaded.
    """
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())


def set_environment(*, limited: bool) -> Mapping[str, str]:
    """Have numpy and Arrow start no threads, here and in the sealing child.

    Where memory is ``limited`` none is reserved either: by itself Arrow's allocator takes 1 GiB, or
    as much as there is, and the C library 64 MiB and a stack of 8 MiB for each thread. To be called
    before they are imported. Returns the environment as it was, for other programs.
    """
    before = dict(os.environ)
    os.environ.update(_NO_THREADS)
    if limited:
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        threading.stack_size(1 << 20)
        with contextlib.suppress(AttributeError):  # not in every C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    return before
