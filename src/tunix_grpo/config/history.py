"""Reads the settings of runs that earlier versions made: what they lack has the value that was in effect then."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from tunix_grpo.config import plugins, sft
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.loading import Examined, load
from tunix_grpo.config.open_groups import as_written
from tunix_grpo.config.parts import RewardsConfig, TaskConfig
from tunix_grpo.config.relations import ERRORS, check_relations
from tunix_grpo.config.run_files import read_run_file
from tunix_grpo.config.schema import Config
from tunix_grpo.config.sft import SftConfig
from tunix_grpo.files import Json

# Every setting that was added after runs had been made, with what the program did before it had the setting.
# A new setting of a run is entered here in the change that adds it.
BEFORE: dict[str, Json] = {
    "model.family": None,  # config.json alone told the family
    "model.kaggle_id": None,
    "model.quantization": None,
    "model.run": None,
    "model.step": "latest",
    "generation.max_rows": None,
    "task.template_variables": None,
    "training.deterministic": False,
    "training.dry_run": False,
    "training.first_look": "off",
    "training.max_bad_steps": 1,
    "training.max_failed_saves": 1,
    "training.max_hours": None,
    "training.mirror": None,
    "training.spikes": "off",
    "training.spike_threshold": 6.0,  # which off does not read
    "training.remat": "none",  # an update kept all that its layers had computed
    "tracker.custom": None,
    "tracker.report": False,
    "reward.math": None,
    "reward.python_tests": None,
    "reward.length": None,
    "reward.overlong": None,
    "reward.repetition": None,
    "reward.regex": None,
    "reward.json_schema": None,
    "reward.judge": None,
    "reward.http": None,
    "reward.format.reasoning": "reasoning",
    "reward.format.answer": "answer",
    "reward.limits.time_limit": None,
    "reward.limits.on_error": "stop",
    "reward.limits.on_timeout": "stop",
    "reward.custom.time_limit": None,
    "reward.custom.on_error": "stop",
    "reward.custom.on_timeout": "stop",
    "reward.custom.per": "auto",
    "reward.custom.messages": False,
    "reward.custom.isolate": False,
    "reward.workers": 1,
    "reward.functions": {},
    "distributed.hosts": "off",  # a run was one process
    "distributed.coordinator": None,
    "distributed.num_processes": None,
    "distributed.process_id": None,
    "distributed.timeout": 60.0,  # which off does not read
    "data.order": "uniform",
    "data.band": [0.05, 0.95],  # which uniform does not read
    "task.highest_level": None,
    "task.validate": False,
    "task.max_unmatched": 1.0,  # golds were taken as they came
    "task.date": None,  # chat templates took the day from the clock at every start
    "evaluation.before_training": True,
    "evaluation.metric": "eval/accuracy",
    "evaluation.patience": None,
    "evaluation.tasks": {},
    "tracker.show": 0,
    "tracker.trackio": False,
    "notes": {},
    "reward.normalisation": "sum",
    "grpo.num_minibatches": 1,
    "grpo.advantage": "group_std",
    "grpo.ratio": "token",
    "grpo.aggregation": "sequence_mean",
    "grpo.epsilon_low": None,
    "grpo.epsilon_high": None,
    "grpo.delta": None,
    "grpo.cap": 5.0,
    "grpo.sapo_temperature_pos": 1.0,
    "grpo.sapo_temperature_neg": 1.05,
    "grpo.mask_truncated": False,
    "grpo.replace_equal_groups": False,
    "grpo.max_extra_rounds": 10,
    "grpo.importance": "none",
    "grpo.importance_low": 0.5,
    "grpo.importance_high": 2.0,
}
# What any reward may lack, with what the program did before rewards had it.
OF_A_REWARD: dict[str, Json] = {"on_error": "stop", "on_timeout": "stop", "per": "auto", "messages": False}


class ChangedDefault(NamedTuple):
    """A default that has changed: a run that began with the former one goes on with it."""

    key: str
    before: Json
    now: Json
    model: str | None = None  # model.path of the one whose default it was; None: of all that have none of their own
    of_sft: bool = False  # of scripts/sft.py, not of training


CHANGED_DEFAULTS = (
    ChangedDefault("optimizer.learning_rate", 1e-4, 3e-4, model="bundled:tiny"),
    ChangedDefault("optimizer.learning_rate", 3e-6, 1e-4),  # of an adapter
    ChangedDefault("optimizer.learning_rate", 3e-6, 1e-5),  # of all weights
    ChangedDefault("optimizer.learning_rate", 1e-4, 1e-5, of_sft=True),  # of all weights
)
# The keys of a run's model that say where its files are: these may have moved since.
PLACES = ("path", "tokenizer", "family", "run")


# Reads the settings of a run whose own files, such as the task's, are not needed any more.
load_recorded = replace(
    load,
    complete=lambda cfg: cfg,  # what holds now was not in effect then
    checks=(partial(check_relations, ERRORS),),
    remarks=(),
    open_groups={"task": as_written(TaskConfig), "reward": as_written(RewardsConfig)},
)
# The same for a run of scripts/sft.py.
load_recorded_sft = replace(
    sft.load, complete=load_recorded.complete, checks=(), remarks=(), open_groups={"task": as_written(TaskConfig)}
)


def examine_recorded(cfg: DictConfig) -> Examined[Config] | Examined[SftConfig]:
    """Checks the settings of a run, of training or of scripts/sft.py, as `read_run_config` returns them."""
    return load_recorded_sft.examine(cfg) if is_sft(cfg) else load_recorded.examine(cfg)


def is_sft(cfg: DictConfig) -> bool:
    """Says whether a run's settings are those of scripts/sft.py."""
    return "grpo" not in cfg


def read_run_config(folder: Path, key: str = "run") -> DictConfig:
    """Returns the content of a run's config.yaml, with a value for every setting that is younger than it.

    Args:
        key: the setting that names the folder, for errors.

    Raises:
        UserError: the folder is not that of a run.
    """
    return with_former_values(OmegaConf.create(read_run_file(folder, key)))


def with_former_values(cfg: DictConfig) -> DictConfig:
    """Returns the config of an old run with a value for every setting that is younger than it."""
    cfg = cfg.copy()
    for key in BEFORE.keys() & set((sft.load if is_sft(cfg) else load).settings()):
        group, _, name = key.rpartition(".")
        inside = OmegaConf.select(cfg, group) if group else cfg
        if inside is None and group.removeprefix("reward.") in plugins.REWARDS:
            continue  # the reward is not selected
        if name not in (inside or ()):
            OmegaConf.update(cfg, key, BEFORE[key], force_add=True)
    for name, reward in cfg.get("reward", {}).items():
        if isinstance(reward, DictConfig) and "weight" in reward and "function" not in reward:
            former = {"time_limit": None, "on_error": "stop", "on_timeout": "stop"}
            former |= {"workers": 1} if name == "math" else {}
            cfg.reward[name] = former | dict(reward)
    return cfg


def with_former_entries(saved: Mapping[str, Json], wanted: Iterable[str]) -> dict[str, Json]:
    """Returns what an old checkpoint says of its run, by setting, with an entry for the wanted ones that are younger.

    A wanted key that is no setting of the table stays away, so that a comparison shows it.
    """
    return {key: BEFORE[key] for key in wanted if key in BEFORE} | dict(saved)


def former_of_a_reward(setting: str) -> dict[str, Json]:
    """Returns what a reward did before it had the settings that are younger than it, by their names.

    Args:
        setting: its key, such as reward.format.
    """
    inside = {key.removeprefix(f"{setting}."): value for key, value in BEFORE.items() if key.startswith(f"{setting}.")}
    return OF_A_REWARD | inside


def defaults_of_then(model: str, now: Mapping[str, Json], saved: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the defaults that have changed since a run began, as they were: those that no word of the command sets.

    Args:
        model: model.path.
        now: the settings that decide what is learned, by key.
        saved: the same of the run's checkpoint.
    """
    given, of_sft = given_keys(), not any(key.startswith("grpo.") for key in now)
    return {
        default.key: default.before
        for default in CHANGED_DEFAULTS
        if (now.get(default.key), saved.get(default.key)) == (default.now, default.before)
        and default.model in (model, None)
        and default.of_sft == of_sft
        and default.key not in given
    }
