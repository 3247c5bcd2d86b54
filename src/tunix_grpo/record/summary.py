"""What the terminal shows before and after a run: the start table, and what was written where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import Config, further_tasks
from tunix_grpo.config.algorithm import in_words
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.model.model import Model
from tunix_grpo.model.undivided import undivided
from tunix_grpo.record.earlier import RECORD
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.devices import Devices
from tunix_grpo.run.room import Room


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to.

    Attributes:
        steps: the last full step.
        accuracy_before: greedy held-out accuracy before the first step, in [0, 1].
        accuracy_after: the same accuracy after the last step; None if the run was stopped or had been finished before.
        exit_code: 0, or what says that and how the run was stopped, see `run.stopping`.
        early: in words, why the run ended before its last step by itself; None where it did not.
    """

    steps: int
    accuracy_before: float | None
    accuracy_after: float | None
    exit_code: int = 0
    early: str | None = None


def start_rows(
    config: Config, devices: Devices, model: Model, trainer: Trainer, room: Room, total_steps: int, first_step: int
) -> list[tuple[str, str]]:
    """Returns the start table: what will run, on what, and what it will leave on the disk."""
    training, group = config.training, config.grpo.num_generations
    trained, total = trainer.parameter_counts()
    how = "all weights" if config.model.lora_rank is None else f"LoRA rank {config.model.lora_rank}"
    micro = training.gradient_accumulation_steps * config.grpo.num_minibatches
    prompts = config.prompts_per_step(devices.data_parallel)
    completions = config.completions_per_step(devices.data_parallel)
    further = further_tasks(config.evaluation.tasks)
    steps = f"{total_steps:,}" if first_step == 1 else f"{first_step:,} to {total_steps:,} (resumed)"
    if first_step > total_steps:
        steps = f"{total_steps:,}, all done but an evaluation (resumed)"
    return [
        ("device", devices.kind),
        *_whole_everywhere(devices, model),
        ("model", f"{config.model.name} ({model.spec.family}, {model.dtype.name})"),
        ("parameters", f"{console.format_count(trained)} trained ({how}) of {console.format_count(total)}"),
        ("task", config.task.name),
        *([("evaluated on", f"{', '.join([config.task.name, *further])}")] if further else []),
        ("algorithm", in_words(config.grpo, config.reward.normalisation)),
        ("prompts per step", f"{prompts}"),
        ("completions per step", f"{completions} ({group} per prompt)"),
        (
            "micro batches per step",
            f"{micro} of {training.micro_batch_size * group} completions per device",
        ),
        ("updates per step", f"{config.grpo.updates_per_step}"),
        ("steps", steps),
        ("checkpoints", room.in_words()),
        ("run folder", config.output_dir),
        ("checkpoint folder", config.checkpoint_dir),
    ]


def _whole_everywhere(devices: Devices, model: Model) -> list[tuple[str, str]]:
    """Returns a row for the weights that the devices cannot share, where there are any."""
    whole = [f"{role} {console.format_bytes(size)}" for role, size in sorted(undivided(model).items())]
    if not whole:
        return []
    axes = " or ".join(f"mesh.{axis}={size}" for axis, size in devices.mesh.shape.items() if size > 1)
    return [("on every device", f"{', '.join(whole)}: not divided by {axes}")]


def show_summary(
    summary: Summary,
    num_steps: int,
    seconds: float,
    evaluations: list[tuple[str, str]],
    output: Path,
    checkpoints: Checkpoints,
) -> None:
    """Shows what a run came to and what it has left behind.

    Args:
        num_steps: steps that the run has taken since this start.
        seconds: that have passed since this start.
        evaluations: what else they have shown, by what it is called.
    """
    title = "Training finished"
    if summary.exit_code:
        title = f"Training stopped after step {summary.steps}"
    elif summary.early is not None:
        title = f"Training finished early, after step {summary.steps}"
        evaluations = [*evaluations, ("ended early", f"{summary.early} (evaluation.patience)")]
    written = [(name, output / name) for name in RECORD if (output / name).exists()]
    console.closing_summary(
        title=title,
        accuracy_before=summary.accuracy_before,
        accuracy_after=summary.accuracy_after,
        num_steps=num_steps,
        seconds=seconds,
        evaluations=evaluations,
        paths=[*written, ("checkpoints", checkpoints.root)],
    )
