"""The settings of `scripts/benchmark.py`; their values are in `conf/benchmark.yaml` and the groups of training."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from tunix_grpo.config import benchmark_points, relations, rules
from tunix_grpo.config.benchmark_points import Picture, Points, Sweep
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count, Date, Device, Flag, Path, Seed, Values, Whole
from tunix_grpo.config.schema import (
    BatchConfig,
    GenerationConfig,
    GrpoConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    StepSize,
)
from tunix_grpo.config.sentences import show

# What the peers are driven with, and only with.
_PEERS_NEED = {
    "model.random_weights": False,
    "model.quantization": None,
    "model.lora_target_modules": "all",
    "model.family": None,
    "grpo.num_iterations": 1,
    "grpo.num_minibatches": 1,
    "grpo.advantage": "group_std",
    "grpo.ratio": "token",
    "grpo.aggregation": "sequence_mean",
    "grpo.epsilon_low": None,
    "grpo.epsilon_high": None,
    "grpo.delta": None,
    "grpo.mask_truncated": False,
    "grpo.replace_equal_groups": False,
    "grpo.importance": "none",
    "generation.top_p": 1.0,
    "generation.top_k": None,
    "generation.max_rows": None,
}
LONGEST_ANSWER = 200  # tokens, of those that were recorded
_CPU_SIZES = {"prompt": 64, "completion": 64, "steps": 3}
_SIZES = {"prompt": 256, "completion": 512, "steps": 5}


@dataclass(kw_only=True, slots=True, config=GROUP)
class LengthsConfig(SamplingConfig):
    """How long prompts and completions are, and how tokens are drawn."""

    max_prompt_length: Whole | None = rules.number(minimum=1, hint="null chooses by device")
    """Tokens of a prompt, 1 or more; null is 64 on a CPU, 256 elsewhere."""
    max_generation_steps: Whole | None = rules.number(minimum=1, hint="null chooses by device")
    """Tokens of a completion, 1 or more: of each with lengths=full, of the longest with lengths=real; null is 64 on a
    CPU, 512 elsewhere. With timed=evaluation the tokens at which answers are cut; null is 200."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class TemplateConfig:
    """The part of a task that a model's chat template reads."""

    date: Date | None
    """Day, YYYY-MM-DD, that a chat template which writes today's date is told; null is today."""
    template_variables: Values | None = rules.hint("give names and values, as in {enable_thinking: false}, or null")
    """Variables of the model's chat template, such as {enable_thinking: false}; null is none."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class QuestionsConfig:
    """The part of an evaluation that takes time."""

    num_questions: Count
    """Questions of a timed evaluation, 1 or more."""
    batch_size: Count
    """Questions that are answered at once, 1 or more."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class BenchmarkConfig(StepSize):
    """What is timed, on which work, and beside which other program."""

    peer: Literal["trl", "tunix"] | None
    """The program that does the same work in turns: trl or tunix; null is none."""
    timed: Literal["steps", "evaluation"]
    """What is timed: steps of training, or the answers of an evaluation, in batches and in rows that are filled again
    as answers end."""
    lengths: Literal["full", "real"]
    """How long the completions of timed steps are: all as long as they may be (full), or each as long as one of a
    recorded mix, the same for the peer (real)."""
    sweep: Sweep | None
    """Times steps that grow, each in a process of its own: completions of a step (rows), tokens of a completion, or the
    model, with random weights. micro_batch_size: the same step in larger and larger micro batches, and which of them is
    the fastest that fits. null is one step alone."""
    points: Points | None
    """The sizes of a sweep, as in [16,32,64]: completions of a step, tokens of a completion, layers of the model (or
    models: hub ids with known shapes, folders with a config.json), prompts of a micro batch. null is 1/4, 1/2, 1 and 2
    times what is set; of layers no more than there are; of micro batches all halves down to 1."""
    plot: Picture | None
    """File that a picture of a sweep is written to, .png, .svg or .pdf; null is none."""
    steps: Whole | None = rules.number(minimum=1, hint="null chooses by device")
    """Timed steps, 1 or more; null is 3 on a CPU, 5 elsewhere. With timed=evaluation its rounds; null is 1."""
    warmup: Whole = rules.number(minimum=0)
    """Steps after the first, compiling one that are not timed either, 0 or more."""
    json: Flag
    """Prints one JSON object instead of the table."""
    seed: Seed
    """Of weights, prompts and completions."""
    device: Device
    """cuda, cpu, tpu, or auto for the best one present."""
    jax_cache: Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, to time a warm start; null compiles anew."""
    model: ModelConfig
    training: BatchConfig
    optimizer: OptimizerConfig
    grpo: GrpoConfig
    generation: LengthsConfig
    task: TemplateConfig
    evaluation: QuestionsConfig
    mesh: MeshConfig

    def on(self, platform: str) -> "TimedConfig":
        """Returns what is timed on a device, with the sizes that depend on the device.

        Args:
            platform: what JAX calls the device: cpu, gpu or tpu.
        """
        sizes = _CPU_SIZES if platform == "cpu" else _SIZES
        if self.timed == "evaluation":
            sizes = sizes | {"completion": LONGEST_ANSWER, "steps": 1}
        lengths = self.generation
        return TimedConfig(
            model=self.model,
            training=self.training,
            optimizer=self.optimizer,
            grpo=self.grpo,
            generation=GenerationConfig(
                temperature=lengths.temperature,
                top_p=lengths.top_p,
                top_k=lengths.top_k,
                max_rows=lengths.max_rows,
                max_prompt_length=lengths.max_prompt_length or sizes["prompt"],
                max_generation_steps=lengths.max_generation_steps or sizes["completion"],
            ),
            task=self.task,
            seed=self.seed,
            warmup=self.warmup,
            steps=self.steps or sizes["steps"],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedConfig(StepSize):
    """The work of a benchmark on a device, as a trainer takes it: every size is a number."""

    model: ModelConfig
    training: BatchConfig
    optimizer: OptimizerConfig
    grpo: GrpoConfig
    generation: GenerationConfig
    task: TemplateConfig
    seed: int
    warmup: int
    steps: int

    def total_steps(self) -> int:
        """Returns how many steps are made: the first, the warm-up's and the timed ones."""
        return 1 + self.warmup + self.steps


def to_values(config: BenchmarkConfig) -> dict[str, object]:
    """Returns the settings as JSON can carry them to another process."""
    return dataclasses.asdict(config)


def from_values(values: Mapping[str, object]) -> BenchmarkConfig:
    """Returns the config that `to_values` took apart."""
    return TypeAdapter(BenchmarkConfig).validate_python(values)


def _peer_can(values: Mapping[str, object]) -> Iterator[str]:
    """Yields the settings that the chosen peer does not have."""
    peer = values.get("peer")
    if peer is None:
        return
    for key, needed in _PEERS_NEED.items():
        if key in values and values[key] != needed:
            reason = "it reads the weights of a directory" if key == "model.random_weights" else "it is timed without"
            yield f"{key}={show(values[key])} and peer={peer}: {reason}; give {key}={show(needed)}, or peer=null"


def _evaluation_is_alone(timed: str, peer: str | None) -> str | None:
    """Checks that no other program is to be timed beside an evaluation."""
    if timed == "evaluation" and peer is not None:
        return "an evaluation is timed without a peer; give peer=null, or timed=steps"
    return None


def _tunix_ends_by_tokens(lengths: str, peer: str | None) -> str | None:
    """Checks that the peer can end each completion at a length of its own."""
    if lengths == "real" and peer == "tunix":
        return "its sampler cannot end each row at a given length; give lengths=full, peer=trl or peer=null"
    return None


def _answers_have_lengths(timed: str, lengths: str) -> str | None:
    """Checks that no mix of completions is asked for where answers are timed."""
    if timed == "evaluation" and lengths == "real":
        return "an evaluation has recorded lengths of its own; give lengths=full, or timed=steps"
    return None


def _no_run(run: str | None) -> str | None:
    return "steps take as long whatever was trained before; leave it out" if run is not None else None


load = Loader(
    schema=BenchmarkConfig,
    checks=(
        partial(
            relations.check_relations,
            (
                Relation(relations.WEIGHTS, relations.weights_exist),
                Relation(("model.quantization", "model.lora_rank"), relations.quantized_base_is_frozen),
                Relation(("timed", "peer"), _evaluation_is_alone),
                Relation(("lengths", "peer"), _tunix_ends_by_tokens),
                Relation(("timed", "lengths"), _answers_have_lengths),
                Relation(("model.run",), _no_run),
                *benchmark_points.RELATIONS,
            ),
        ),
        _peer_can,
    ),
    strict=False,  # the groups that training reads too say more of a run than its steps
)
