"""A step and a run as numbers, records and tables: what goes to the trackers and to the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunix_grpo import console
from tunix_grpo.checkpoints import tree_bytes
from tunix_grpo.config import Config
from tunix_grpo.data import PromptSet
from tunix_grpo.devices import Devices, peak_memory_bytes
from tunix_grpo.learner import StepResult, Trainer
from tunix_grpo.models import Model
from tunix_grpo.scoring import length_metrics, reward_metrics
from tunix_grpo.trackers import CompletionRecord

_WRITTEN = ("metrics.jsonl", "completions.jsonl", "learning_curve.png", "tensorboard", "config.yaml")


def processed_tokens(prompt_set: PromptSet, rows: np.ndarray, done: StepResult) -> int:
    """Returns the tokens of a step: each completion with its prompt."""
    group = len(done.rollout.lengths) // len(rows)
    return group * sum(len(prompt_set.ids[row]) for row in rows) + int(done.rollout.lengths.sum())


def step_metrics(done: StepResult, num_generations: int, seconds: float) -> dict[str, float]:
    """Returns what a step's result says by itself, by the names of `trackers.METRICS`."""
    rollout, rewards = done.rollout, done.rewards
    return {
        **reward_metrics(rewards.total, rewards.parts, num_generations),
        **length_metrics(rollout.lengths, rollout.truncated),
        **done.metrics,
        "step_time": seconds,
        "perf/tokens_per_second": float(rollout.lengths.sum()) / seconds,
        "perf/peak_memory_gb": peak_memory_bytes() / 1e9,
    }


def completion_records(step: int, prompt_set: PromptSet, rows: np.ndarray, done: StepResult) -> list[CompletionRecord]:
    """Returns one record per completion of a step."""
    rollout, rewards = done.rollout, done.rewards
    group = len(rollout.texts) // len(rows)
    records = []
    for index, completion in enumerate(rollout.texts):
        row = rows[index // group]
        records.append(
            CompletionRecord(
                step=step,
                prompt=prompt_set.texts[row],
                completion=completion,
                answer=prompt_set.questions[row].answer,
                rewards={name: float(values[index]) for name, values in rewards.parts.items()},
                reward=float(rewards.total[index]),
                advantage=float(done.advantages[index]),
                length=int(rollout.lengths[index]),
                truncated=bool(rollout.truncated[index]),
            )
        )
    return records


def start_rows(
    config: Config, devices: Devices, model: Model, learner: Trainer, total_steps: int, first_step: int
) -> list[tuple[str, str]]:
    """Returns the start table: what will run, on what, and what it will leave on the disk."""
    training, group = config.training, config.grpo.num_generations
    trained, total = learner.parameter_counts()
    how = "all weights" if config.model.lora_rank is None else f"LoRA rank {config.model.lora_rank}"
    prompts = config.prompts_per_step(devices.data_parallel)
    completions = config.completions_per_step(devices.data_parallel)
    size = tree_bytes((learner.params, learner.optimizer_state))
    kept = _kept_checkpoints(config, total_steps, first_step)
    steps = f"{total_steps:,}" if first_step == 1 else f"{first_step:,} to {total_steps:,} (resumed)"
    return [
        ("device", devices.kind),
        ("model", f"{config.model.name} ({model.spec.family}, {model.dtype.name})"),
        ("parameters", f"{console.format_count(trained)} trained ({how}) of {console.format_count(total)}"),
        ("task", config.task.name),
        ("prompts per step", f"{prompts}"),
        ("completions per step", f"{completions} ({group} per prompt)"),
        (
            "micro batches per step",
            f"{training.gradient_accumulation_steps} of {training.micro_batch_size * group} completions per device",
        ),
        ("updates per step", f"{config.grpo.num_iterations}"),
        ("steps", steps),
        (
            "checkpoints",
            f"{kept} kept, {console.format_bytes(size)} each, {console.format_bytes(size * kept)} in all",
        ),
        ("run folder", config.output_dir),
        ("checkpoint folder", config.checkpoint_dir),
    ]


def _kept_checkpoints(config: Config, total_steps: int, first_step: int) -> int:
    training = config.training
    saved = {step for step in range(first_step, total_steps + 1) if step % training.save_interval_steps == 0}
    saves = len(saved | {total_steps})
    return saves if training.max_to_keep is None else min(saves, training.max_to_keep)


def written_paths(output: Path, checkpoint_root: Path) -> list[tuple[str, Path]]:
    """Returns what a run has left behind, and where."""
    written = [(name, output / name) for name in _WRITTEN if (output / name).exists()]
    return [*written, ("checkpoints", checkpoint_root)]
