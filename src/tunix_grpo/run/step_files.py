"""The files of saved steps, apart from the arrays in them: those who only look at files need not load Orbax and jax.

A step counts when its manifest, which is written last, agrees with the sha256 of every file; Orbax itself restores
flipped bits without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json, whole_file
from tunix_grpo.run.places import ACTOR

MANIFEST = "manifest.json"


class SavedFiles:
    """The steps below one checkpoint folder; a run may be writing to it meanwhile.

    Attributes:
        folder: the checkpoint folder.
        root: where the steps are.
    """

    def __init__(self, checkpoint_dir: str | Path):
        self.folder = Path(checkpoint_dir).expanduser().absolute()
        self.root = self.folder / ACTOR

    def steps(self) -> list[int]:
        """Returns the steps that are there, valid or not, in order."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(int(path.name) for path in folders if path.name.isdigit())

    def fault(self, step: int) -> str | None:
        """Returns what is wrong with a step's files, or None; reads every byte."""
        return step_fault(self.root / str(step))

    def run_of(self, step: int) -> dict[str, dict[str, Any]]:
        """Returns what `save` was told about the run."""
        written: Any = read_json(self.root / str(step) / "run" / "metadata")  # by `save`
        return written

    def size(self, step: int) -> int:
        """Returns the bytes that a step takes on disk."""
        return sum(file.stat().st_size for file in (self.root / str(step)).rglob("*") if file.is_file())


def write_manifest(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Writes down what the files of a step are.

    Args:
        digests: their sha256 by name, where they have been read; None reads them.
    """
    manifest = file_digests(folder, names_of_files(folder)) if digests is None else digests
    with whole_file(folder / MANIFEST) as file:
        file.write_text(json.dumps(manifest, indent=1))


def step_fault(folder: Path, *, read: bool = True) -> str | None:
    """Returns what is wrong with the folder of a saved step, or None.

    Args:
        read: False looks only whether all files are there.
    """
    manifest_file = folder / MANIFEST
    if not manifest_file.is_file():
        return "it was not finished: no manifest.json"
    try:
        manifest = read_json(manifest_file)
    except UserError:
        manifest = {}
    if not manifest:
        return "manifest.json is damaged"
    for name, digest in manifest.items():
        try:
            if not read and not (folder / name).is_file():
                return f"{name} is missing"
            if read and _sha256(folder / name) != digest:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


def names_of_files(folder: Path) -> list[str]:
    """Returns the files of a step, below its folder, the manifest aside."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return [str(file.relative_to(folder)) for file in files]


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns the sha256 of files of a step, by name."""
    return {name: _sha256(folder / name) for name in names}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
