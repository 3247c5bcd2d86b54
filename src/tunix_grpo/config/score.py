"""The settings of `scripts/score.py`; their values are in `conf/score.yaml`."""

from functools import partial
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf
from pydantic.dataclasses import dataclass

from tunix_grpo.config import open_groups, relations, rules
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.history import is_sft, read_run_config
from tunix_grpo.config.loading import VERBATIM, Loader
from tunix_grpo.config.parts import RewardsConfig
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count, Flag, Name, Number, Whole
from tunix_grpo.errors import ConfigError, UserError

# The tasks whose score is that of `grader`; others score in their own way, which needs their data.
_EXACT_TASKS = ("arithmetic", "gsm8k", "jsonl")


@dataclass(kw_only=True, slots=True, config=GROUP)
class ScoreConfig:
    """Completions, and the rewards that they are tried with."""

    file: rules.Path | None = rules.hint("give a file with a completion a row")
    """Completions, a row each: JSON lines, JSON, CSV or parquet."""
    run: rules.Path | None = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of a run, whose completions.jsonl is scored, by its own rewards unless others are given."""
    question_column: Name
    """Name of the column of the question; where it is missing, prompt."""
    completion_column: Name
    """Name of the column of the completion, a text or a list of messages."""
    answer_column: Name
    """Name of the column of the gold answer; where it is missing, answers are empty."""
    grader: Literal["number", "math_verify"]
    """How correctness compares a completion with the answer, as task.grader in training."""
    grader_timeout_s: Number = rules.number(above=0)
    """Seconds that a judgement of math-verify may take, above 0; a longer one counts as wrong."""
    num_generations: Whole | None = rules.number(minimum=1, hint="null takes the file's")
    """Completions of a question, which stand in a row, 1 or more; null is as they stand in the file."""
    max_tokens: Whole | None = rules.number(minimum=1, hint="null takes the run's")
    """Tokens at which completions were cut, 1 or more; null is the run's, or the longest completion's."""
    batch_size: Count
    """Questions whose completions are scored by one call, 1 or more; 1 tells which rows are slow."""
    examples: Whole = rules.number(minimum=0)
    """Completions that are shown of each score, 0 or more."""
    json: Flag
    """Prints one object with all of it, the values of every row too."""
    reward: RewardsConfig


def with_run(cfg: DictConfig) -> DictConfig:
    """Returns the composed config with what `run` stands for.

    Raises:
        ConfigError: it is not the folder of a run, or its task scores in a way of its own.
    """
    if cfg.run is None or cfg.file is not None:
        return cfg
    try:
        run = read_run_config(Path(rules.absolute(str(cfg.run))))
    except UserError as error:
        raise ConfigError([str(error)]) from error
    if is_sft(run):
        raise ConfigError([f"run={cfg.run}: it is a run of scripts/sft.py, which samples nothing; give file=FILE"])
    given, cfg = given_keys(), cfg.copy()
    if not any(key.split(".")[0] == "reward" for key in given):
        OmegaConf.update(cfg, "reward", run.reward, merge=False)
    if run.task.name not in _EXACT_TASKS and cfg.reward.get("correctness") is not None:
        raise ConfigError(
            [f"run={cfg.run}: its task {run.task.name} scores in its own way; choose the others, as in reward=[format]"]
        )
    of_the_run = {"num_generations": run.grpo.num_generations, "max_tokens": run.generation.max_generation_steps}
    for key, value in (of_the_run | {"grader": run.task.get("grader", "number")}).items():
        if key not in given:
            cfg[key] = value
    return cfg


def _one_source(file: str | None, run: str | None) -> str | None:
    if file is None and run is None:
        return "there is nothing to score; give file=answers.jsonl, or run=DIR"
    return "there can be only one of them" if file is not None and run is not None else None


load = Loader(
    schema=ScoreConfig,
    checks=(
        partial(relations.check_relations, (Relation(("file", "run"), _one_source), relations.CUSTOM_REWARD)),
        relations.check_rewards,
        relations.check_functions,
        relations.check_references,
    ),
    open_groups={"reward": open_groups.REWARD},
    verbatim=VERBATIM,
    complete=with_run,
)
