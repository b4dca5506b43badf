"""A zip of which the same files make the same bytes, and of which no bit changes unnoticed.

Its comment is the SHA-256 of all bytes before the digits: analyzer.reading.archive checks it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from analyzer.reading.archive import SEAL, SEAL_DIGITS
from recorder.schema import SEGMENT_SUFFIX

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEVEL = 9
_PIECE = 1 << 20


def write_zip(place: Path, folder: str, files: Mapping[str, bytes | Path]) -> None:
    """Write a new zip with files in a folder, by name, in their order; and sync it.

    Segments are compressed already and stored as they are. Raises OSError.
    """
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w+b") as target:
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(f"{folder}/{name}", _EPOCH)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o600) << 16
                stored = name.endswith(SEGMENT_SUFFIX)
                info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                if isinstance(content, bytes):
                    archive.writestr(info, content, compresslevel=_LEVEL)
                    continue
                info.file_size = content.stat().st_size
                with content.open("rb") as source, archive.open(info, "w") as member:
                    while piece := source.read(_PIECE):
                        member.write(piece)
            archive.comment = SEAL + b"0" * SEAL_DIGITS
        target.seek(0)
        size, digest = os.fstat(target.fileno()).st_size - SEAL_DIGITS, hashlib.sha256()
        while size and (piece := target.read(min(_PIECE, size))):
            digest.update(piece)
            size -= len(piece)
        target.seek(-SEAL_DIGITS, os.SEEK_END)
        target.write(digest.hexdigest().encode())
        target.flush()
        os.fsync(target.fileno())
