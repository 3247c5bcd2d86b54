"""The settings of `scripts/sft.py`; their values are in `conf/sft.yaml` and the groups of training."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal, TypeAlias

from pydantic.dataclasses import dataclass

from tunix_grpo.config import open_groups, relations, rules
from tunix_grpo.config.further_tasks import with_common_keys
from tunix_grpo.config.loading import ALIASES, Loader
from tunix_grpo.config.origins import with_origin
from tunix_grpo.config.parts import TaskConfig, TrackerConfig
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count, Device, Name, Number, Path, Seed, Whole
from tunix_grpo.config.schema import (
    Config,
    EvaluationConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
)
from tunix_grpo.config.training import CheckpointFolder, LengthConfig
from tunix_grpo.config.wandb_variables import with_wandb_variables

ANSWER_PLACE = "{answer}"  # in answer_form


@dataclass(kw_only=True, slots=True, config=GROUP)
class TextLengths:
    """How long demonstrations may be; held-out questions are answered within the same lengths."""

    max_prompt_length: Count
    """Tokens of a prompt, template included, 1 or more; longer ones are dropped and counted."""
    max_generation_steps: Count
    """Tokens of a demonstration's answer, its end included, 1 or more; longer ones are dropped and counted."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class SftConfig:
    """One run on demonstrations. `seed`, `device` and `checkpoint_dir` are the values in effect."""

    file: Path | None = rules.hint("give a file of demonstrations, or null for the task's gold answers")
    """Demonstrations, a conversation each: JSON lines, JSON, CSV or parquet; null: the task's own gold answers."""
    answer_form: Name = rules.hint("it is what a gold answer stands in")
    """How a gold answer is said where `file` is null; {answer}, {question} and {COLUMN} of the data are filled in."""
    min_reward: Number | None = rules.number(hint="null takes demonstrations, which have no reward")
    """Lowest reward of a sample that is taken as a demonstration; null: the file's rows have none."""
    reward_column: Name
    """Name of the column with the reward of a sample, read when `min_reward` is given."""
    max_per_question: Whole | None = rules.number(minimum=1, hint="null takes all")
    """Demonstrations of one question, 1 or more; of samples those with the highest reward. null takes all."""
    prompt_texts: Literal["auto", "questions", "rendered"]
    """What a prompt that is a text is: questions: the chat template is still to be written around it; rendered: it
    stands as the model reads it; auto: rendered in what this program has recorded, else questions."""
    seed: Seed
    """Same as training.seed."""
    device: Device
    """Same as training.device."""
    checkpoint_dir: CheckpointFolder = rules.hint("give a folder such as ./checkpoints/sft/")
    """Same as training.checkpoint_dir."""
    output_dir: Path = rules.hint("leave it to hydra.run.dir")
    """Folder of this run's record."""
    jax_cache: Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, shared by all runs; null keeps none."""
    model: ModelConfig
    training: LengthConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    generation: TextLengths
    task: TaskConfig
    tracker: TrackerConfig
    mesh: MeshConfig
    evaluation: EvaluationConfig
    notes: dict[str, object] = rules.hint("give keys and values of your own, as in +notes.machine=laptop")
    """Your own keys, such as +notes.machine=laptop: kept with the run's settings, and read by nothing."""

    def demonstrations_per_step(self, data_parallel_devices: int) -> int:
        """Returns D: micro_batch_size x gradient_accumulation_steps x data-parallel devices."""
        return self.training.micro_batch_size * self.training.gradient_accumulation_steps * data_parallel_devices

    def total_steps(self, demonstrations: int, data_parallel_devices: int) -> int:
        """Returns the steps of the whole run: num_epochs x num_batches; null batches are one pass.

        Args:
            demonstrations: that there are.
            data_parallel_devices: devices that share the demonstrations of a step.
        """
        num_batches = self.training.num_batches
        if num_batches is None:
            num_batches = math.ceil(demonstrations / self.demonstrations_per_step(data_parallel_devices))
        return self.training.num_epochs * num_batches


# Of whatever trains.
RunConfig: TypeAlias = Config | SftConfig


def _samples_of_a_file(min_reward: float | None, file: str | None) -> str | None:
    return (
        "rewards are those of a file; give file=RUN/completions.jsonl" if min_reward is not None and not file else None
    )


def _form_has_a_place(form: str) -> str | None:
    return None if ANSWER_PLACE in form else "it has no place for the answer; write {answer} where it stands"


def _judged_by_accuracy(metric: str) -> str | None:
    if metric.endswith("/accuracy"):
        return None
    return f"there are no rewards here; give evaluation.metric={metric.removesuffix('reward')}accuracy"


def _task_is_trained_on(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what belongs to training alone."""
    if values.get("task.validate"):
        yield "task.validate=true: it is run_training.py that validates a task; leave it out"


_ERRORS = (
    *relations.TRAINING,
    Relation(("min_reward", "file"), _samples_of_a_file),
    Relation(("answer_form",), _form_has_a_place),
    Relation(("evaluation.metric",), _judged_by_accuracy),
)
load = Loader(
    schema=SftConfig,
    complete=lambda cfg: with_common_keys(with_origin(with_wandb_variables(cfg))),
    checks=(
        partial(relations.check_relations, _ERRORS),
        relations.check_references,
        relations.check_metric,
        relations.check_trackio,
        _task_is_trained_on,
    ),
    remarks=(partial(relations.check_relations, relations.TRAINING_REMARKS),),
    open_groups={"task": open_groups.TASK, "evaluation": open_groups.EVALUATION},
    aliases=ALIASES,
    verbatim=("answer_form",),
    strict=False,  # the groups that training reads too say more of a step than its demonstrations
)
