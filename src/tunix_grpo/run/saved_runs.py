"""Opens what a run left behind: its settings, its numbers, its saved steps and the model that a step holds."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from tunix_grpo.config import Config
from tunix_grpo.config.history import load_recorded, read_run_config, with_former_entries
from tunix_grpo.errors import UserError
from tunix_grpo.model.model import Model, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.run.checkpoints import SavedSteps, differences
from tunix_grpo.run.evaluated import Row, best_first
from tunix_grpo.run.identity import model_identity
from tunix_grpo.run.logged import read_metrics
from tunix_grpo.run.places import HISTORY

NOTHING_MOVED: Mapping[str, None] = MappingProxyType({})
_NAMED_STEPS = 8  # at most this many are listed in an error
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run's folder and its checkpoints.

    Attributes:
        folder: of the record.
        config: the settings that it ran with.
        metrics: step -> all that was logged at that step, by whichever start of the run: its folder has what one start
            logged, beside its checkpoints lies the history of all, and each of them knows the evaluations before it.
        checkpoints: read only, so that a run that goes on is not disturbed.
    """

    folder: Path
    config: Config
    metrics: dict[int, dict[str, float]]
    checkpoints: SavedSteps

    def judged(self) -> dict[int, float]:
        """Returns step -> the value of `evaluation.metric`, of the evaluated steps."""
        metric = self.config.evaluation.metric
        return {step: row[metric] for step, row in self.metrics.items() if metric in row}

    def best_steps(self) -> list[int]:
        """Returns the saved steps that were evaluated, the best first, of equals the latest; damaged ones too."""
        values, saved = self.judged(), set(self.checkpoints.steps())
        return best_first({step: value for step, value in values.items() if step in saved})


def open_run(
    folder: Path, checkpoint_dir: str | None = None, places: Mapping[str, str | None] = NOTHING_MOVED
) -> SavedRun:
    """Reads a run's folder.

    Args:
        checkpoint_dir: where its checkpoints are now; None for where the run has put them.
        places: where files of its model are now, by the names of `config.history.PLACES`; None for where they were.

    Raises:
        UserError: it is not the folder of a run, or its settings cannot be used any more.
    """
    examined = load_recorded.examine(read_run_config(folder))
    if examined.config is None:
        raise UserError(f"{folder / 'config.yaml'}: {examined.problems[0]}")
    config = examined.config
    moved: dict[str, Any] = {name: place for name, place in places.items() if place is not None}
    config.model = dataclasses.replace(config.model, **moved)
    checkpoints = SavedSteps(checkpoint_dir or config.checkpoint_dir)
    metrics = _evaluations(checkpoints)
    for step, numbers in read_metrics(folder / "metrics.jsonl", checkpoints.folder / HISTORY).items():
        metrics.setdefault(step, {}).update(numbers)
    return SavedRun(folder, config, metrics, checkpoints)


def choose_step(run: SavedRun, wanted: str) -> int:
    """Returns the saved step that is meant.

    Args:
        wanted: a number, `latest`, or `best`: the highest value of `evaluation.metric`, of equals the latest.

    Raises:
        UserError: there is no such step, or its files are damaged.
    """
    saved = run.checkpoints.steps()
    root = run.checkpoints.root
    if not saved:
        raise UserError(f"run={run.folder}: {root} holds no checkpoint; if they have moved, give checkpoint_dir=DIR")
    if wanted not in ("latest", "best"):
        step = int(wanted)
        if step not in saved:
            raise UserError(f"step={wanted} was not saved; {root} holds {_listed(saved)}")
        if fault := run.checkpoints.fault(step):
            raise UserError(
                f"step={wanted}: {root / str(step)} is not usable ({fault}); choose another of {_listed(saved)}"
            )
        return step
    candidates = saved[::-1]
    if wanted == "best":
        candidates = run.best_steps()
        if not candidates:
            raise UserError(
                f"step=best: no saved step was evaluated ({root} holds {_listed(saved)}, "
                f"the record has {run.config.evaluation.metric} of {_listed(sorted(run.judged()))}); "
                "give step=latest or a number"
            )
    for step in candidates:
        fault = run.checkpoints.fault(step)
        if fault is None:
            return step
        _log.warning("checkpoint %s is not usable (%s); looking for another one", root / str(step), fault)
    raise UserError(f"step={wanted}: none of {_listed(candidates)} in {root} is usable")


def load_trained(run: SavedRun, step: int, mesh: jax.sharding.Mesh) -> Model:
    """Loads the run's model with the parameters of a saved step.

    Raises:
        UserError: the model cannot be found, or the checkpoint belongs to another run.
    """
    directory = resolve_directory(run.config.model)
    current = model_identity(run.config, directory)
    saved = with_former_entries(run.checkpoints.run_of(step)["identity"], current)
    other = differences({key: saved.get(key) for key in current}, current)
    if other:
        raise UserError(
            f"the checkpoint {run.checkpoints.root / str(step)} belongs to another run than {run.folder} "
            f"({'; '.join(other.values())})"
        )
    model = load_model(run.config.model, directory, mesh, run.config.seed)
    return dataclasses.replace(model, trained=run.checkpoints.restore_params(step, model.trained))


def _evaluations(checkpoints: SavedSteps) -> dict[int, dict[str, float]]:
    """Returns by step what the newest readable checkpoint says of the evaluations up to it; older ones say none."""
    for step in reversed(checkpoints.steps()):
        with contextlib.suppress(UserError):  # whoever chooses a damaged step is told
            rows: list[Row] = checkpoints.run_of(step).get("state", {}).get("evaluations", [])
            return {int(row["step"]): {name: row[name] for name in row if name != "step"} for row in rows}
    return {}


def _listed(steps: list[int]) -> str:
    if not steps:
        return "no step"
    shown = steps if len(steps) <= _NAMED_STEPS else [*steps[: _NAMED_STEPS - 1], "...", steps[-1]]
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, shown))}"
