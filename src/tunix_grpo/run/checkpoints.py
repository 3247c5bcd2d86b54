"""Saves and restores the state of a run with Orbax, and decides whether a checkpoint may be continued.

Layout: `<checkpoint_dir>/actor/<step>/` holds Orbax's `params` (trained parameters), `optimizer` (its state) and
`run` (JSON: what the run is), and `manifest.json`, written last: the sha256 of every file.
A step is written elsewhere, by a thread beside training, and appears when it is whole. What belongs to the run and to
no step lies beside `actor/`; `places.py` has the names.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from tunix_grpo.errors import UserError
from tunix_grpo.run.failed_saves import quiet_failures, system_reason
from tunix_grpo.run.leaves import apart, flat_leaves, like
from tunix_grpo.run.locking import lock_folder, remove_empty
from tunix_grpo.run.places import ACTOR, BEFORE, LOCK, UNFINISHED
from tunix_grpo.run.step_files import SavedFiles, write_manifest

Tree = TypeVar("Tree")  # a pytree of arrays
State = TypeVar("State")  # another
_log = logging.getLogger(__name__)
# Orbax would give up after 20 minutes; and where a folder cannot be made beside, its threads wait for it for minutes.
_SAVING = ocp.AsyncOptions(timeout_secs=24 * 3600, create_directories_asynchronously=False)


class _Save(NamedTuple):
    """A step that is being saved.

    Attributes:
        params, optimizer: arrays by name.
        run: JSON values that describe the run.
        best: steps, the best first; the first of them that is there is not deleted.
        copied: is set when nobody looks at the arrays any more.
    """

    step: int
    params: Mapping[str, jax.Array]
    optimizer: Mapping[str, jax.Array]
    run: Mapping[str, object]
    best: Sequence[int]
    copied: threading.Event


class NotSavedError(UserError):
    """A checkpoint could not be written.

    Attributes:
        what: the same without the way out.
    """

    def __init__(self, what: str):
        super().__init__(f"{what}; make room and start the same command again")
        self.what = what

    @classmethod
    def of(cls, place: Path, reason: str) -> Self:
        """Returns what is said of a step."""
        return cls(f"{place}: the checkpoint could not be written ({reason})")


class SavedSteps(SavedFiles):
    """Reads the checkpoints of one folder and changes nothing in it; a run may be writing to it meanwhile."""

    def __init__(self, checkpoint_dir: str | Path):
        super().__init__(checkpoint_dir)
        self._checkpointer = ocp.Checkpointer(_handler())

    def restore_params(self, step: int, params: Tree) -> Tree:
        """Returns the parameters of a step, laid out like the given ones."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, flat_leaves(params))
        items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
        return like(params, self._checkpointer.restore(self.root / str(step), args=items)["params"])


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
        self._unlock = weakref.finalize(self, os.close, lock_folder(self.root, checkpoint_dir, self._made))
        self._faulty: set[int] = set()
        self._put_back_and_clear()
        self._max_to_keep = max_to_keep
        self._saver = ocp.AsyncCheckpointer(_handler(), async_options=_SAVING)
        self._beside = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._outcome: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A second Ctrl-C: nothing is waited for, and nobody else may write until this process has ended.
        if error_type is KeyboardInterrupt and self._outcome is not None:
            self._saver.cancel()
            return
        self.close()

    def close(self) -> None:
        """Lets other runs write to the folder; removes it where this object made it and nothing was saved in it."""
        self._beside.shutdown()  # waits
        if self._unlock.alive and self._made and set(os.listdir(self.folder)) <= {LOCK, ACTOR}:
            with contextlib.suppress(OSError):
                self.root.rmdir()
                os.unlink(self.folder / LOCK)
            remove_empty(self._made)
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
        """Saves one step, whole or not at all, and deletes what is older than max_to_keep; see `start` and `finish`."""
        self.start(step, params, optimizer, run, best)
        self.finish()

    def start(
        self, step: int, params: object, optimizer: object, run: Mapping[str, object], best: Sequence[int] = ()
    ) -> None:
        """Begins to save one step, and returns when its arrays are copied, so that an update may have their memory.

        `finish` is to be called before the next one.

        Args:
            params: pytree of arrays.
            optimizer: pytree of arrays.
            run: JSON values that describe the run.
            best: steps, the best first; the first of them that is there is not deleted.
        """
        assert self._outcome is None
        save = _Save(step, flat_leaves(params), flat_leaves(optimizer), run, best, threading.Event())
        self._outcome = self._beside.submit(self._write, save)
        save.copied.wait()

    def ended(self) -> bool:
        """Says whether a save has ended whose outcome nobody has asked for yet."""
        return self._outcome is not None and self._outcome.done()

    def finish(self) -> bool:
        """Waits for the save that was started last; returns False where its outcome has been asked for already.

        Raises:
            NotSavedError: the disk is full, or fails otherwise; older steps are as they were.
        """
        outcome = self._outcome
        if outcome is None:
            return False
        concurrent.futures.wait([outcome])
        self._outcome = None
        outcome.result()
        return True

    def move_in(self, unfinished: Path, step: int, best: Sequence[int]) -> None:
        """Takes in a step that others have written, manifest included, and deletes what is older than max_to_keep."""
        self.take_in(unfinished, step)
        self._delete_older(step, best)

    def take_in(self, unfinished: Path, step: int) -> None:
        """Takes in a step as `move_in` does, and deletes nothing."""
        self._put_in(unfinished, step)
        self._put_back_and_clear()
        self._faulty.discard(step)

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
        return like(params, restored["params"]), like(optimizer, restored["optimizer"])

    def _write(self, save: _Save) -> None:
        """Saves one step, in the thread beside training."""
        try:
            if self.holds(save.step, save.run):
                return
            with quiet_failures() as settle:
                reason = self._reason_not_written(save)
                if reason is not None:
                    settle()
        finally:
            save.copied.set()
        with contextlib.suppress(OSError):  # of a disk that fails, which is said
            self._put_back_and_clear()
        if reason is not None:
            raise NotSavedError.of(self.root / str(save.step), reason)
        self._faulty.discard(save.step)
        self._delete_older(save.step, save.best)

    def holds(self, step: int, run: Mapping[str, object]) -> bool:
        """Says whether a step is there, whole, and says the same of the run."""
        there = (self.root / str(step)).exists() and self.fault(step) is None
        return there and self.run_of(step) == json.loads(json.dumps(run))

    def _reason_not_written(self, save: _Save) -> str | None:
        """Writes a step; returns why that failed, rather than an error, which would keep Orbax's tasks alive."""
        written = self.folder / UNFINISHED / str(save.step)
        try:
            items = items_of(apart(save.params), apart(save.optimizer), save.run)
            self._saver.save(written, args=items)  # returns when it has copied what is on accelerators
            del items
            save.copied.set()
            self._saver.wait_until_finished()
            write_manifest(written)
            self._put_in(written, save.step)
        except (OSError, ValueError) as error:  # Orbax says ValueError when a file cannot be written
            return system_reason(error)
        return None

    def _put_in(self, written: Path, step: int) -> None:
        place = self.root / str(step)
        self.root.mkdir(parents=True, exist_ok=True)  # a person may have deleted all steps meanwhile
        if place.exists():  # a damaged one, or one that knows less of the run
            before = self.folder / UNFINISHED / BEFORE
            before.mkdir()
            os.replace(place, before / place.name)
        os.replace(written, place)

    def _delete_older(self, step: int, best: Sequence[int]) -> None:
        """Deletes the steps that max_to_keep leaves out; damaged steps and steps after `step` do not count as kept."""
        usable = [saved for saved in self.steps() if saved <= step and saved not in self._faulty]
        if self._max_to_keep is not None and len(usable) > self._max_to_keep:
            kept = next((saved for saved in best if saved in usable), None)
            for old in self.steps():
                if old < usable[-self._max_to_keep] and old != kept:
                    # A person may be deleting it too.
                    shutil.rmtree(self.root / str(old), ignore_errors=True)

    def _put_back_and_clear(self) -> None:
        """Removes what a save leaves behind that ends in the middle; earlier versions left it below `actor/`."""
        for moved in (self.folder / UNFINISHED / BEFORE).glob("*"):
            if not (self.root / moved.name).exists():
                os.replace(moved, self.root / moved.name)
        shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        for leftover in self.root.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)
        (self.root / LOCK).unlink(missing_ok=True)


def items_of(
    params: Mapping[str, jax.Array], optimizer: Mapping[str, jax.Array], run: Mapping[str, object]
) -> ocp.args.Composite:
    """Returns what Orbax writes of a step."""
    arrays = {"params": ocp.args.StandardSave(params), "optimizer": ocp.args.StandardSave(optimizer)}
    return ocp.args.Composite(**arrays, run=ocp.args.JsonSave(run))


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        params=ocp.StandardCheckpointHandler(),
        optimizer=ocp.StandardCheckpointHandler(),
        run=ocp.JsonCheckpointHandler(),
    )
