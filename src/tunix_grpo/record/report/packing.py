"""Data inside a page: JSON, compressed, as text of letters that mean nothing to a browser."""

from __future__ import annotations

import base64
import json
import zlib

_LEVEL = 4
_GZIP = 31  # the header that DecompressionStream("gzip") wants


def packed(content: object) -> str:
    """Returns JSON content as base64 of gzip: digits and Latin letters, +, / and = only.

    A lone surrogate stays what it is: as an escape it is valid JSON.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    compress = zlib.compressobj(_LEVEL, wbits=_GZIP)
    raw = compress.compress(text.encode("utf-8", "backslashreplace")) + compress.flush()
    return base64.b64encode(raw).decode("ascii")


class Chunks:
    """A long list in packed pieces, so that a page reads only those that it shows.

    Attributes:
        starts: the index of the first item of each piece.
        pieces: a packed list each.
    """

    def __init__(self, letters: int) -> None:
        """
        Args:
            letters: of a piece's JSON, about.
        """
        self.starts: list[int] = []
        self.pieces: list[str] = []
        self._letters, self._size, self._count = letters, 0, 0
        self._open: list[object] = []

    def add(self, item: str | list[str]) -> None:
        """Adds an item at the end."""
        self._open.append(item)
        self._size += sum(map(len, item)) if isinstance(item, list) else len(item)
        self._count += 1
        if self._size >= self._letters:
            self._pack()

    def closed(self) -> list[str]:
        """Returns all pieces, after packing what is not packed yet."""
        if self._open:
            self._pack()
        return self.pieces

    def _pack(self) -> None:
        self.starts.append(self._count - len(self._open))
        self.pieces.append(packed(self._open))
        self._open, self._size = [], 0
