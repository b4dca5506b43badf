"""Makes samples anew: ``python -m samples`` all of them, ``python -m samples NAME...`` some."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from samples.incident import record


def names() -> list[str]:
    """Return the names of the incidents: the modules beside this one that define one."""
    beside = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in beside if "\nINCIDENT = " in path.read_text())


def main() -> int:
    """Record what was named, one after the other; return the first exit status but 0."""
    parser = argparse.ArgumentParser(prog="samples", description="Make samples anew.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is named")
    wanted = parser.parse_args().names
    if unknown := set(wanted) - set(names()):
        parser.error(f"no such sample: {', '.join(sorted(unknown))}; try {', '.join(names())}")
    for name in wanted or names():
        if status := record(import_module(f"samples.{name}").INCIDENT):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
