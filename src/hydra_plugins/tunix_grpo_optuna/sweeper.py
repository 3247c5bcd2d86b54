"""Lets Optuna choose the settings of a sweep's jobs, by what earlier jobs have come to.

Hydra's own plugin for Optuna wants a version below 3 beside Hydra 1.3, so this one asks and tells a study itself. Hydra
imports this module at every start: Optuna is imported where a sweep begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tunix_grpo.files import whole_file

Direction: TypeAlias = Literal["maximize", "minimize"]
_log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Runs `n_trials` jobs, `n_jobs` at a time, whose settings Optuna draws from what the command line spans.

    `KEY=interval(a,b)` is a number between both, `KEY=tag(log,interval(a,b))` one on a logarithmic scale; an interval
    whose ends are at least a factor of ten apart, both above zero, is logarithmic by itself. `KEY=range(a,b,step)` is a
    number of a grid, `KEY=a,b,c` one of a list.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        direction: Direction,
        seed: int | None,
        storage: str | None,
        study_name: str | None,
    ) -> None:
        """Takes what a study is made of.

        Args:
            n_trials: jobs in all, those of an earlier start of the same stored study included.
            n_jobs: jobs that are chosen, and by some launchers run, at the same time.
            direction: maximize or minimize.
            seed: of the sampler; None draws anew each time.
            storage: URL of a database that keeps the study, None for memory.
            study_name: its name in the database.
        """
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.direction: Direction = direction
        self.seed, self.storage, self.study_name = seed, storage, study_name

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Is called by Hydra with what runs a job."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials and writes `optimization_results.yaml`: the best settings and value.

        Args:
            arguments: of the command line, checked: at least one spans something.
        """
        import optuna

        assert self.config is not None and self.launcher is not None, "setup() comes first"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        fixed, searched = self._split(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        study = optuna.create_study(
            direction=self.direction,
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            storage=self.storage,
            study_name=self.study_name,
            load_if_exists=True,
        )
        while len(study.trials) < self.n_trials:
            count = min(self.n_jobs, self.n_trials - len(study.trials))
            trials = [study.ask() for _ in range(count)]
            jobs = [[*fixed, *(f"{key}={draw(trial)}" for key, draw in searched.items())] for trial in trials]
            results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, result in zip(trials, results, strict=True):
                value = result.return_value  # raises what the job raised
                failed = value is None or not math.isfinite(value)
                state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
                study.tell(trial, None if failed else value, state=state)
        self._report(study, folder)

    def _split(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Callable[[Any], object]]]:
        """Returns the words that are the same for all jobs, and how a trial draws each of the others."""
        assert self.hydra_context is not None, "setup() comes first"
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        fixed, searched = [], {}
        for override in parser.parse_overrides(list(arguments)):
            key = override.get_key_element()
            if override.is_sweep_override():
                searched[key] = _draw(key, override)
            else:
                fixed.append(f"{key}={override.get_value_element_as_str()}")
        return fixed, searched

    def _report(self, study: Any, folder: Path) -> None:
        complete = [trial for trial in study.trials if trial.value is not None]
        if not complete:
            _log.warning("no trial came to a number; see the errors above")
            return
        best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
        with whole_file(folder / "optimization_results.yaml") as file:  # the name and keys of Hydra's own plugin
            OmegaConf.save(best, file)


def _draw(key: str, override: Override) -> Callable[[Any], object]:
    """Returns what draws a value for a trial, in the words of the command line."""
    span, name = override.value(), key.lstrip("+")
    if isinstance(span, IntervalSweep):
        low, high = float(span.start or 0), float(span.end or 0)
        log = "log" in span.tags or (low > 0 and high / low >= 10)
        if isinstance(span.start, int) and isinstance(span.end, int):
            return lambda trial: trial.suggest_int(name, int(low), int(high), log=log)
        return lambda trial: trial.suggest_float(name, low, high, log=log)
    choices = list(override.sweep_string_iterator())
    return lambda trial: trial.suggest_categorical(name, choices)
