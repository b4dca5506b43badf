"""What the recorder's processes must not load."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the recorder leaves out pandas", name=name)


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas, as it does by itself on converting a list or an array.

    That would cost every recording 2 s of CPU and 112 MB in each of its two processes. To be called
    where a process begins that is the recorder's own; does nothing where pandas is loaded already.
    """
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())
