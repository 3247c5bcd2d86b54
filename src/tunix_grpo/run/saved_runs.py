"""Opens what a run left behind: its settings, its numbers, its saved steps and the model that a step holds."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from tunix_grpo.config import ModelConfig, RunConfig, TaskConfig
from tunix_grpo.config.history import PLACES, examine_recorded, read_run_config, with_former_entries
from tunix_grpo.config.sentences import show
from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json
from tunix_grpo.model.merging import merged_leaves
from tunix_grpo.model.model import Model, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.run.checkpoints import SavedSteps
from tunix_grpo.run.evaluated import Row, best_first
from tunix_grpo.run.identity import differences, model_identity
from tunix_grpo.run.logged import read_metrics
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.step_files import MANIFEST

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
    config: RunConfig
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
    folder: Path,
    checkpoint_dir: str | None = None,
    places: Mapping[str, str | None] = NOTHING_MOVED,
    key: str = "run",
) -> SavedRun:
    """Reads a run's folder.

    Args:
        checkpoint_dir: where its checkpoints are now; None for where the run has put them.
        places: where files of its model are now, by the names of `config.history.PLACES`; None for where they were.
        key: the setting that names the folder, for errors.

    Raises:
        UserError: it is not the folder of a run, or its settings cannot be used any more.
    """
    examined = examine_recorded(read_run_config(folder, key))
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


def choose_step(run: SavedRun, wanted: str, group: str = "") -> int:
    """Returns the saved step that is meant.

    Args:
        wanted: a number, `latest`, or `best`: the highest value of `evaluation.metric`, of equals the latest.
        group: in which the settings `run` and `step` stand, as in `model.`, for messages.

    Raises:
        UserError: there is no such step, or its files are damaged.
    """
    saved = run.checkpoints.steps()
    root = run.checkpoints.root
    asked = f"{group}step={wanted}"
    if not saved:
        moved = "if they have moved, give checkpoint_dir=DIR" if not group else "give a run that has some"
        raise UserError(f"{group}run={run.folder}: {root} holds no checkpoint; {moved}")
    if wanted not in ("latest", "best"):
        step = int(wanted)
        if step not in saved:
            raise UserError(f"{asked} was not saved; {root} holds {_listed(saved)}")
        if fault := run.checkpoints.fault(step):
            raise UserError(f"{asked}: {root / str(step)} is not usable ({fault}); choose another of {_listed(saved)}")
        return step
    candidates = saved[::-1]
    if wanted == "best":
        candidates = run.best_steps()
        if not candidates:
            raise UserError(
                f"{asked}: no saved step was evaluated ({root} holds {_listed(saved)}, "
                f"the record has {run.config.evaluation.metric} of {_listed(sorted(run.judged()))}); "
                f"give {group}step=latest or a number"
            )
    for step in candidates:
        fault = run.checkpoints.fault(step)
        if fault is None:
            return step
        _log.warning("checkpoint %s is not usable (%s); looking for another one", root / str(step), fault)
    raise UserError(f"{asked}: none of {_listed(candidates)} in {root} is usable")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The saved step of another run whose trained weights a run starts from."""

    run: SavedRun
    step: int

    def compare(self, task: TaskConfig) -> None:
        """Warns where the questions will be asked in another way than those that the weights were trained on."""
        then = self.run.config.task
        for name in ("system_prompt", "template_variables"):
            before, now = getattr(then, name), getattr(task, name)
            if before != now:
                _log.warning(
                    "the weights of model.run=%s were trained with task.%s=%s, and are asked with %s",
                    self.run.folder,
                    name,
                    show(before),
                    show(now),
                )

    def digest(self) -> str:
        """Returns what tells these weights from others."""
        manifest = read_json(self.run.checkpoints.root / str(self.step) / MANIFEST)
        params = {name: digest for name, digest in sorted(manifest.items()) if name.startswith("params/")}
        return hashlib.blake2b(json.dumps(params).encode(), digest_size=8).hexdigest()


def find_origin(config: ModelConfig) -> Origin | None:
    """Returns the step that `model.run` and `model.step` name; None where a run starts from the model's own weights.

    Raises:
        UserError: there is no such run, or it has no such step.
    """
    if config.run is None:
        return None
    places = {name: getattr(config, name) for name in PLACES if name != "run"}
    run = open_run(Path(config.run), None, places, "model.run")
    return Origin(run, choose_step(run, config.step, "model."))


def begin(config: RunConfig) -> tuple[Origin | None, str | None]:
    """Returns where a run starts, as `find_origin` does, and its digest; warns where it does not fit the task."""
    origin = find_origin(config.model)
    if origin is None:
        return None, None
    origin.compare(config.task)
    return origin, origin.digest()


def start_model(
    config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int, origin: Origin | None
) -> Model:
    """Loads the model that a run trains: the weights of the directory, or those that another run has trained.

    The adapter of another run is merged into the weights, so that they are what the new run's reference is.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    if origin is None:
        return load_model(config, directory, mesh, seed)
    _log.info("starting from the weights of %s, step %d", origin.run.folder, origin.step)
    trained = load_trained(origin.run, origin.step, mesh)
    return load_model(config, directory, mesh, seed, source=lambda: merged_leaves(trained))


def load_trained(run: SavedRun, step: int, mesh: jax.sharding.Mesh) -> Model:
    """Loads the run's model with the parameters of a saved step.

    Raises:
        UserError: the model cannot be found, or the checkpoint belongs to another run.
    """
    directory = resolve_directory(run.config.model)
    origin = find_origin(run.config.model)
    current = model_identity(run.config, directory, None if origin is None else origin.digest())
    saved = with_former_entries(run.checkpoints.run_of(step)["identity"], current)
    other = differences({key: saved.get(key) for key in current}, current)
    if other:
        raise UserError(
            f"the checkpoint {run.checkpoints.root / str(step)} belongs to another run than {run.folder} "
            f"({'; '.join(other.values())})"
        )
    model = start_model(run.config.model, directory, mesh, run.config.seed, origin)
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
