"""The settings of `scripts/generate.py`; their values are in `conf/generate.yaml`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pydantic.dataclasses import dataclass

from tunix_grpo.config import relations, rules
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.history import PLACES, read_run_config
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count, Date, Device, Flag, Name, Seed, Step, Text, Values, Whole
from tunix_grpo.config.schema import GenerationConfig, MeshConfig, ModelConfig
from tunix_grpo.errors import ConfigError, UserError

# What a run's config.yaml says of how it is asked; what the command line says wins over all but the model.
_OF_A_RUN = (
    "model",
    "task.system_prompt",
    "task.date",
    "task.template_variables",
    "generation.max_prompt_length",
    "generation.max_generation_steps",
)


@dataclass(kw_only=True, slots=True, config=GROUP)
class PromptConfig:
    """The part of a task that its prompts show."""

    system_prompt: Text | None
    """System message before the question; `default` asks for reasoning and answer tags; null is none."""
    date: Date | None
    """Day, YYYY-MM-DD, that a chat template which writes today's date is told; null is today, or the run's day."""
    template_variables: Values | None = rules.hint("give names and values, as in {enable_thinking: false}, or null")
    """Variables of the model's chat template, such as {enable_thinking: false}; null is none."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class GenerateConfig:
    """Questions for a model, and what becomes of the answers."""

    question: Name | None = rules.hint('give a text, as in "question=What is 12 + 30?"')
    """The question, any text."""
    file: Name | None = rules.hint("give a file with a question a line, or - for standard input")
    """File with a question a line; - is standard input."""
    run: rules.Path | None = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of a run: its model with trained weights is asked."""
    step: Step
    """A saved step of the run, or latest, or best: the saved step with the highest evaluation.metric."""
    checkpoint_dir: rules.Path | None = rules.hint("give a folder, or null for the one that the run has written to")
    """Folder of the run's checkpoints, where they have moved; null is the one that the run has written to."""
    path: rules.Path | None = rules.hint("give a Hugging Face directory, for example an exported one")
    """Hugging Face directory that is asked; short for model.path."""
    samples: Whole = rules.number(minimum=0)
    """Answers per question, 0 or more; 0 only shows the prompt."""
    show_prompt: Flag
    """Shows the exact prompt, token ids included."""
    json: Flag
    """Prints one object a line: prompt, completion, length, truncated."""
    batch_size: Count
    """Questions of a file that are answered at once, 1 or more."""
    seed: Seed
    """Same seed, same answers."""
    device: Device
    """cuda, cpu, tpu, or auto for the best one present."""
    jax_cache: rules.Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, shared with training; null keeps none."""
    model: ModelConfig
    generation: GenerationConfig
    task: PromptConfig
    mesh: MeshConfig


def with_model_asked(cfg: DictConfig, of_a_run: Sequence[str] = _OF_A_RUN) -> DictConfig:
    """Returns the composed config with what `run` or `path` stands for.

    Args:
        of_a_run: the settings that a run brings; what the command line says wins over all but the model.

    Raises:
        ConfigError: `run` is not the folder of a run, or something else names a model too.
    """
    given = given_keys()
    if cfg.run is not None and cfg.path is not None:
        raise ConfigError([f"run={cfg.run} and path={cfg.path}: there can be only one model; leave out one of them"])
    moved = {f"model.{name}" for name in PLACES}
    if cfg.run is not None and (named := [key for key in given if key.split(".")[0] == "model" and key not in moved]):
        raise ConfigError([f"run={cfg.run}: the run knows its model; leave out {named[0]}"])
    if cfg.run is None and OmegaConf.select(cfg, "model.run") is not None:
        raise ConfigError([f"model.run={cfg.model.run}: it is what a run starts from; give run=DIR, the run to ask"])
    cfg = cfg.copy()
    if cfg.path is not None:
        cfg.model.path = cfg.path
    if cfg.run is not None:
        run = recorded(str(cfg.run))
        for key in moved & given:
            OmegaConf.update(run, key, OmegaConf.select(cfg, key))
        if "model.path" in given:
            run.model.revision = None  # of the hub's files, which are not read
        for key in filter(lambda key: _is_in(run, key), of_a_run):
            # A task chosen by name has a system prompt and variables of its own, but no day.
            given_already = any(word in (key, key.split(".")[0]) or word.startswith(f"{key}.") for word in given)
            if not given_already or (key == "task.date" and key not in given):
                OmegaConf.update(cfg, key, OmegaConf.select(run, key), merge=False, force_add=True)
    return cfg


def _is_in(cfg: DictConfig, key: str) -> bool:
    """Says whether a config has a key: the settings of a run on demonstrations lack those of sampling."""
    group, _, name = key.rpartition(".")
    return name in (OmegaConf.select(cfg, group) if group else cfg)


def recorded(run: str) -> DictConfig:
    """Returns the settings of a run, by its folder; raises ConfigError where it is none."""
    try:
        return read_run_config(Path(rules.absolute(run)))
    except UserError as error:
        raise ConfigError([str(error)]) from error


def _one_source(question: str | None, file: str | None) -> str | None:
    if question is None and file is None:
        return 'there is no question; give "question=..." or file=questions.txt (file=- is standard input)'
    if question is not None and file is not None:
        return "there can be only one of them"
    return None


def checkpoints_of_a_run(checkpoint_dir: str | None, run: str | None) -> str | None:
    """Checks that checkpoints are not given without their run."""
    return "checkpoints belong to a run; give its folder as run=DIR" if checkpoint_dir and run is None else None


def _something_to_do(samples: int, show_prompt: bool) -> str | None:
    return "there is nothing to do; give show_prompt=true, or more samples" if not (samples or show_prompt) else None


def steps_of_a_run(step: str, run: str | None) -> str | None:
    """Checks that a step is not given without its run."""
    return "steps belong to a run; give its folder as run=DIR" if step != "latest" and run is None else None


def _samples_differ(samples: int, temperature: float) -> str | None:
    same = samples > 1 and temperature == 0
    return "the answers to a question will all be the same; give generation.temperature=1" if same else None


_ERRORS = (
    Relation(("question", "file"), _one_source),
    Relation(("samples", "show_prompt"), _something_to_do),
    Relation(("step", "run"), steps_of_a_run),
    Relation(("checkpoint_dir", "run"), checkpoints_of_a_run),
    Relation(relations.WEIGHTS, relations.weights_exist),
)
_WARNINGS = (
    Relation(("samples", "generation.temperature"), _samples_differ),
    Relation(("model.revision", "model.path"), relations.revision_is_read),
    Relation(("model.revision", "model.kaggle_id"), relations.revision_is_of_the_hub),
)
load = Loader(
    schema=GenerateConfig,
    checks=(partial(relations.check_relations, _ERRORS),),
    remarks=(partial(relations.check_relations, _WARNINGS),),
    verbatim=("question",),
    complete=with_model_asked,
    strict=False,  # the groups that training reads too say more of a task than its prompts
)
