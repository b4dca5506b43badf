"""Text for people, folded at its blanks to the width of a terminal: no word is cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from typing import TextIO

from analyzer.screen.cells import printable

_LEAST = 24
"""A column of text that would be narrower stands below its name instead."""


def width_of(out: TextIO) -> int | None:
    """Return how wide a terminal is, None for what is no terminal: nothing is folded there."""
    return get_terminal_size().columns if out.isatty() else None


def two_columns(
    pairs: Sequence[tuple[str, str]], width: int | None, indent: str = ""
) -> Iterator[str]:
    """Yield lines with names on the left and what is said of them on the right."""
    names = [printable(name) for name, _ in pairs]
    wide = max(map(len, names), default=0)
    margin = " " * (len(indent) + wide + 2)
    for name, (_, text) in zip(names, pairs, strict=True):
        line = printable(text)
        if width is None:
            yield f"{indent}{name:<{wide}}  {line}".rstrip()
        elif width - len(margin) < _LEAST:
            yield f"{indent}{name}"
            yield from _folded(line, width, f"{indent}    ")
        else:
            first, *others = _folded(line, width, margin) or [margin]
            yield f"{indent}{name:<{wide}}  {first[len(margin) :]}".rstrip()
            yield from others


def paragraphs(text: str, width: int | None) -> Iterator[str]:
    """Yield the lines of a text; what is longer is folded."""
    for line in text.splitlines():
        told = printable(line)
        yield from [told] if width is None or not told else _folded(told, width, "")


def _folded(text: str, width: int, margin: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(margin) + 1),
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
