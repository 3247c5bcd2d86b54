"""Saves and restores the state of a run with Orbax, and decides whether a checkpoint may be continued.

Layout: `<checkpoint_dir>/actor/<step>/` holds Orbax's `params` (trained parameters), `optimizer` (its state) and
`run` (JSON: what the run is), and `manifest.json`, written last: the sha256 of every file.
What belongs to the run and to no step lies beside `actor/`; `places.py` has the names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from tunix_grpo.errors import UserError
from tunix_grpo.run.failed_saves import quiet_failures, system_reason
from tunix_grpo.run.places import ACTOR, LOCK, UNFINISHED
from tunix_grpo.run.step_files import SavedFiles, write_manifest

Tree = TypeVar("Tree")  # a pytree of arrays
State = TypeVar("State")  # another
_log = logging.getLogger(__name__)


class NotSavedError(UserError):
    """A checkpoint could not be written."""


class SavedSteps(SavedFiles):
    """Reads the checkpoints of one folder and changes nothing in it; a run may be writing to it meanwhile."""

    def __init__(self, checkpoint_dir: str | Path):
        super().__init__(checkpoint_dir)
        self._checkpointer = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                params=ocp.StandardCheckpointHandler(),
                optimizer=ocp.StandardCheckpointHandler(),
                run=ocp.JsonCheckpointHandler(),
            )
        )

    def restore_params(self, step: int, params: Tree) -> Tree:
        """Returns the parameters of a step, laid out like the given ones."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, flat_leaves(params))
        items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
        return _like(params, self._checkpointer.restore(self.root / str(step), args=items)["params"])


class Checkpoints(SavedSteps):
    """The checkpoints of one folder, which no other run can write to before `close` or the end of this object."""

    def __init__(self, checkpoint_dir: str | Path, max_to_keep: int | None):
        """
        Args:
            checkpoint_dir: created if it does not exist.
            max_to_keep: steps that are older than so many newest ones are deleted; None keeps all.

        Raises:
            UserError: the folder cannot be written to, or another run does so.
        """
        super().__init__(checkpoint_dir)
        self._made = [folder for folder in (self.root, *self.root.parents) if not os.path.exists(folder)]
        self._unlock = weakref.finalize(self, os.close, _lock(self.root, checkpoint_dir, self._made))
        self._faulty: set[int] = set()
        self._remove_leftovers()
        self._max_to_keep = max_to_keep

    def close(self) -> None:
        """Lets other runs write to the folder; removes it where this object made it and nothing was saved in it."""
        if self._unlock.alive and self._made and set(os.listdir(self.folder)) <= {LOCK, ACTOR}:
            with contextlib.suppress(OSError):
                self.root.rmdir()
                os.unlink(self.folder / LOCK)
            _remove_empty(self._made)
        self._unlock()

    def latest_valid(self) -> int | None:
        """Returns the newest step whose files are whole; what is not is named in the log and passed over."""
        for step in reversed(self.steps()):
            fault = self.fault(step)
            if fault is None:
                return step
            self._faulty.add(step)
            _log.warning("checkpoint %s is not usable (%s); looking for an older one", self.root / str(step), fault)
        return None

    def save(
        self, step: int, params: object, optimizer: object, run: Mapping[str, object], best: Sequence[int] = ()
    ) -> None:
        """Saves one step, whole or not at all, and deletes what is older than max_to_keep.

        Args:
            params: pytree of arrays.
            optimizer: pytree of arrays.
            run: JSON values that describe the run.
            best: steps, the best first; the first of them that is there is not deleted.

        Raises:
            NotSavedError: the disk is full, or fails otherwise; older steps are as they were.
        """
        folder = self.root / str(step)
        if self.is_saved(step):
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(flat_leaves(params)),
            optimizer=ocp.args.StandardSave(flat_leaves(optimizer)),
            run=ocp.args.JsonSave(run),
        )
        with quiet_failures() as settle:
            reason = self._reason_not_written(step, items)
            if reason is not None:
                settle()
        if reason is not None:
            self._remove_leftovers()
            raise NotSavedError(
                f"{folder}: the checkpoint could not be written ({reason}); make room and start the same command again"
            )
        self._faulty.discard(step)
        self._delete_older(step, best)

    def is_saved(self, step: int) -> bool:
        """Says whether a step is there and whole; what is there of a damaged one is removed."""
        folder = self.root / str(step)
        if not folder.exists():
            return False
        if self.fault(step) is None:
            return True
        shutil.rmtree(folder)
        return False

    def move_in(self, unfinished: Path, step: int, best: Sequence[int]) -> None:
        """Takes in a step that others have written, manifest included, and deletes what is older than max_to_keep."""
        self._move(unfinished, step)
        self._faulty.discard(step)
        self._delete_older(step, best)

    def another(self, folder: Path) -> Checkpoints:
        """Opens another folder, of which nothing is deleted."""
        return Checkpoints(folder, None)

    def restore(self, step: int, params: Tree, optimizer: State) -> tuple[Tree, State]:
        """Returns (params, optimizer) of a step, laid out like the given ones."""
        templates = [flat_leaves(tree) for tree in (params, optimizer)]
        abstract = [jax.tree.map(ocp.utils.to_shape_dtype_struct, template) for template in templates]
        restored = self._checkpointer.restore(
            self.root / str(step),
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract[0]), optimizer=ocp.args.StandardRestore(abstract[1])
            ),
        )
        return _like(params, restored["params"]), _like(optimizer, restored["optimizer"])

    def _reason_not_written(self, step: int, items: ocp.args.Composite) -> str | None:
        """Writes a step; returns why that failed, rather than an error, which would keep Orbax's tasks alive."""
        unfinished = self.folder / UNFINISHED / str(step)
        try:
            self._checkpointer.save(unfinished, args=items)
            write_manifest(unfinished)
            self._move(unfinished, step)
        except (OSError, ValueError) as error:  # Orbax says ValueError when a file cannot be written
            return system_reason(error)
        return None

    def _move(self, unfinished: Path, step: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)  # a person may have deleted all steps meanwhile
        os.replace(unfinished, self.root / str(step))
        unfinished.parent.rmdir()

    def _delete_older(self, step: int, best: Sequence[int]) -> None:
        """Deletes the steps that max_to_keep leaves out; damaged steps and steps after `step` do not count as kept."""
        usable = [saved for saved in self.steps() if saved <= step and saved not in self._faulty]
        if self._max_to_keep is not None and len(usable) > self._max_to_keep:
            kept = next((saved for saved in best if saved in usable), None)
            for old in self.steps():
                if old < usable[-self._max_to_keep] and old != kept:
                    # A person may be deleting it too.
                    shutil.rmtree(self.root / str(old), ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Removes what a save leaves behind that ends in the middle; earlier versions left it below `actor/`."""
        shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        for leftover in self.root.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)
        (self.root / LOCK).unlink(missing_ok=True)


def differences(saved: Mapping[str, object], current: Mapping[str, object]) -> dict[str, str]:
    """Returns key -> `key: saved -> current` for every key whose value differs, sorted."""
    return {
        key: f"{key}: {json.dumps(saved.get(key))} -> {json.dumps(current.get(key))}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    }


def tree_bytes(tree: object) -> int:
    """Returns the bytes of all arrays of a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, the innermost first, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lock(root: Path, asked: str | Path, missing: list[Path]) -> int:
    """Makes the folder, `missing` parents too, and returns the open file that locks it.

    Leaves nothing behind where that fails.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
        descriptor = os.open(root.parent / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        _remove_empty(missing)
        raise UserError(
            f"checkpoint_dir={asked}: cannot be written to ({error.strerror or error}); "
            "give another folder with checkpoint_dir=DIR"
        ) from error
    # The system frees the lock when the process ends, however it ends.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"checkpoint_dir={asked}: another run is writing to {root}; end it, "
            "or give another folder with checkpoint_dir=DIR"
        ) from error
    except OSError as error:  # some network file systems
        _log.warning("%s cannot be locked (%s): do not start another run on it", root, error.strerror)
    return descriptor


def flat_leaves(tree: object) -> dict[str, jax.Array]:
    """Returns a flat dictionary of a pytree's leaves, so that a file names each of them plainly."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _like(tree: Tree, flat: Mapping[str, jax.Array]) -> Tree:
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in names])
