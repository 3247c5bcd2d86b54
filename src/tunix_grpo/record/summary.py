"""What the terminal shows before and after a run: the start table, and what was written where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import Config, RunConfig, SftConfig, further_tasks
from tunix_grpo.config.algorithm import in_words
from tunix_grpo.grpo.evaluations import Evaluations
from tunix_grpo.grpo.learner import Learner
from tunix_grpo.model.model import Model
from tunix_grpo.model.undivided import undivided
from tunix_grpo.record.earlier import RECORD
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.devices import Devices
from tunix_grpo.run.room import Room
from tunix_grpo.run.start import RunState
from tunix_grpo.run.stopping import StopRequest


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
    config: Config, devices: Devices, model: Model, trainer: Learner, room: Room, total_steps: int, first_step: int
) -> list[tuple[str, str]]:
    """Returns the start table: what will run, on what, and what it will leave on the disk."""
    training, group = config.training, config.grpo.num_generations
    micro = training.gradient_accumulation_steps * config.grpo.num_minibatches
    prompts = config.prompts_per_step(devices.data_parallel)
    completions = config.completions_per_step(devices.data_parallel)
    return [
        *_model_rows(config, devices, model, trainer),
        ("task", config.task.name),
        *_evaluation_rows(config),
        ("algorithm", in_words(config.grpo, config.reward.normalisation)),
        ("prompts per step", f"{prompts}"),
        ("completions per step", f"{completions} ({group} per prompt)"),
        (
            "micro batches per step",
            f"{micro} of {training.micro_batch_size * group} completions per device",
        ),
        ("updates per step", f"{config.grpo.updates_per_step}"),
        *_disk_rows(config, room, total_steps, first_step),
    ]


def sft_start_rows(
    config: SftConfig,
    devices: Devices,
    model: Model,
    trainer: Learner,
    room: Room,
    demonstrations: int,
    total_steps: int,
    first_step: int,
) -> list[tuple[str, str]]:
    """Returns the start table of a run on demonstrations."""
    training = config.training
    return [
        *_model_rows(config, devices, model, trainer),
        ("demonstrations", f"{demonstrations:,} of {config.file or f'the task {config.task.name}'}"),
        ("held-out questions", f"of the task {config.task.name}"),
        *_evaluation_rows(config),
        ("demonstrations per step", f"{config.demonstrations_per_step(devices.data_parallel)}"),
        ("micro batches per step", f"{training.gradient_accumulation_steps} of {training.micro_batch_size} per device"),
        *_disk_rows(config, room, total_steps, first_step),
    ]


def _model_rows(config: RunConfig, devices: Devices, model: Model, trainer: Learner) -> list[tuple[str, str]]:
    trained, total = trainer.parameter_counts()
    how = "all weights" if config.model.lora_rank is None else f"LoRA rank {config.model.lora_rank}"
    start = [] if config.model.run is None else [("starts from", f"{config.model.run}, step {config.model.step}")]
    return [
        ("device", devices.kind),
        *_whole_everywhere(devices, model),
        ("model", f"{config.model.name} ({model.spec.family}, {model.dtype.name})"),
        *start,
        ("parameters", f"{console.format_count(trained)} trained ({how}) of {console.format_count(total)}"),
    ]


def _evaluation_rows(config: RunConfig) -> list[tuple[str, str]]:
    further = further_tasks(config.evaluation.tasks)
    return [("evaluated on", f"{', '.join([config.task.name, *further])}")] if further else []


def _disk_rows(config: RunConfig, room: Room, total_steps: int, first_step: int) -> list[tuple[str, str]]:
    steps = f"{total_steps:,}" if first_step == 1 else f"{first_step:,} to {total_steps:,} (resumed)"
    if first_step > total_steps:
        steps = f"{total_steps:,}, all done but an evaluation (resumed)"
    return [
        ("steps", steps),
        ("checkpoints", room.in_words()),
        ("run folder", config.output_dir),
        ("checkpoint folder", config.checkpoint_dir),
        *([] if config.training.mirror is None else [("copies in", config.training.mirror)]),
    ]


def _whole_everywhere(devices: Devices, model: Model) -> list[tuple[str, str]]:
    """Returns a row for the weights that the devices cannot share, where there are any."""
    whole = [f"{role} {console.format_bytes(size)}" for role, size in sorted(undivided(model).items())]
    if not whole:
        return []
    axes = " or ".join(f"mesh.{axis}={size}" for axis, size in devices.mesh.shape.items() if size > 1)
    return [("on every device", f"{', '.join(whole)}: not divided by {axes}")]


def show_summary(
    state: RunState,
    total_steps: int,
    evaluations: Evaluations,
    stop: StopRequest,
    output: Path,
    checkpoints: Checkpoints,
    *,
    num_steps: int,
    seconds: float,
) -> Summary:
    """Shows what a run came to and what it has left behind; returns what it came to.

    Args:
        output: the run's folder.
        num_steps: steps that the run has taken since this start.
        seconds: that have passed since this start.
    """
    early = evaluations.end() if state.step < total_steps else None
    finished = early is not None or (state.step == total_steps and not state.unevaluated)
    summary = Summary(
        steps=state.step,
        accuracy_before=state.accuracy_before,
        accuracy_after=evaluations.accuracy() if finished else None,
        exit_code=0 if finished else stop.exit_code,
        early=early,
    )
    title, rows = "Training finished", evaluations.closing_rows(checkpoints.steps())
    if summary.exit_code:
        title = f"Training stopped after step {summary.steps}"
    elif summary.early is not None:
        title = f"Training finished early, after step {summary.steps}"
        rows = [*rows, ("ended early", f"{summary.early} (evaluation.patience)")]
    written = [(name, output / name) for name in RECORD if (output / name).exists()]
    console.closing_summary(
        title=title,
        accuracy_before=summary.accuracy_before,
        accuracy_after=summary.accuracy_after,
        num_steps=num_steps,
        seconds=seconds,
        evaluations=rows,
        paths=[*written, ("checkpoints", checkpoints.root)],
    )
    return summary
