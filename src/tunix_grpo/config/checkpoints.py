"""The settings of `scripts/checkpoints.py`; their values are in `conf/checkpoints.yaml`."""

from functools import partial
from typing import Literal

from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.relations import Relation, check_relations
from tunix_grpo.config.rules import GROUP, Flag, Name, Path, Step, Whole


@dataclass(kw_only=True, slots=True, config=GROUP)
class CheckpointsConfig:
    """Which checkpoints are looked at, and what is done with them."""

    folder: Path = rules.hint("give the checkpoint folder of a run, such as ./checkpoints/ckpts, or the run's folder")
    """Checkpoint folder of a run, which holds actor/, or the folder of the run's record. Its name may be left out."""
    action: Literal["list", "verify", "prune", "copy"]
    """list: what is there; verify: reads every byte; prune: deletes steps; copy: makes a folder to go on from.

    Its name may be left out.
    """
    keep: Whole | None = rules.number(minimum=1, hint="prune wants keep=N")
    """How many of the newest valid steps prune leaves, 1 or more, beside the best one."""
    to: Path | None = rules.hint("copy wants to=DIR, which does not exist yet")
    """Folder that copy makes; it is a checkpoint folder like `folder`."""
    step: Step
    """The step that copy takes: a number, latest, or best."""
    metric: Name
    """The recorded evaluation whose highest value makes a step the best."""
    json: Flag
    """Prints what list and verify find as one JSON object."""


def _keep_or_none(action: str, keep: int | None) -> str | None:
    if action == "prune" and keep is None:
        return "say how many of the newest valid steps stay; give keep=N"
    return "only prune keeps; leave out keep=" if action != "prune" and keep is not None else None


def _to_or_none(action: str, to: str | None) -> str | None:
    if action == "copy" and to is None:
        return "say which folder is made; give to=DIR"
    return "only copy writes; leave out to=" if action != "copy" and to is not None else None


_RELATIONS = (Relation(("action", "keep"), _keep_or_none), Relation(("action", "to"), _to_or_none))

load = Loader(schema=CheckpointsConfig, checks=(partial(check_relations, _RELATIONS),))
