"""Saves the last full step of a run that an error ends: in its checkpoint folder, or else in the run's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError
from tunix_grpo.run.places import HISTORY

FOLDER = "checkpoints"  # in the run's folder


def save_where_possible(
    error: UserError, save: Callable[[Checkpoints], object], checkpoints: Checkpoints, output_dir: Path
) -> str:
    """Saves, and returns what is to be added to the error's sentence: nothing where the usual folder has the step.

    Args:
        error: what ends the run; a `NotSavedError` says that the usual folder has been tried.
        save: saves the last full step in the folder that it is given.
        checkpoints: the usual folder.
        output_dir: the run's folder, whose disk may be another one.
    """
    refusal = ""
    if not isinstance(error, NotSavedError):
        try:
            save(checkpoints)
            return ""
        except NotSavedError as second:
            refusal = f"; {second}"
    folder = output_dir / FOLDER
    try:
        with contextlib.closing(checkpoints.another(folder)) as others:
            save(others)
            with contextlib.suppress(OSError):  # it only shows what was before
                shutil.copyfile(checkpoints.folder / HISTORY, folder / HISTORY)
    except UserError:  # the same disk, or another run's folder
        return refusal
    return f"{refusal}; the last full step is saved in {folder}, from where checkpoint_dir={folder} goes on"
