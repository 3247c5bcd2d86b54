"""The models of an evaluation: the ones that are asked about, and the one that they are compared with."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import jax

from tunix_grpo.config import ModelConfig
from tunix_grpo.config.evaluate import EvaluateConfig, model_option
from tunix_grpo.config.history import PLACES
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.model.merging import merged_leaves
from tunix_grpo.model.model import Model, load_frozen
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.programs.evaluation.answers import EVALUATION
from tunix_grpo.run.identity import content_digest, model_identity
from tunix_grpo.run.saved_runs import Origin, SavedRun, choose_step, find_origin, load_trained, open_run
from tunix_grpo.run.step_files import MANIFEST

BASE = "base"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that answers.

    Attributes:
        name: for files and people, such as `tiny` or `step-100`.
        model: its settings.
        seed: of random weights.
        directory: of its Hugging Face files.
        run, step: where its trained weights are; None: it is as its files say, or as `origin` left it.
        origin: what its run has started from, of another run; None: what its files say.
    """

    name: str
    model: ModelConfig
    seed: int
    directory: Path
    run: SavedRun | None = None
    step: int | None = None
    origin: Origin | None = None

    def identity(self) -> dict[str, Json]:
        """Returns what its answers belong to."""
        found = model_identity(self, self.directory)
        del found["model.run"]  # answers of models that have started from no run need not say so
        if self.origin is not None:
            found["model.run"] = self.origin.digest()
        if self.run is not None:
            manifest = self.run.checkpoints.root / str(self.step) / MANIFEST
            found |= {"step": self.step, "checkpoint": content_digest(manifest.read_bytes())}
        return found

    def load(self, mesh: jax.sharding.Mesh) -> Model:
        """Loads its weights."""
        if self.run is not None and self.step is not None:
            return load_trained(self.run, self.step, mesh)
        if self.origin is not None:
            trained = load_trained(self.origin.run, self.origin.step, mesh)
            source = functools.partial(merged_leaves, trained)
            return load_frozen(self.model, self.directory, mesh, self.seed, source)
        return load_frozen(self.model, self.directory, mesh, self.seed)


def subjects_of(config: EvaluateConfig) -> list[Subject]:
    """Returns the models that are asked about: one, or one of each step.

    Raises:
        UserError: there is no such model or step.
    """
    if config.run is None:
        named = Path(config.model.path).name if config.path is not None and config.model.path else config.model.name
        return [_untrained(file_name(named), config.model, config.seed)]
    run = open_run(Path(config.run), config.checkpoint_dir, {name: getattr(config.model, name) for name in PLACES})
    steps = _all_steps(run) if config.step == "all" else [choose_step(run, config.step)]
    return _of_run(run, steps, "step-{}")


def baseline_of(config: EvaluateConfig, subjects: Sequence[Subject]) -> Subject | Path | None:
    """Returns the model that the others are compared with, the file of an earlier evaluation, or None.

    Raises:
        UserError: there is no such thing.
    """
    wanted = config.baseline
    if wanted is None:
        return None
    run = subjects[0].run
    if wanted == BASE and run is not None:
        return dataclasses.replace(_untrained(BASE, run.config.model, run.config.seed), origin=subjects[0].origin)
    place = Path(wanted).expanduser().absolute()
    if place.is_file():
        return place
    if (place / EVALUATION).is_file():
        return place / EVALUATION
    if (place / "config.yaml").is_file():
        other = open_run(place)
        return _of_run(
            other, [choose_step(other, config.baseline_step)], f"baseline-{file_name(place.name)}-step-{{}}"
        )[0]
    if (place / "config.json").is_file():
        settings = dataclasses.replace(config.model, **_PLAIN, name=place.name, path=str(place))
        return _untrained(f"baseline-{file_name(place.name)}", settings, config.seed)
    if place.exists():
        raise UserError(
            f"baseline={wanted}: it holds neither evaluation.json nor the config.yaml of a run nor the config.json of "
            "a model; give one that does"
        )
    option = model_option(wanted)
    return _untrained(f"baseline-{file_name(option.name)}", option, config.seed)


# A model directory by itself: what else the settings of the other model say does not hold for it.
_PLAIN = {"kaggle_id": None, "hub_id": None, "revision": None, "tokenizer": None, "random_weights": False}


def file_name(text: str) -> str:
    """Returns a text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text) or "model"


def _untrained(name: str, model: ModelConfig, seed: int) -> Subject:
    return Subject(name=name, model=model, seed=seed, directory=resolve_directory(model))


def _of_run(run: SavedRun, steps: Sequence[int], names: str) -> list[Subject]:
    model, seed = run.config.model, run.config.seed
    where = {"model": model, "seed": seed, "directory": resolve_directory(model), "run": run}
    where["origin"] = find_origin(model)
    return [Subject(name=names.format(step), step=step, **where) for step in steps]


def _all_steps(run: SavedRun) -> list[int]:
    """Returns the saved steps whose files are whole."""
    usable = []
    for step in run.checkpoints.steps():
        if fault := run.checkpoints.fault(step):
            _log.warning("checkpoint %s is not usable (%s); it is left out", run.checkpoints.root / str(step), fault)
        else:
            usable.append(step)
    return usable or [choose_step(run, "latest")]  # which says what is wrong
