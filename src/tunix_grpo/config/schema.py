"""Every setting of a run: its type, its unit and range, and how settings relate.

The values are in the `conf/` folder and nowhere else. P is the number of prompts per step, G the
number of generations per prompt; a step is one batch of prompts, its completions and the update
from them.
"""

import math
from typing import Literal, Protocol

from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.algorithm import GrpoConfig
from tunix_grpo.config.distributed import DistributedConfig
from tunix_grpo.config.parts import RewardsConfig, TaskConfig, TrackerConfig
from tunix_grpo.config.rules import (
    GROUP,
    Band,
    Count,
    Device,
    EvaluationMetric,
    Flag,
    Modules,
    Name,
    NameOrReference,
    Number,
    Path,
    Seed,
    Step,
    Values,
    Whole,
)
from tunix_grpo.config.training import BatchConfig, CheckpointFolder, TrainingConfig


@dataclass(kw_only=True, slots=True, config=GROUP)
class ModelConfig:
    """Which weights are trained, and which part of them."""

    name: Name = rules.hint("it labels the run")
    """Label of the model in logs and checkpoints."""
    path: Path | None = rules.hint("give a Hugging Face directory, or null for model.hub_id")
    """Hugging Face directory, or `bundled:tiny`, the bundled model; null downloads `kaggle_id` or `hub_id`."""
    kaggle_id: Name | None = rules.hint("give an id such as google/gemma-3/transformers/gemma-3-1b-it, or null")
    """Kaggle model OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION] of Hugging Face files, read when `path` is null."""
    hub_id: Name | None = rules.hint("give an id such as google/gemma-3-1b-it, or null")
    """Hugging Face hub id, read when `path` and `kaggle_id` are null."""
    revision: Name | None = rules.hint("give a branch, tag or commit, or null for the newest")
    """Branch, tag or commit of `hub_id`; null is the newest."""
    tokenizer: Path | None = rules.hint("give a directory, or null for the model's own")
    """Directory of the tokenizer; null is the model's own."""
    random_weights: Flag
    """Starts from random weights of the shapes in config.json, for timing and tests."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Type of the weights in computation; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    lora_rank: Whole | None = rules.number(minimum=1, hint="null trains all weights")
    """Rank of the LoRA adapter, 1 or more; null trains all weights."""
    lora_alpha: Number = rules.number(above=0)
    """LoRA scale: the adapter's output is multiplied by lora_alpha / lora_rank. Above 0."""
    lora_target_modules: Modules
    """Layers that get an adapter: all, attention, mlp, or a regular expression on module paths."""
    quantization: Literal["nf4", "int8"] | None
    """Type of the frozen attention and MLP weights under LoRA (QLoRA): nf4, int8; null keeps them as they are."""
    family: NameOrReference | None = rules.hint("give FILE.py:NAME of a family of your own, or null")
    """Family of the model, also FILE.py:NAME of one of your own; null goes by model_type in config.json."""
    run: Path | None = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00, or null")
    """Folder of another run, of training or of scripts/sft.py: its trained weights are the start and the reference; it
    says which model that is. null starts from the model's own weights."""
    step: Step
    """Step of `run` that is the start: a saved step, or latest, or best: the one with the highest evaluation.metric."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class OptimizerConfig:
    """The optimizer and its constants."""

    name: Literal["adamw"]
    """adamw."""
    learning_rate: Number = rules.number(above=0, hint="usual are 1e-6 to 1e-3")
    """Peak learning rate, above 0."""
    beta1: Number = rules.number(minimum=0, below=1)
    """Decay of the first moment, in [0, 1)."""
    beta2: Number = rules.number(minimum=0, below=1)
    """Decay of the second moment, in [0, 1)."""
    eps: Number = rules.number(above=0)
    """Added to the root of the second moment, above 0."""
    weight_decay: Number = rules.number(minimum=0)
    """Decoupled weight decay, 0 or more."""
    max_grad_norm: Number = rules.number(above=0, hint="1e9 is as good as no clipping")
    """Largest global norm of the gradient, above 0."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class SchedulerConfig:
    """The learning rate over the run."""

    name: Literal["warmup_cosine", "constant", "linear"]
    """Shape after the warm-up: warmup_cosine, constant or linear."""
    warmup_ratio: Number = rules.number(minimum=0, maximum=1)
    """Part of all steps over which the learning rate rises to its peak, in [0, 1]."""
    final_ratio: Number = rules.number(minimum=0, maximum=1)
    """Part of the peak that the rate falls to by the end, in [0, 1]; a constant schedule ignores it."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class SamplingConfig:
    """How tokens are drawn."""

    temperature: Number = rules.number(minimum=0)
    """Divides the logits before sampling, 0 or more; 0 is greedy."""
    top_p: Number = rules.number(above=0, maximum=1)
    """Probability mass that sampling is restricted to, in (0, 1]; 1 is all."""
    top_k: Whole | None = rules.number(minimum=1, hint="null samples from all tokens")
    """Number of likeliest tokens that sampling is restricted to, 1 or more; null is all."""
    max_rows: Whole | None = rules.number(minimum=1, hint="null draws all at once")
    """Completions of a step, or of a batch, that are drawn at once, 1 or more; the next take the place of those that
    have ended. null draws all at once."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class GenerationConfig(SamplingConfig):
    """How completions are sampled in training. Evaluation is greedy."""

    max_prompt_length: Count
    """Tokens of a prompt, template included, 1 or more; longer prompts are dropped and counted."""
    max_generation_steps: Count
    """Tokens of a completion, 1 or more."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class DataConfig:
    """In which order the training questions are asked."""

    order: Literal["uniform", "hard_first", "band"]
    """uniform: pass after pass, each shuffled; hard_first: in each pass those with the lowest success rate first; band:
    mostly those whose success rate lies in data.band."""
    band: Band
    """Lowest and highest estimated success rate of the questions that order=band asks, two numbers in [0, 1]."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class MeshConfig:
    """How the devices share the work."""

    fsdp: Whole | None = rules.number(minimum=1, hint="null takes all devices / mesh.tp")
    """Devices that share prompts and weights (data parallel), 1 or more; null is all / tp."""
    tp: Count
    """Devices that share each layer (tensor parallel), 1 or more."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class EvaluationConfig:
    """Greedy accuracy on held-out questions."""

    num_questions: Count
    """Held-out questions per evaluation, of each task, 1 or more."""
    batch_size: Count
    """Questions that are answered at once, 1 or more."""
    before_training: Flag
    """Evaluates before the first update, too."""
    metric: EvaluationMetric
    """What an evaluation is judged by: it chooses the best checkpoint, which is saved and kept, and a sweep's jobs are
    compared by it. `eval/accuracy`, `eval/reward`, or `eval/NAME/accuracy` and `eval/NAME/reward` of a task of
    `evaluation.tasks`."""
    patience: Whole | None = rules.number(minimum=1, hint="null never ends a run early")
    """Evaluations in a row without a better `metric` that end the run, 1 or more; null never does."""
    tasks: Values = rules.hint("add a task with +task@evaluation.tasks.NAME=OPTION")
    """Tasks that are evaluated beside the run's own, each added by +task@evaluation.tasks.NAME=OPTION and with the
    settings of that option."""


class _HasBatches(Protocol):
    @property
    def training(self) -> BatchConfig: ...

    @property
    def grpo(self) -> GrpoConfig: ...


class TrainerConfig(_HasBatches, Protocol):
    """What a trainer reads of the settings: of a run's, or of a benchmark's on a device."""

    @property
    def seed(self) -> int: ...

    @property
    def generation(self) -> GenerationConfig: ...

    def completions_per_step(self, data_parallel_devices: int) -> int:
        """Returns P x G."""
        ...


class StepSize:
    """How large a step is, by the groups `training` and `grpo` of the config that inherits it."""

    __slots__ = ()

    def prompts_per_step(self: _HasBatches, data_parallel_devices: int) -> int:
        """Returns P: micro_batch_size x gradient_accumulation_steps x data-parallel devices x num_minibatches."""
        return self.grpo.num_minibatches * _prompts_per_update(self.training, data_parallel_devices)

    def completions_per_step(self: _HasBatches, data_parallel_devices: int) -> int:
        """Returns P x G."""
        prompts = self.grpo.num_minibatches * _prompts_per_update(self.training, data_parallel_devices)
        return prompts * self.grpo.num_generations


def _prompts_per_update(batch: BatchConfig, data_parallel_devices: int) -> int:
    return batch.micro_batch_size * batch.gradient_accumulation_steps * data_parallel_devices


@dataclass(kw_only=True, slots=True, config=GROUP)
class Config(StepSize):
    """One run. `seed`, `device` and `checkpoint_dir` are the values in effect."""

    seed: Seed
    """Same as training.seed."""
    device: Device
    """Same as training.device."""
    checkpoint_dir: CheckpointFolder = rules.hint("give a folder such as ./checkpoints/ckpts/")
    """Same as training.checkpoint_dir."""
    output_dir: Path = rules.hint("leave it to hydra.run.dir")
    """Folder of this run's record."""
    jax_cache: Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, shared by all runs; null keeps none."""
    model: ModelConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    grpo: GrpoConfig
    generation: GenerationConfig
    task: TaskConfig
    data: DataConfig
    reward: RewardsConfig
    tracker: TrackerConfig
    mesh: MeshConfig
    distributed: DistributedConfig
    evaluation: EvaluationConfig
    notes: dict[str, object] = rules.hint("give keys and values of your own, as in +notes.machine=laptop")
    """Your own keys, such as +notes.machine=laptop: kept with the run's settings, and read by nothing."""

    def total_steps(self, train_size: int, data_parallel_devices: int) -> int:
        """Returns the steps of the whole run: num_epochs x num_batches.

        Args:
            train_size: questions in the training set, read when num_batches is null.
            data_parallel_devices: devices that share the prompts of a step.
        """
        num_batches = self.training.num_batches
        if num_batches is None:
            num_batches = math.ceil(train_size / self.prompts_per_step(data_parallel_devices))
        return self.training.num_epochs * num_batches
