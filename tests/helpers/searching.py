"""Looks for a text in all files of a folder: as it stands, in other writings, and inside what is compressed."""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow

_ZSTD, _GZIP, _ZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"PK\x03\x04"
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_MOST = 1 << 26  # bytes that one compressed part may come to


def files_with(folder: Path, text: str) -> list[Path]:
    """Returns the files below a folder that hold a text, its name included."""
    return [file for file in sorted(folder.rglob("*")) if _holds(file, text)]


def _holds(file: Path, text: str) -> bool:
    if text in file.name:
        return True
    if not file.is_file() or file.is_symlink():
        return False
    wanted = [text.encode(), text.encode("utf-16-le"), base64.b64encode(f"api:{text}".encode())]
    return any(each in part for part in parts_of(file.read_bytes()) for each in wanted)


def parts_of(data: bytes) -> Iterator[bytes]:
    """Yields data, and everything that is stored in it compressed."""
    yield data
    for place in _places(data, _ZSTD):
        yield _zstd(data[place:])
    for place in _places(data, _GZIP):
        yield _inflated(data[place:], 31)
    for start in _ZLIB:
        for place in _places(data, start):
            yield _inflated(data[place:], 15)
    if data.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            for name in opened.namelist():
                yield from parts_of(opened.read(name))


def _places(data: bytes, start: bytes) -> Iterator[int]:
    place = data.find(start)
    while place >= 0:
        yield place
        place = data.find(start, place + 1)


def _zstd(data: bytes) -> bytes:
    found = b""
    try:
        with pyarrow.input_stream(pyarrow.BufferReader(data), compression="zstd") as stream:
            while len(found) < _MOST and (piece := stream.read(1 << 12)):
                found += piece
    except OSError:  # what follows is something else
        pass
    return found


def _inflated(data: bytes, form: int) -> bytes:
    try:
        return zlib.decompressobj(form).decompress(data, _MOST)
    except zlib.error:  # the two bytes stood there by chance
        return b""
