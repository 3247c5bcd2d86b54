"""The settings of `scripts/evaluate.py`; their values are in `conf/evaluate.yaml` and the groups of training."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tunix_grpo.config import open_groups, relations, rules
from tunix_grpo.config.composing import option_of
from tunix_grpo.config.generate import checkpoints_of_a_run, recorded, steps_of_a_run, with_model_asked
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.loading import VERBATIM, Loader
from tunix_grpo.config.open_groups import FURTHER_TASKS, OpenGroup, extended
from tunix_grpo.config.parts import FurtherTasks, RewardsConfig, TaskConfig, further_tasks
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count, Device, Flag, Name, Number, Seed, Step, Steps, Values, Whole
from tunix_grpo.config.schema import GenerationConfig, MeshConfig, ModelConfig
from tunix_grpo.config.sentences import field_names
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import ConfigError, UserError

# What a run's config.yaml says of how its model is asked, beside its task and its rewards.
_OF_A_RUN = ("model", "seed", *(f"generation.{name}" for name in sorted(field_names(GenerationConfig))))
# What of a task goes with the model: a task that is chosen by name takes it over, unless it says otherwise.
_OF_THE_MODEL = {"system_prompt": "default", "date": None, "template_variables": None}


@dataclass(kw_only=True, slots=True, config=GROUP)
class MeasuredConfig:
    """How many questions are asked, how often, and what is concluded."""

    num_questions: Whole | None = rules.number(minimum=1, hint="null asks all")
    """Held-out questions of each task, 1 or more; null is all there are."""
    num_samples: Whole = rules.number(minimum=0, hint="0 asks for the greedy answers alone")
    """Sampled answers to each question, beside the greedy one, 0 or more."""
    batch_size: Count
    """Answers that are drawn at once, 1 or more."""
    accuracy: Literal["greedy", "sampled"]
    """The accuracy that the verdict, fail_below and fail_if_worse go by: of the greedy answers, or the mean of the
    sampled ones."""
    tasks: Values = rules.hint("give +task@evaluation.tasks.NAME=OPTION")
    """More tasks, by name, each with the settings of the group task: +task@evaluation.tasks.NAME=OPTION, and
    evaluation.tasks.NAME.KEY=VALUE."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class EvaluateConfig:
    """A model, questions for it, and what it is compared with."""

    run: rules.Path | None = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of a run: its model with trained weights is evaluated, on its task and by its rewards unless others are
    given."""
    step: Steps
    """A saved step of the run, or latest, or best (the saved step with the highest evaluation.metric), or all."""
    checkpoint_dir: rules.Path | None = rules.hint("give a folder, or null for the one that the run has written to")
    """Folder of the run's checkpoints, where they have moved; null is the one that the run has written to."""
    path: rules.Path | None = rules.hint("give a Hugging Face directory, for example an exported one")
    """Hugging Face directory that is evaluated; short for model.path."""
    baseline: Name | None = rules.hint(
        "give base, a run, a Hugging Face directory, an evaluation.json or a model's name"
    )
    """What the model is compared with on the same questions: base (what the run began with), the folder of a run, a
    Hugging Face directory, an earlier evaluation.json, or the name of an option of model; null is nothing."""
    baseline_step: Step
    """Which step of a baseline that is a run, or an evaluation of several steps: a number, latest, best (of a run)."""
    to: rules.Path | None = rules.hint("give a folder, or null")
    """Folder of the answers and the results; the same command goes on there. Null is evaluations/STEP in the run, and
    outputs/tunix-grpo/evaluations/NAME for other models."""
    overwrite: Flag
    """Deletes what another evaluation left in the folder."""
    fail_below: Number | None = rules.number(minimum=0, maximum=1, hint="null never fails")
    """An accuracy below it, of any task, ends the program with exit code 3; in [0, 1]; null never does."""
    fail_if_worse: Flag
    """A model that is shown to be worse than its baseline, on any task, ends the program with exit code 3."""
    json: Flag
    """Prints evaluation.json in place of tables."""
    seed: Seed
    """Same seed, same answers, same intervals; of a run it is the run's unless it is given."""
    device: Device
    """cuda, cpu, tpu, or auto for the best one present."""
    jax_cache: rules.Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, shared with training; null keeps none."""
    model: ModelConfig
    generation: GenerationConfig
    task: TaskConfig
    reward: RewardsConfig
    mesh: MeshConfig
    evaluation: MeasuredConfig

    def tasks(self) -> dict[str, TaskConfig]:
        """Returns the tasks by name: the main one, by its own, and then the others."""
        others: Any = further_tasks(self.evaluation.tasks)
        return {_short(self.task.name): self.task} | others


def _short(task: str) -> str:
    """Returns the name of a task, of FILE.py:FUNCTION that of the file."""
    return Path(task.rpartition(":")[0] or task).stem


def model_option(name: str) -> ModelConfig:
    """Returns the settings of an option of the group `model`.

    Raises:
        UserError: there is none, or it lacks something.
    """
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    options = sorted({file.stem for folder in folders for file in (folder / "model").glob("*.yaml")} - {"base"})
    if name not in options:
        raise UserError(
            f"baseline={name}: there is no such file, run, directory or model{did_you_mean(name, options)}; "
            f"the models are {', '.join(options)}"
        )
    try:
        content = OmegaConf.to_container(option_of("model", name, folders, "evaluate"), resolve=True)
        model = TypeAdapter(ModelConfig).validate_python(content)
    except (ConfigError, ValidationError) as error:
        raise UserError(f"baseline={name}: the model's file cannot be used; give its directory") from error
    if problem := relations.weights_exist(model.path, model.hub_id, model.kaggle_id):
        raise UserError(f"baseline={name}: {problem}")
    return model


# --- what the composed settings leave open ---


def with_subject(cfg: DictConfig) -> DictConfig:
    """Returns the composed config with what `run` or `path` stands for, and every task whole.

    Raises:
        ConfigError: `run` is not the folder of a run, or something else names a model too.
    """
    cfg, given = with_model_asked(cfg, _OF_A_RUN), given_keys()
    if cfg.run is not None:
        run = recorded(str(cfg.run))
        for group in ("task", "reward"):
            if group not in given and group in run:  # a run on demonstrations has no rewards
                _take_over(cfg, group, run[group], given)
        _lend(cfg.task, run.task, "task", given)
    cfg.task.validate = False
    tasks = cfg.evaluation.tasks if isinstance(cfg.evaluation.tasks, DictConfig) else {}
    for name, task in tasks.items():
        if isinstance(task, DictConfig):
            _lend(task, cfg.task, f"{FURTHER_TASKS}.{name}", given)
            for key in field_names(TaskConfig) - {"name"}:
                if key not in task:
                    OmegaConf.update(task, key, cfg.task[key], force_add=True)
    # A model's file may set what suits it in groups of training that are not read here.
    return OmegaConf.masked_copy(cfg, sorted(field_names(EvaluateConfig) & set(map(str, cfg))))


def _take_over(cfg: DictConfig, group: str, of_the_run: DictConfig, given: set[str]) -> None:
    """Puts the run's settings of a group in the place of those in conf/; what the command line says stays."""
    said = {key: OmegaConf.select(cfg, key) for key in given if key.startswith(f"{group}.")}
    OmegaConf.update(cfg, group, of_the_run, merge=False, force_add=True)
    for key, value in said.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)


def _lend(task: DictConfig, lender: DictConfig, prefix: str, given: set[str]) -> None:
    """Gives a task what goes with the model, where neither its file nor the command line says something else."""
    for key, unsaid in _OF_THE_MODEL.items():
        if f"{prefix}.{key}" not in given and task.get(key, unsaid) == unsaid and key in lender:
            OmegaConf.update(task, key, lender[key], merge=False, force_add=True)


def _evaluation_section(content: dict[str, object]) -> type:
    tasks = content.get("tasks")
    if not isinstance(tasks, dict):
        return MeasuredConfig
    sections = {}
    for name, task in tasks.items():
        if not isinstance(task, dict):
            raise UserError(f"{FURTHER_TASKS}.{name}: is no task; give +task@{FURTHER_TASKS}.{name}=OPTION")
        try:
            sections[name] = open_groups.TASK.section(task)
        except UserError as error:
            raise UserError(re.sub(r"\btask\.(?!py)", f"{FURTHER_TASKS}.{name}.", str(error))) from error
    return extended(MeasuredConfig, {"tasks": extended(FurtherTasks, sections, {})}, {})


# --- relations ---


def _no_run_no_base(baseline: str | None, run: str | None) -> str | None:
    if baseline == "base" and run is None:
        return "base is what a run began with; give run=DIR, or baseline=MODEL"
    return None


def _step_of_a_baseline(baseline: str | None, step: str) -> str | None:
    return "steps belong to a baseline; give baseline=RUN" if baseline is None and step != "latest" else None


def _worse_than_what(fail_if_worse: bool, baseline: str | None) -> str | None:
    return "there is nothing to be worse than; give baseline=" if fail_if_worse and baseline is None else None


def _sampled(accuracy: str, num_samples: int) -> str | None:
    if accuracy == "sampled" and num_samples == 0:
        return "there are no samples; give evaluation.num_samples=8, or evaluation.accuracy=greedy"
    return None


def _samples_differ(num_samples: int, temperature: float) -> str | None:
    same = num_samples > 0 and temperature == 0
    return "the samples will all be the greedy answer; give evaluation.num_samples=0" if same else None


def _names_differ(values: Mapping[str, object]) -> list[str]:
    """Returns what is wrong where a further task has the name of the main one."""
    main = _short(str(values.get("task.name")))
    taken = f"{FURTHER_TASKS}.{main}.name" in values
    return [f"{FURTHER_TASKS}.{main}: it is the name of the main task already; give another NAME"] if taken else []


_ERRORS = (
    Relation(("step", "run"), steps_of_a_run),
    Relation(("checkpoint_dir", "run"), checkpoints_of_a_run),
    Relation(("baseline", "run"), _no_run_no_base),
    Relation(("baseline", "baseline_step"), _step_of_a_baseline),
    Relation(("fail_if_worse", "baseline"), _worse_than_what),
    Relation(("evaluation.accuracy", "evaluation.num_samples"), _sampled),
    Relation(relations.WEIGHTS, relations.weights_exist),
    relations.CUSTOM_REWARD,
    Relation(("task.name", "task.path", "task.dataset"), relations.data_exists),
    Relation(("reward.overlong.max_length", "reward.overlong.cache", relations.MAX_TOKENS), relations.penalty_fits),
)
_WARNINGS = (
    Relation(("evaluation.num_samples", "generation.temperature"), _samples_differ),
    Relation(("model.revision", "model.path"), relations.revision_is_read),
    Relation(("model.revision", "model.kaggle_id"), relations.revision_is_of_the_hub),
)
load = Loader(
    schema=EvaluateConfig,
    checks=(
        partial(relations.check_relations, _ERRORS),
        relations.check_rewards,
        relations.check_functions,
        relations.check_references,
        _names_differ,
    ),
    remarks=(partial(relations.check_relations, _WARNINGS),),
    open_groups={
        "task": open_groups.TASK,
        "reward": open_groups.REWARD,
        "evaluation": OpenGroup(_evaluation_section, list, lambda *_: None),
    },
    verbatim=VERBATIM,
    complete=with_subject,
)
