"""Which files of a folder are data, and which of them are whose: to train on, to evaluate on, to leave alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from tunix_grpo.tasks.base import TaskError
from tunix_grpo.tasks.text_rows import GZIP, TABLES, holds_rows, kind_by_name

PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".ndjson", ".json", *TABLES, PARQUET)
TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNNAMED = "unnamed"
# What the splits are called, in names of files, folders and data sets.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing", "heldout"), TEST),
}
_WORD = re.compile(r"[a-z]+")
_log = logging.getLogger(__name__)
_Part = TypeVar("_Part")


def find_files(path: Path) -> list[Path]:
    """Returns the data files at a path: the file itself, or those of a folder and its subfolders.

    Hidden files and folders (`.ipynb_checkpoints`, the `._x` files of macOS) are no data, nor is what begins with two
    underscores (`__MACOSX`), nor a .json file of a folder that holds something else than rows.

    Raises:
        TaskError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise TaskError(f"task.path={path} does not exist; give a file or folder that does")
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in inside if _is_data(file, path)]
    if not files:
        others = sorted({file.suffix for file in inside if file.suffix and not _is_hidden(file, path)})
        found = f" (it has {', '.join(others)})" if others else ""
        raise TaskError(
            f"task.path={path} has no {', '.join(SUFFIXES)} files{found}, nor gzipped ones; give another folder"
        )
    return files


def split_of(name: str) -> str:
    """Returns the split that the name of a file or of a split says: train, validation, test, or unnamed.

    A name that says two of them says none.
    """
    stem = name.lower().removesuffix(GZIP).rsplit(".", 1)[0]
    found = {SPLIT_WORDS[word] for word in _WORD.findall(stem) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else UNNAMED


def by_split(files: Iterable[Path], folder: Path) -> dict[str, list[Path]]:
    """Sorts the files of a folder by split: by the name of the file, else by the nearest folder that is one."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        within = file.relative_to(folder) if file != folder else Path(file.name)
        named = [split_of(file.name), *(SPLIT_WORDS.get(part.lower(), UNNAMED) for part in within.parts[-2::-1])]
        split = next((split for split in named if split != UNNAMED), UNNAMED)
        splits.setdefault(split, []).append(file)
    return splits


def choose_splits(source: str, splits: Mapping[str, _Part]) -> tuple[list[_Part], list[_Part]]:
    """Returns what to train on and what to evaluate on; the second is empty where all is to be split by question.

    The validation split is evaluated on, or the test split where there is none; a split is never trained on that is
    named for something else, unless it is all there is. What is chosen is said.

    Args:
        source: what the splits come from, for messages.
        splits: content by split, as `split_of` calls them.

    Raises:
        TaskError: there are splits to evaluate on, but none to train on.
    """
    heldout = next((split for split in (VALIDATION, TEST) if split in splits), None)
    training = [split for split in (TRAIN, UNNAMED) if split in splits]
    if heldout is None or len(splits) == 1:
        return list(splits.values()), []
    if not training:
        raise TaskError(f"{source}: it has the splits {' and '.join(splits)}, but none to train on; add a train split")
    rest = [split for split in splits if split not in (training[0], heldout)]
    not_read = f"; not read: {', '.join(rest)}" if rest else ""
    _log.info("%s: training on the split %s, evaluating on %s%s", source, training[0], heldout, not_read)
    return [splits[training[0]]], [splits[heldout]]


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)


def _is_data(file: Path, folder: Path) -> bool:
    kind = kind_by_name(file)
    if kind not in SUFFIXES or _is_hidden(file, folder):
        return False
    if kind == ".json" and not holds_rows(file):
        _log.info("%s: not read, since it holds no list of objects", file)
        return False
    return True
