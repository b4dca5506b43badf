"""What DuckDB says of a wrong query, in words for who wrote it, and where in it that is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

from analyzer.screen.cells import printable
from analyzer.sql.header import read_folder
from recorder.schema import TABLES

_MOST = 1000
"""Characters of what DuckDB says."""

_MARGIN = 60
"""Characters that are shown of a line on either side of what is wrong."""

_KIND = re.compile(r"^(?:[A-Z][A-Za-z/]* )+Error: ")
_PLACE = re.compile(r"\n\s*LINE (\d+): (.*)\n( *)\^", re.DOTALL)
_COLUMN = re.compile(r'Referenced column "(.+?)" not found in FROM clause!', re.DOTALL)
_MEMBER = re.compile(r'list "(.+?)" does not have a column named "(.+?)"', re.DOTALL)
_TABLE = re.compile(r"Table with name (.+?) does not exist!", re.DOTALL)
_FUNCTION = re.compile(r"Function with name (.+?) does not exist!", re.DOTALL)
_MEANT = re.compile(r'\s*Did you mean "(.*?)"\?', re.DOTALL)
_BINDINGS = re.compile(r"Candidate bindings: (.*)", re.DOTALL)
_COMPARED = re.compile(r"(?:[=<>]|\bi?like|\bin\s*\([^()]*|\bbetween)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong in one line, and the lines that show where: the query's, and a mark below."""

    text: str
    place: tuple[str, ...] = ()


def complaint(said: str, query: str, refused: Collection[str] = ()) -> Complaint:
    """Return what DuckDB said of a query; ``refused`` are functions not to be proposed."""
    bare = _PLACE.split(said, maxsplit=1)[0]
    if match := _COLUMN.search(bare):
        word = match[1]
        found = _BINDINGS.search(bare)
        known = re.findall(r'"([^"]+)"', found[1]) if found else []
        at = _find(word, query)
        text = f"there is no column {word}{_meant(word, known)}"
        if at is not None and _looks_like_text(word, query, at):
            text = f"{text.replace('?', '')}; text goes in single quotes: '{word}'"
    elif match := _MEMBER.search(bare):
        at = _find(f"{match[1]}.{match[2]}", query)
        text = f"{match[1]} has no column {match[2]}"
    elif match := _TABLE.search(bare):
        word = match[1]
        known = [*TABLES, *read_folder("views"), "baseline", "params"]
        at = _find(word, query)
        text = f"there is no table {word}{_meant(word, known) or f': there are {_listed(known)}'}"
    elif match := _FUNCTION.search(bare):
        meant = _MEANT.search(bare)
        known = [meant[1]] if meant and meant[1].lower() not in refused else []
        at = _find(match[1], query)
        text = f"there is no function {match[1]}{_meant(match[1], known)}"
    else:
        at = None
        text = _KIND.sub("", bare.split("\n\tCandidate functions:")[0], count=1)
        text = re.sub(r"^[A-Z](?=[a-z]* )", lambda first: first[0].lower(), text)
    text = " ".join(text.split())[:_MOST]
    place = _PLACE.search(said)
    # What stands in statements of our own is nothing to who asked.
    if place and at is None and place[2].strip(".") in query:
        # DuckDB cuts a long line itself, and marks what it shows of it.
        return Complaint(text, _marked(place[2], len(place[3]) - len(f"LINE {place[1]}: ")))
    return Complaint(text, () if at is None else _shown(query, at))


def _find(word: str, query: str) -> int | None:
    """Return where a name stands in a query, outside of its texts."""
    pattern = rf"'(?:[^']|'')*'|--[^\n]*|(?<!\w)({re.escape(word)})(?!\w)"
    for match in re.finditer(pattern, query, re.IGNORECASE):
        if match[1] is not None:
            return match.start(1)
    return None


def _looks_like_text(word: str, query: str, at: int) -> bool:
    """Tell whether a name is meant as text: it is quoted, or something is compared with it."""
    quoted = query[at - 1 : at] == '"' == query[at + len(word) : at + len(word) + 1]
    return quoted or bool(_COMPARED.search(query[:at]))


def _meant(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    # beside one that is nearly the same, what merely resembles it is not meant
    alike = [difflib.SequenceMatcher(None, word.lower(), name).ratio() for name in near]
    near = [name for name, ratio in zip(near, alike, strict=True) if ratio >= alike[0] - 0.2]
    return f": did you mean {_listed(near, 'or')}?" if near else ""


def _listed(names: Collection[str], word: str = "and") -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def _shown(query: str, at: int) -> tuple[str, ...]:
    """Return the line of a query in which a place is, and a mark below the place."""
    begin = query.rfind("\n", 0, at) + 1
    line = query[begin:].partition("\n")[0]
    return _marked(line, at - begin)


def _marked(line: str, at: int) -> tuple[str, ...]:
    before, behind = line[:at], line[at:]
    if len(before) > _MARGIN:
        before = "…" + before[-_MARGIN:]
    if len(behind) > _MARGIN:
        behind = behind[:_MARGIN] + "…"
    before = printable(before)
    return f"  {before}{printable(behind)}", f"  {' ' * _wide(before)}^"


def _wide(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
