"""The settings of the group `training`: how long, in which batches and where a run trains."""

from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.rules import GROUP, Address, Count, Device, Flag, Look, Name, Number, Seed, Whole


def of_checkpoints(value: str) -> str:
    """Returns a path as it is.

    Raises:
        ValueError: it names a place in the network; it says how copies come to be there.
    """
    try:
        return rules.of_this_machine(value)
    except ValueError:
        raise ValueError(
            f"is no folder or file of this machine; give one, and training.mirror={value} for copies there"
        ) from None


CheckpointFolder = Annotated[
    Name, AfterValidator(of_checkpoints), AfterValidator(rules.absolute), AfterValidator(rules.of_a_file)
]


@dataclass(kw_only=True, slots=True, config=GROUP)
class BatchConfig:
    """How many prompts a step has, and how they pass through the model."""

    micro_batch_size: Whole = rules.number(minimum=1, usual=(1, 16))
    """Prompts per device that pass through the model at once, 1 to 16 by GPU memory."""
    gradient_accumulation_steps: Count
    """Micro batches per update, 1 or more."""
    remat: Literal["auto", "none", "block", "full"]
    """What an update computes again instead of keeping it: none of it, all of a layer but its wide matrix products
    (block), or all but the layers' inputs (full): the least memory. auto is block where that keeps at most 1 GiB, else
    full."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class LengthConfig(BatchConfig):
    """How long, in which batches and where a run trains, on whatever. All intervals count steps."""

    num_batches: Whole | None = rules.number(
        minimum=1, hint="null means one pass over the task's training set", usual=(10, 100_000)
    )
    """Steps per epoch, 10 to 100000; null is one pass over the task's training set."""
    num_epochs: Whole = rules.number(minimum=1, usual=(1, 10))
    """How often `num_batches` steps are made, 1 to 10."""
    checkpoint_dir: CheckpointFolder = rules.hint("give a folder such as ./checkpoints/ckpts/")
    """Folder of the checkpoints."""
    mirror: Address | None = rules.hint("null keeps no copies")
    """gs://BUCKET/FOLDER, s3://BUCKET/FOLDER, another address that fsspec knows, or a folder: every checkpoint is
    copied there, and fetched from there where it is newer than what is in `checkpoint_dir`; null is none."""
    save_interval_steps: Whole = rules.number(minimum=1, usual=(1, 1000))
    """Steps between checkpoints, 1 to 1000."""
    eval_interval_steps: Whole = rules.number(
        minimum=1,
        hint="a number above the total steps leaves the evaluations at the start and the end",
        usual=(100, 5000),
    )
    """Steps between evaluations on held-out questions, 100 to 5000."""
    log_interval_steps: Whole = rules.number(minimum=1, usual=(1, 100))
    """Steps between logged metrics, 1 to 100."""
    max_to_keep: Whole | None = rules.number(minimum=1, hint="null keeps all checkpoints")
    """Newest checkpoints that are kept, 1 or more; null keeps all."""
    max_failed_saves: Whole | None = rules.number(minimum=1, hint="null never stops")
    """Checkpoints in a row that cannot be written, after which the run stops, 1 or more; null: no number stops it."""
    max_hours: Number | None = rules.number(above=0, hint="null is no limit")
    """Hours after which the run saves its last full step and ends with exit code 75, above 0; null is no limit."""
    resume: Literal["auto", "changed", "never", "must"]
    """auto continues from the newest checkpoint if there is one and it was made with the same settings, changed also
    with others, never refuses a used folder, must refuses an empty one."""
    max_bad_steps: Count
    """Steps in a row whose loss or gradient is not finite, after which the run stops, 1 or more. Such an update is left
    out, and what the step trained on is set aside in left_out/ of the run folder."""
    spikes: Literal["off", "report", "skip"]
    """What is done about a loss or a gradient norm far above those of the last 128 updates: nothing, a warning, or the
    update is left out too."""
    spike_threshold: Number = rules.number(above=0, hint="usual are 4 to 10")
    """Robust standard deviations above the median from which it is a spike, above 0."""
    deterministic: Flag
    """A GPU gives the same bits each time, as a CPU always does: XLA takes kernels that add up in one order and times
    none against another, which costs speed. Checkpoints of such a run are not gone on with otherwise."""
    seed: Seed
    """Seed of everything random, 0 to 2**32 - 1."""
    device: Device
    """cuda, cpu, tpu, or auto for the best one present."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class TrainingConfig(LengthConfig):
    """How long, in which batches and where a run trains. All intervals count steps."""

    dry_run: Flag
    """Checks everything, reads data and prompts, compiles the programs for the devices that are there and shows what
    they need; trains nothing."""
    first_look: Look
    """What the completions of step 1 show before any update, and what later steps show: warn says it and goes on, stop
    ends the run where step 1 shows that nothing can be learned, off says nothing."""
