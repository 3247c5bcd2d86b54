"""Rows of text files as people have them: JSON lines, a JSON array, CSV or TSV, each of them perhaps gzipped.

What a file is shows in its first bytes; its name decides only whether text that is no JSON is CSV. A file of a kind
that is not read is one sentence about the file, not one about every line.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunix_grpo.errors import one_line, shortened
from tunix_grpo.tasks.base import TaskError

GZIP = ".gz"
TABLES = {".csv": ",", ".tsv": "\t"}
GZIP_BYTES, UTF8_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"
AS_UTF8 = "save it as UTF-8"
# The first bytes of files that are often given in place of data, what they are, and the way out.
OTHER_KINDS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", AS_UTF8),
    (b"\xff\xfe", "UTF-16 text", f"{AS_UTF8}: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "UTF-16 text", f"{AS_UTF8}: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it: unzstd"),
    (b"BZh", "compressed by bzip2", "decompress it: bunzip2"),
    (b"\xfd7zXZ", "compressed by xz", "decompress it: unxz"),
    (b"ARROW1", "an Arrow file", "save the data set with to_json or to_parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data", "fetch the data: git lfs pull"),
    (b"<", "a web page or XML", "download the data itself"),
)
HEAD_BYTES = 4096

Row = dict[str, Any]


class BadRowError(ValueError):
    """Says why a row is not a question.

    Attributes:
        way_out: what to do where it is so in the whole file, not in one row of it.
        of_file: the rows behind it have the same fault, as with a wrong encoding.
    """

    def __init__(self, reason: str, *, way_out: str = "correct the file", of_file: bool = False) -> None:
        """Takes the reason, without the row's place."""
        super().__init__(reason)
        self.way_out, self.of_file = way_out, of_file


def kind_by_name(file: Path) -> str:
    """Returns a file's suffix in small letters, that of the unpacked file where it is gzipped by name."""
    name = Path(file.name.lower())
    return Path(name.stem).suffix if name.suffix == GZIP else name.suffix


def text_rows(file: Path) -> Iterator[tuple[str, Row | BadRowError]]:
    """Yields the place of each row, such as `data.jsonl:3`, and its columns or why it has none.

    Raises:
        TaskError: the file is of another kind, or damaged as a whole.
        OSError: it cannot be read.
    """
    try:
        with _unpacked(file) as stream:
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
            _refuse_other_kinds(file, head)
            first = head.removeprefix(UTF8_MARK).lstrip()[:1]
            if first == b"[":
                yield from _array_rows(file, stream.read())
            elif first in (b"{", b""):
                _refuse_one_object(file, stream, head)
                yield from _line_rows(file, stream)
            elif kind_by_name(file) in TABLES:
                yield from _table_rows(file, stream)
            else:
                raise _unknown_text(file, head)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TaskError(f"{file}: not a whole gzip file ({one_line(error)}); download it again") from error


def holds_rows(file: Path) -> bool:
    """Says whether a .json file is an array, or lines of objects, rather than one object about the data."""
    with _unpacked(file) as stream:
        lines = [line.removeprefix(UTF8_MARK).lstrip()[:1] for line in itertools.islice(stream, 2)]
    return lines[:1] == [b"["] or lines == [b"{", b"{"]


def shorten(value: object) -> str:
    """Returns a value as Python writes it, cut after 40 characters."""
    return shortened(repr(value), 40)


def _unpacked(file: Path) -> gzip.GzipFile | io.BufferedReader:
    with file.open("rb") as stream:
        is_gzip = stream.read(len(GZIP_BYTES)) == GZIP_BYTES
    return gzip.open(file, "rb") if is_gzip else file.open("rb")


def _refuse_other_kinds(file: Path, head: bytes) -> None:
    for start, kind, way_out in OTHER_KINDS:
        if head.startswith(start):
            raise TaskError(f"{file}: it is {kind}, which is not read; {way_out}")
    if b"\0" in head:
        raise TaskError(f"{file}: it holds NUL bytes, so it is UTF-16 text or no text at all; {AS_UTF8}")


def _unknown_text(file: Path, head: bytes) -> TaskError:
    """Returns the error about text that is neither JSON nor CSV by its name."""
    line = head.removeprefix(UTF8_MARK).lstrip().decode("utf-8", "replace").splitlines()[0]
    is_table = any(mark in line for mark in ",;\t") and not line.startswith('"')
    way_out = "it looks like CSV: name it .csv" if is_table else "give a JSON object per line, a JSON array, or CSV"
    return TaskError(f"{file}: its first line is not a JSON object but {shorten(line)}; {way_out}")


def _line_rows(file: Path, stream: Any) -> Iterator[tuple[str, Row | BadRowError]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield f"{file}:{number}", _parse_line(line)


def _refuse_one_object(file: Path, stream: Any, head: bytes) -> None:
    """Raises TaskError for one object that is spread over the lines; else leaves the stream at its begin."""
    if head.removeprefix(UTF8_MARK).lstrip().splitlines()[:1] == [b"{"]:
        content: object = None
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(stream.read().decode("utf-8-sig"))
        if isinstance(content, dict):
            raise TaskError(f"{file}: it is one JSON object; give an array of objects, or an object per line")
        stream.seek(0)


def _parse_line(line: bytes) -> Row | BadRowError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BadRowError(f"not UTF-8 ({error.reason} at byte {error.start})", way_out=AS_UTF8, of_file=True)
    except (ValueError, RecursionError) as error:
        return BadRowError(f"not JSON ({error}); one object per line is needed")
    return row if isinstance(row, dict) else _no_object(row)


def _no_object(value: object) -> BadRowError:
    return BadRowError(f"not a JSON object but {shorten(value)}")


def _array_rows(file: Path, content: bytes) -> Iterator[tuple[str, Row | BadRowError]]:
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise TaskError(f"{file}: it begins like a JSON array, but is not a whole one ({one_line(error)})") from error
    for number, item in enumerate(items, start=1):
        yield f"{file}, item {number}", item if isinstance(item, dict) else _no_object(item)


def _table_rows(file: Path, stream: Any) -> Iterator[tuple[str, Row | BadRowError]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # its own limit, 128 KiB, is below many a worked solution
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    try:
        header = text.readline()
        mark = _delimiter(file, header)
        table = csv.DictReader(text, next(csv.reader([header], delimiter=mark)), delimiter=mark)
        for row in table:
            place = f"{file}:{table.line_num + 1}"
            if None in row or None in row.values():
                yield place, BadRowError(f"not {len(table.fieldnames or ())} fields, as many as the first line has")
            else:
                yield place, row
    except UnicodeDecodeError as error:
        raise TaskError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); {AS_UTF8}") from error
    except csv.Error as error:
        raise TaskError(f"{file}: not CSV that can be read ({one_line(error)})") from error


def _delimiter(file: Path, header: str) -> str:
    """Returns what parts the columns: what the name says, or a semicolon or tab where the first line has no comma."""
    named = TABLES[kind_by_name(file)]
    others = [mark for mark in ";\t," if mark in header]
    return named if named in header or not others else others[0]
