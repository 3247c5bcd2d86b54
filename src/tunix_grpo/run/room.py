"""What the checkpoints of a run take on the disk, and whether they fit."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import jax

from tunix_grpo.config import RunConfig
from tunix_grpo.console import format_bytes
from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import Checkpoints

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Room:
    """What a run writes below its checkpoint folder, and what is free there.

    Attributes:
        each: bytes of a checkpoint, at most: files are compressed.
        kept: of the newest, how many stay at the end.
        limited: whether older ones are deleted; then the best stays beside them, and one more is there while the
            next is written.
        there: bytes of checkpoints that are there already, and that these take the place of.
        free: bytes on the disk; None where the system does not say.
    """

    each: int
    kept: int
    limited: bool
    there: int
    free: int | None

    def in_words(self) -> str:
        """Returns a line of the start table."""
        most = (self.kept + self.limited) * self.each
        size, free = format_bytes(self.each), "" if self.free is None else f"; {format_bytes(self.free)} free"
        return (
            f"{self.kept}{' and the best' if self.limited else ''} kept, {size} each, {format_bytes(most)} in all{free}"
        )

    def check(self, folder: str) -> None:
        """Warns where not all checkpoints have room.

        Args:
            folder: the checkpoint folder, as it was asked for.

        Raises:
            UserError: there is no room for a single one.
        """
        if self.free is None:
            return
        size, free = format_bytes(self.each), format_bytes(self.free)
        if self.each > self.free:
            raise UserError(
                f"checkpoint_dir={folder}: a checkpoint takes {size}, and {free} are free there; make room, or give "
                "another folder with checkpoint_dir=DIR; training.max_to_keep and training.save_interval_steps change "
                "how many there are, and none fits"
            )
        most = (self.kept + 2 * self.limited) * self.each  # the best, and the one that is being written
        if most - self.there > self.free:
            _log.warning(
                "checkpoint_dir=%s: the checkpoints of this run take up to %s, and %s are free there; "
                "training.max_to_keep=N keeps the newest N, a larger training.save_interval_steps makes fewer",
                folder,
                format_bytes(most),
                free,
            )


def room_for(config: RunConfig, checkpoints: Checkpoints, each: int, total_steps: int, first_step: int) -> Room:
    """Returns what a run will write; warns where not all of it has room.

    Args:
        each: bytes of parameters and optimizer state.

    Raises:
        UserError: there is no room for a single checkpoint.
    """
    training = config.training
    saved = {step for step in range(first_step, total_steps + 1) if step % training.save_interval_steps == 0}
    saves = len(saved | {total_steps})
    kept = saves if training.max_to_keep is None else min(saves, training.max_to_keep)
    limited = kept == training.max_to_keep
    there = sum(map(checkpoints.size, checkpoints.steps())) if limited else 0
    room = Room(each, kept, limited, there, _free(checkpoints))
    room.check(config.checkpoint_dir)
    return room


def tree_bytes(tree: object) -> int:
    """Returns the bytes of all arrays of a pytree, or of shapes in their place."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _free(checkpoints: Checkpoints) -> int | None:
    try:
        disk = shutil.disk_usage(checkpoints.root)
    except OSError:
        return None
    return disk.free if disk.total else None  # some network file systems know no sizes
