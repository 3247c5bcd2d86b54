"""One training run, from a checked config to a trained adapter: read it from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import Config
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.evaluation import Evaluation, evaluate
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
from tunix_grpo.record.trackers import build_trackers
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.devices import CompilationCounter, open_devices
from tunix_grpo.run.start import find_start, identity, settings
from tunix_grpo.run.stopping import StopRequest
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.prompt_set import PromptSet, build_prompts, step_indices
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer, model_tokenizer

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


def train(config: Config) -> Summary:
    """Trains a model and leaves the record in config.output_dir, the checkpoints in config.checkpoint_dir.

    Raises:
        UserError: something that the user can mend; nothing has been left half-written.
    """
    with contextlib.ExitStack() as closing:
        return _train(config, closing)


def _train(config: Config, closing: contextlib.ExitStack) -> Summary:
    started = time.monotonic()

    # --- the words: questions, prompts, rewards ---
    devices = open_devices(config.device, config.mesh, config.jax_cache)
    compilations = CompilationCounter()
    rewards = build_rewards(config.reward)
    directory = resolve_directory(config.model)
    spec = read_spec(directory, config.model.family)
    tokenizer = model_tokenizer(config.model.tokenizer, directory, spec.vocab_size)
    task = build_task(config.task, config.seed)
    training_set, heldout_set = _prompt_sets(config, task, tokenizer)

    # --- where to start ---
    prompts_per_step = config.prompts_per_step(devices.data_parallel)
    total_steps = config.total_steps(len(training_set), devices.data_parallel)
    checkpoints = closing.enter_context(
        contextlib.closing(Checkpoints(config.checkpoint_dir, config.training.max_to_keep))
    )
    this_run = identity(config, directory, training_set, prompts_per_step)
    state = find_start(checkpoints, config.training.resume, this_run, settings(config), total_steps)
    if state.step >= total_steps:
        _log.info("nothing to do: %s already holds step %d of %d", checkpoints.root, state.step, total_steps)
        return Summary(steps=state.step, accuracy_before=state.accuracy_before, accuracy_after=None)

    # --- the model and its learner ---
    model = load_model(config.model, directory, devices.mesh, config.seed)
    schedule = build_schedule(config.optimizer, config.scheduler, total_steps * config.grpo.num_iterations)
    learner = Trainer(
        config,
        devices.mesh,
        model,
        tokenizer,
        task,
        rewards,
        build_optimizer(config.optimizer, schedule),
        prompt_width=_prompt_width(config, training_set, heldout_set),
    )
    if state.step > 0:
        learner.restore(*checkpoints.restore(state.step, learner.params, learner.optimizer_state))

    # --- the record ---
    output = Path(config.output_dir)
    record = build_trackers(config, resume_step=state.step, wandb_run_id=state.wandb_run_id)
    state.wandb_run_id = record.wandb_run_id
    write_config(config, output)
    first_step = state.step + 1
    console.start_table(start_rows(config, devices, model, learner, total_steps, first_step), "tunix-grpo")

    def run_evaluation(step: int) -> Evaluation:
        begun = time.perf_counter()
        batch = math.ceil(min(config.evaluation.batch_size, len(heldout_set)) / devices.data_parallel)
        result = evaluate(
            heldout_set,
            task,
            lambda ids: learner.generate(ids, greedy_sampling(config), step),
            lambda *columns: learner.score(*columns).total,
            batch * devices.data_parallel,
        )
        metrics = result.metrics() | {"timing/eval": time.perf_counter() - begun}
        record.log_metrics(step, metrics)
        progress.update(step, metrics)
        write_learning_curve(output / "metrics.jsonl", output / "learning_curve.png")
        return result

    def save() -> float:
        begun = time.perf_counter()
        run = {"identity": this_run, "settings": settings(config), "state": dataclasses.asdict(state)}
        checkpoints.save(state.step, learner.params, learner.optimizer_state, run)
        return time.perf_counter() - begun

    # --- the loop ---
    saving = 0.0  # seconds since the last logged step
    result = None
    failed = True
    step = state.step
    with console.Progress(total_steps, first_step) as progress, StopRequest() as stop:
        try:
            if state.step == 0:
                state.accuracy_before = run_evaluation(0).accuracy
            for step in range(first_step, total_steps + 1):
                begun = time.perf_counter()
                rows = step_indices(step, len(training_set), prompts_per_step, config.seed)
                done = learner.step(step, training_set, rows)
                _require_finite(done)
                state.step = step
                state.num_tokens += processed_tokens(training_set, rows, done)
                is_last = step == total_steps

                metrics = {}
                if step % config.training.log_interval_steps == 0 or is_last:
                    metrics = step_metrics(done, config.grpo.num_generations, time.perf_counter() - begun)
                    metrics["learning_rate"] = float(schedule(step * config.grpo.num_iterations - 1))
                    metrics["num_tokens"] = state.num_tokens
                    metrics["perf/compilations"] = compilations.count
                    metrics["timing/save"] = saving
                    saving = 0.0
                    record.log_metrics(step, metrics)
                    record.log_completions(step, completion_records(step, training_set, rows, done))
                progress.update(step, metrics)

                if step % config.training.eval_interval_steps == 0 or is_last:
                    result = run_evaluation(step)
                if step % config.training.save_interval_steps == 0 or is_last or stop:
                    saving += save()
                if stop:
                    break
            failed = False
        except UserError as error:  # a reward that fails, a gradient that is not finite
            if state.step >= first_step:
                save()
            raise UserError(f"step {step}: {error}") from error
        finally:
            record.close(failed=failed)

    # --- the end ---
    finished = state.step == total_steps
    console.closing_summary(
        title="Training finished" if finished else f"Training stopped after step {state.step}",
        accuracy_before=state.accuracy_before,
        accuracy_after=result.accuracy if result is not None and finished else None,
        num_steps=state.step - first_step + 1,
        seconds=time.monotonic() - started,
        paths=written_paths(output, checkpoints.root),
    )
    return Summary(
        steps=state.step,
        accuracy_before=state.accuracy_before,
        accuracy_after=result.accuracy if result is not None and finished else None,
        exit_code=0 if finished else stop.exit_code,
    )


def _prompt_sets(config: Config, task, tokenizer: Tokenizer) -> tuple[PromptSet, PromptSet]:
    """Returns the training prompts and the held-out ones that evaluations ask; over-long ones are reported."""
    system_prompt = system_prompt_text(config.task.system_prompt)
    limit = config.generation.max_prompt_length
    sets = []
    for name, questions, count in (
        ("training", task.train, None),
        ("held-out", task.heldout, config.evaluation.num_questions),
    ):
        made = build_prompts(questions, tokenizer, lambda q: chat_messages(q.question, system_prompt), limit, count)
        if made.dropped:
            _log.warning(
                "%d of %d %s prompts are longer than generation.max_prompt_length=%d tokens and are left out",
                made.dropped,
                made.dropped + len(made),
                name,
                limit,
            )
        if not len(made):
            raise UserError(f"no {name} prompt fits into generation.max_prompt_length={limit} tokens; raise it")
        sets.append(made)
    return sets[0], sets[1]


def _prompt_width(config: Config, *sets: PromptSet) -> int:
    """Returns the width that all prompts are padded to, so that each program is compiled once."""
    longest = max(prompt_set.longest() for prompt_set in sets)
    return min(config.generation.max_prompt_length, 16 * math.ceil(longest / 16))


def _require_finite(done: StepResult) -> None:
    bad = [name for name, value in done.metrics.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} is not a finite number; the update was left out and the run stops; "
            "lower optimizer.learning_rate, or raise optimizer.eps"
        )
