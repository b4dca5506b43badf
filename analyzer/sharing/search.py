"""The last look at a bundle: is any value that was to be taken away still in it, anywhere?"""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pyarrow.parquet as pq

from analyzer.screen.cells import printable
from analyzer.sharing import known, manifest
from analyzer.sharing.addresses import is_kept, parse
from analyzer.sharing.pseudonyms import KINDS
from recorder.schema import METADATA_PREFIX, SEGMENT_SUFFIX, SockrecError

_SPLIT = re.compile(r"[\s\"'=,;()\[\]{}<>|`\\]+")
_WORD = re.compile(r"[\w.@-]+")
_PIECE = re.compile(r"\w+")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8}")
_INTEGER = re.compile(r"(?<![\w.])(?:0x)?[0-9A-Fa-f]{7,32}(?![\w])")
_COMMENT = re.compile(r"<!--.*?-->")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_STRINGS = re.compile(rb"[\x21-\x7e]{8,}")

_LEAST_WORD = 4
"""Shorter words of command lines and the like say nothing, and are everywhere."""

_PIECE_BYTES, _LONGEST = 16 << 20, 8 << 10
"""What is read at once, and how much of it again with the next piece."""

_CHOSEN = frozenset({"mark", "class_id"})
"""Numbers that programs choose, and may make of an address. All others are the kernel's: of
millions of counts some are the number of an address by chance."""

_LEAST_RAW = 8
"""Bytes of a value that compressed data do not show by chance."""


class LeakError(SockrecError):
    """A bundle that still held what was to be taken away."""


@dataclass
class Wanted:
    """What must not be found: values, and words of what was dropped.

    ``excused`` are words that the bundle has for reasons of its own: those of the recorder, the
    reports and the kernel. A value that is one of them is still looked for as a whole cell.
    """

    values: set[str]
    words: set[str]
    excused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        excused = self.excused | _own_words()
        found = [parsed[0] for value in self.values if (parsed := parse(value)) is not None]
        self.addresses = {address for address in found if not is_kept(address)}
        self.packed = {address.packed for address in self.addresses}
        self.packed |= {a.packed[::-1] for a in self.addresses if isinstance(a, IPv4Address)}
        names = {value for value in self.values if parse(value) is None}
        long = {word for word in self.words if len(word) >= _LEAST_WORD and not word.isdigit()}
        self.tokens = {
            token
            for token in names | long
            if len(token) > 1
            and token.lower() not in excused
            and token not in excused
            # what a word of ours looks like in parts is a word of ours
            and not all(piece.lower() in excused for piece in _PIECE.findall(token))
            and not known.is_protocol(token)
        }
        # tables of text show what is not visible as escapes
        self.tokens |= {printable(token) for token in self.tokens}
        self.spaced = {token for token in self.tokens if _SPLIT.search(token)}
        self.tokens -= self.spaced

    def in_page(self, text: str, *, numbers: bool = True) -> str | None:
        """Return what is found in a text, between any marks, None if nothing."""
        for value in self.tokens:
            if value in text and re.search(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])", text):
                return value
        return self.in_text(text, numbers=numbers)

    def in_text(self, text: str, *, numbers: bool = True) -> str | None:
        """Return what is found in a short text, between usual marks, None if nothing."""
        for token in _tokens(text):
            if token in self.tokens:
                return token
        for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
            if self._is_address(match[0]):
                return match[0]
        if numbers and self.packed:
            for match in _INTEGER.finditer(text):
                if any(form in self.packed for form in _forms(match[0])):
                    return match[0]
        return next((value for value in self.spaced if value in text), None)

    def in_cell(self, text: str) -> str | None:
        """Return what is found in a cell that was to be redacted."""
        return text if text in self.values else self.in_text(text)

    def in_bytes(self, data: Iterable[bytes]) -> str | None:
        """Return what is found in runs of printable characters of a file's bytes."""
        for run in data:
            for token in _tokens(run.decode("ascii")):
                if len(token) >= _LEAST_RAW and (token in self.tokens or self._is_address(token)):
                    return token
        return None

    def _is_address(self, text: str) -> bool:
        try:
            return ip_address(text.rstrip(".:")) in self.addresses
        except ValueError:
            return False


def _own_words() -> set[str]:
    """Return the words that the reports, the recorder and this package are written in."""
    own = set(known.vocabulary()) | {word.lower() for word in known.PROGRAMS | known.USERS}
    own.update(word for kind in KINDS for word in kind.split("-"))
    queries = files("analyzer") / "queries"
    below = ("views", "findings", "diff", "parts", "functions")
    folders = [queries, *(queries / name for name in below)]
    for folder in folders:
        for entry in folder.iterdir():
            if entry.name.endswith(".sql"):
                own.update(word.lower() for word in _PIECE.findall(entry.read_text()))
    for name in ("pages.py", "manifest.py"):
        text = (files("analyzer") / "sharing" / name).read_text()
        own.update(word.lower() for word in _PIECE.findall(text))
    return own


def _tokens(text: str) -> Iterator[str]:
    for whole in _SPLIT.split(text):
        yield whole
        bare = whole.strip(".:*_#!?")
        if bare != whole:
            yield bare
        for word in _WORD.findall(whole):
            yield word
            if not word.isalnum():
                yield from _PIECE.findall(word)


def _forms(text: str) -> Iterator[bytes]:
    """Yield the bytes that a number may stand for: of decimal digits, and of hexadecimal ones."""
    if text.isdigit() and len(text) <= 10 and int(text) < 1 << 32:
        yield int(text).to_bytes(4, "big")
    digits = text.removeprefix("0x")
    if len(digits) in (8, 32):
        yield bytes.fromhex(digits)


def search(bundle: Path, wanted: Wanted, name: str) -> None:
    """Look for what must not be there in every part of a zip.

    Names and comments, texts, and of Parquet the raw bytes, footers with metadata and statistics,
    dictionaries whole, the values in all pages of texts, and the numbers that programs choose.
    ``name`` is what messages call the file. Raises LeakError.
    """
    with zipfile.ZipFile(bundle) as archive:
        told = [archive.comment.decode(errors="replace")]
        for member in archive.infolist():
            told += [member.filename, member.comment.decode(errors="replace")]
            told.append(member.extra.decode("latin-1"))
        _refuse(wanted.in_page(" ".join(told), numbers=False), name, "the names in it")
        for member in archive.infolist():
            place = member.filename
            data = archive.read(member)
            if place.endswith(SEGMENT_SUFFIX):
                _search_segment(data, wanted, name, place)
            else:
                numbers = not place.endswith((".md", ".html", manifest.NAME))
                for text in _forms_of(place, data.decode(errors="replace")):
                    _refuse(wanted.in_page(text, numbers=numbers), name, place)
    _refuse(wanted.in_bytes(_strings(bundle)), name, "its bytes")


def _forms_of(place: str, text: str) -> Iterator[str]:
    """Yield a text of a bundle as it is, and as who opens it reads it."""
    yield text
    if place.endswith((".md", ".html")):
        yield html.unescape(_COMMENT.sub("", text))
    elif place.endswith((".json", ".jsonl")):
        yield " ".join(json.loads(found[0], strict=False) for found in _STRING.finditer(text))


def _strings(path: Path) -> Iterator[bytes]:
    """Yield runs of printable characters of a file, as strings does."""
    with path.open("rb") as file:
        rest = b""
        while piece := file.read(_PIECE_BYTES):
            data = rest + piece
            yield from (match[0] for match in _STRINGS.finditer(data))
            rest = data[-_LONGEST:]


def _search_segment(data: bytes, wanted: Wanted, name: str, place: str) -> None:
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    for start in range(max(0, len(footer) - 15)):
        if footer[start : start + 16] in wanted.packed:
            raise _leak(name, f"{place}, its footer")
    runs = (match[0] for match in re.finditer(rb"[\x20-\x7e]{2,}", footer))
    text = " ".join(run.decode("ascii") for run in runs)
    _refuse(wanted.in_page(text, numbers=False), name, f"{place}, its footer")
    with pq.ParquetFile(BytesIO(data)) as file:
        told = file.metadata.metadata or {}
        facts = told.get((METADATA_PREFIX + "recording").encode(), b"")
        _refuse(wanted.in_page(facts.decode()), name, f"{place}, its metadata")
        texts = [
            column.name
            for column in map(file.schema.column, range(len(file.schema)))
            if column.physical_type == "BYTE_ARRAY"
        ]
        numbers = [column for column in file.schema.names if column in _CHOSEN]
        for column in numbers if wanted.packed else ():
            found = file.read([column]).column(0).unique().drop_null().to_pylist()
            if any((n % (1 << 32)).to_bytes(4, "big") in wanted.packed for n in found):
                raise _leak(name, f"{place}, column {column}")
    seen: set[str] = set()
    with pq.ParquetFile(BytesIO(data), read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            for column in texts:
                for chunk in file.read_row_group(group, [column]).column(0).chunks:
                    # the dictionary whole: it may have words that no row uses
                    for value in chunk.dictionary.to_pylist():
                        if value not in seen:
                            seen.add(value)
                            found = wanted.in_cell(value)
                            _refuse(found, name, f"{place}, column {column}")


def _refuse(found: str | None, name: str, place: str) -> None:
    if found is not None:
        raise _leak(name, place)


def _leak(name: str, place: str) -> LeakError:
    return LeakError(
        f"{name}: a value that was to be taken away is still in {place}: the bundle is deleted; "
        "nothing was handed over"
    )


def as_json(value: object) -> str:
    """Return a value as the files of a bundle have it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
