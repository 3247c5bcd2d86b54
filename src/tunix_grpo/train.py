"""One training run, from a checked config to a trained model: read it from top to bottom.

`train` builds the parts, in the order in which the data flows through them. `_take_steps` is the loop. A step is

  1. the prompts of the step, a function of seed and step: `PromptSet.batch` of `step_indices`;
  2. G completions of each: `Sampler.sample`;
  3. what they are worth, and how much better than their group: `score_completions`, `group_advantages`;
  4. loss, gradient and update(s), beside the reference: `Trainer.step`, which calls 2 to 4;
  5. the record of the step: `step_metrics`, `completion_records`, to all trackers;
  6. when it is due, an evaluation on held-out questions, `Evaluator.run`, and a checkpoint, `Checkpoints.save`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tunix_grpo import console
from tunix_grpo.config import Config
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.evaluation import Evaluation, Evaluator, batch_size_for
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.rollout import greedy_sampling
from tunix_grpo.grpo.trainer import StepResult, Trainer
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.model import load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.record.curve import write_learning_curve
from tunix_grpo.record.metrics import completion_records, processed_tokens, step_metrics
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.summary import start_rows, written_paths
from tunix_grpo.record.trackers import TrackerGroup, build_trackers
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.devices import CompilationCounter, open_devices
from tunix_grpo.run.start import RunState, find_start, identity, settings
from tunix_grpo.run.stopping import StopRequest
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.prompt_set import Batch, PromptSet, prompt_set, prompt_width, step_indices
from tunix_grpo.text.tokenizer import model_tokenizer

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to.

    Attributes:
        steps: the last full step.
        accuracy_before: greedy held-out accuracy before the first step, in [0, 1].
        accuracy_after: the same after the last step; None if the run was stopped or had been finished before.
        exit_code: 0, or 128 + the number of the signal that stopped the run.
    """

    steps: int
    accuracy_before: float | None
    accuracy_after: float | None
    exit_code: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the loop works with."""

    config: Config
    prompts_per_step: int
    compilations: CompilationCounter
    training_set: PromptSet
    trainer: Trainer
    schedule: Callable[[int], Any]
    evaluator: Evaluator
    record: TrackerGroup
    checkpoints: Checkpoints
    run: dict[str, Any]
    """What a checkpoint says of the run that it belongs to."""
    total_steps: int


class _Taken(NamedTuple):
    """A step that has been taken, and the seconds that it took."""

    batch: Batch
    result: StepResult
    seconds: float


def train(config: Config) -> Summary:
    """Trains a model and leaves the record in config.output_dir, the checkpoints in config.checkpoint_dir.

    Raises:
        UserError: something that the user can mend; nothing has been left half-written.
    """
    started = time.monotonic()

    # --- the words: questions, prompts, rewards ---
    devices = open_devices(config.device, config.mesh, config.jax_cache)
    compilations = CompilationCounter()
    rewards = build_rewards(config.reward)
    directory = resolve_directory(config.model)
    spec = read_spec(directory, config.model.family)
    tokenizer = model_tokenizer(config.model.tokenizer, directory, spec.vocab_size)
    task = build_task(config.task, config.seed)
    training_set = prompt_set("training", task.train, tokenizer, config)
    heldout_set = prompt_set("held-out", task.heldout, tokenizer, config, limit=config.evaluation.num_questions)

    with contextlib.closing(Checkpoints(config.checkpoint_dir, config.training.max_to_keep)) as checkpoints:
        # --- where to start ---
        total_steps = config.total_steps(len(training_set), devices.data_parallel)
        prompts_per_step = config.prompts_per_step(devices.data_parallel)
        this_run = identity(config, directory, training_set, prompts_per_step)
        state = find_start(checkpoints, config.training.resume, this_run, settings(config), total_steps)
        first_step = state.step + 1
        if state.step >= total_steps:
            _log.info("nothing to do: %s already holds step %d of %d", checkpoints.root, state.step, total_steps)
            return Summary(steps=state.step, accuracy_before=state.accuracy_before, accuracy_after=None)

        # --- the model, its trainer, its judge ---
        model = load_model(config.model, directory, devices.mesh, config.seed)
        schedule = build_schedule(config.optimizer, config.scheduler, total_steps * config.grpo.num_iterations)
        optimizer = build_optimizer(config.optimizer, schedule)
        width = prompt_width(config.generation.max_prompt_length, training_set, heldout_set)
        trainer = Trainer(config, devices.mesh, model, tokenizer, task, rewards, optimizer, prompt_width=width)
        if state.step > 0:
            trainer.restore(*checkpoints.restore(state.step, trainer.params, trainer.optimizer_state))
        batch_size = batch_size_for(config.evaluation.batch_size, len(heldout_set), devices.data_parallel)
        evaluator = Evaluator(prompts=heldout_set, task=task, sampling=greedy_sampling(config), batch_size=batch_size)

        # --- the record ---
        output = Path(config.output_dir)
        record = build_trackers(config, resume_step=state.step, wandb_run_id=state.wandb_run_id)
        state.wandb_run_id = record.wandb_run_id
        write_config(config, output)
        console.start_table(start_rows(config, devices, model, trainer, total_steps, first_step), "tunix-grpo")

        # --- the loop ---
        parts = _Parts(
            config=config,
            prompts_per_step=prompts_per_step,
            compilations=compilations,
            training_set=training_set,
            trainer=trainer,
            schedule=schedule,
            evaluator=evaluator,
            record=record,
            checkpoints=checkpoints,
            run={"identity": this_run, "settings": settings(config)},
            total_steps=total_steps,
        )
        with console.Progress(total_steps, first_step) as progress, StopRequest() as stop, record:
            accuracy = _take_steps(parts, state, progress, stop)

        # --- the end ---
        finished = state.step == total_steps
        console.closing_summary(
            title="Training finished" if finished else f"Training stopped after step {state.step}",
            accuracy_before=state.accuracy_before,
            accuracy_after=accuracy if finished else None,
            num_steps=state.step - first_step + 1,
            seconds=time.monotonic() - started,
            paths=written_paths(output, checkpoints.root),
        )
        return Summary(
            steps=state.step,
            accuracy_before=state.accuracy_before,
            accuracy_after=accuracy if finished else None,
            exit_code=0 if finished else stop.exit_code,
        )


def _take_steps(parts: _Parts, state: RunState, progress: console.Progress, stop: StopRequest) -> float | None:
    """Takes the steps that are left, or those until a stop is asked for; returns the last accuracy that was measured.

    Raises:
        UserError: a step failed; the state of the last full step has been saved.
    """
    training = parts.config.training
    first_step = state.step + 1
    step = state.step
    accuracy = None
    saving = 0.0  # seconds that checkpoints took since the last logged step
    try:
        if state.step == 0:
            accuracy = state.accuracy_before = _evaluate(parts, 0, progress).accuracy
        for step in range(first_step, parts.total_steps + 1):
            is_last = step == parts.total_steps
            taken = _take_step(parts, state, step)
            metrics = {}
            if is_last or due(step, training.log_interval_steps):
                metrics = _metrics(parts, state, taken) | {"timing/save": saving}
                saving = 0.0
                parts.record.log_metrics(step, metrics)
                parts.record.log_completions(step, completion_records(step, taken.batch, taken.result))
            progress.update(step, metrics)
            if is_last or due(step, training.eval_interval_steps):
                accuracy = _evaluate(parts, step, progress).accuracy
            if is_last or stop or due(step, training.save_interval_steps):
                saving += _save(parts, state)
            if stop:
                break
    except UserError as error:  # a reward that fails, a gradient that is not finite
        if state.step >= first_step:
            _save(parts, state)
        raise UserError(f"step {step}: {error}") from error
    return accuracy


def due(step: int, every: int) -> bool:
    """Says whether something that is done every so many steps is done after this one."""
    return step % every == 0


def _take_step(parts: _Parts, state: RunState, step: int) -> _Taken:
    """Trains on the batch of a step."""
    begun = time.perf_counter()
    rows = step_indices(step, len(parts.training_set), parts.prompts_per_step, parts.config.seed)
    batch = parts.training_set.batch(rows, parts.config.grpo.num_generations)
    result = parts.trainer.step(step, batch)
    state.step = step
    state.num_tokens += processed_tokens(batch, result)
    return _Taken(batch, result, time.perf_counter() - begun)


def _metrics(parts: _Parts, state: RunState, taken: _Taken) -> dict[str, float]:
    """Returns what is logged of a step, the time for checkpoints aside."""
    return step_metrics(taken.batch, taken.result, taken.seconds) | {
        "learning_rate": float(parts.schedule(state.step * parts.config.grpo.num_iterations - 1)),
        "num_tokens": state.num_tokens,
        "perf/compilations": parts.compilations.count,
    }


def _evaluate(parts: _Parts, step: int, progress: console.Progress) -> Evaluation:
    """Measures the model of a step on the held-out questions, and shows and records what came out."""
    evaluation = parts.evaluator.run(parts.trainer, step)
    parts.record.log_metrics(step, evaluation.metrics())
    progress.update(step, evaluation.metrics())
    output = Path(parts.config.output_dir)
    write_learning_curve(output / "metrics.jsonl", output / "learning_curve.png")
    return evaluation


def _save(parts: _Parts, state: RunState) -> float:
    """Saves the state of the last full step; returns the seconds that it took."""
    begun = time.perf_counter()
    run = parts.run | {"state": dataclasses.asdict(state)}
    parts.checkpoints.save(state.step, parts.trainer.params, parts.trainer.optimizer_state, run)
    return time.perf_counter() - begun
