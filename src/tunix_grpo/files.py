"""Writes files and folders that appear whole or not at all, and reads JSON, naming the file where it is damaged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from tunix_grpo.errors import UserError, one_line

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"  # a value of a JSON file


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Gives a path to write to; what is written there replaces `file` when the block ends, unless it raises."""
    written = _beside(file, "tmp")
    try:
        yield written
        with written.open("rb+") as stream:
            os.fsync(stream.fileno())  # otherwise the name may reach the disk before the content
        os.replace(written, file)
    finally:
        written.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path, setting: str) -> Iterator[Path]:
    """Gives a new folder to write to, which replaces `folder` when the block ends, unless it raises.

    Args:
        setting: the key that names the folder, for the error.

    Raises:
        UserError: the disk refused something; an older folder is where it was.
    """
    written, old = _beside(folder, "tmp"), _beside(folder, "old")
    try:
        written.mkdir(parents=True)
        yield written
        if folder.exists():
            folder.rename(old)
        try:
            written.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{setting}={folder}: cannot be written ({reason}); choose another folder") from error
    finally:
        shutil.rmtree(written, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_json(file: Path) -> dict[str, Json]:
    """Reads a file that holds one JSON object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or one_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object")
    return content


def read_json_lines(file: Path) -> list[dict[str, Json]]:
    """Reads a file that holds one JSON object per line; a last line that is still being written does not count.

    Raises:
        UserError: a line before the last holds something else.
    """
    objects = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                objects.append(parse_json_line(line))
            except (ValueError, RecursionError) as error:
                problem = f"{file}:{number}: not valid JSON ({one_line(error)}); remove the line"
                raise UserError(problem) from error
    return objects


def parse_json_line(line: bytes) -> dict[str, Json]:
    """Returns the object of a line; raises ValueError where the line has no end or holds something else."""
    if not line.endswith(b"\n"):
        raise ValueError("the line has no end")
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _beside(path: Path, ending: str) -> Path:
    """Returns a path on the same disk that no other process writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")
