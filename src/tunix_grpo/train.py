"""One training run, from a checked config to a trained model: read it from top to bottom.

A step is

  1. the prompts of the step, a function of seed, step and ledger: `PromptOrder.batch`;
  2. G completions of each: `Sampler.sample`;
  3. what they are worth, and how much better than the others of their group: `score_completions`, `group_advantages`;
     `Trainer.collect` calls 2 and 3, and `Health.first_look` shows in step 1 whether something can be learned;
  4. loss, gradient and update(s), beside the reference: `grpo_loss`, `apply_gradient`, called by `Trainer.update`;
  5. the record of the step: `step_metrics` and `completion_records`, to all trackers, `shown_groups` to the screen;
  6. when they are due, an evaluation on held-out questions, `Evaluations.run`, and a checkpoint, which is
     written beside the next steps, `Saver.start`.
"""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path

from tunix_grpo import console, workers
from tunix_grpo.config import Config
from tunix_grpo.errors import NoStepError, UserError
from tunix_grpo.grpo.evaluations import build_evaluations, held_out_questions
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.rollout import StoppedError
from tunix_grpo.grpo.spikes import Spikes
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.preflight.dry_run import show_dry_run
from tunix_grpo.programs.score import score_golds
from tunix_grpo.record.health import Health
from tunix_grpo.record.ledger import write_ledger
from tunix_grpo.record.left_out import BadSteps, completion_lines
from tunix_grpo.record.metrics import completion_records, step_metrics
from tunix_grpo.record.opening import open_record
from tunix_grpo.record.shown import shown_groups
from tunix_grpo.record.summary import Summary, show_summary, start_rows
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.run.agreement import settled
from tunix_grpo.run.determinism import ask_for_determinism
from tunix_grpo.run.devices import CompilationCounter, open_devices
from tunix_grpo.run.intervals import due
from tunix_grpo.run.joining import joined
from tunix_grpo.run.mirror import mirrored
from tunix_grpo.run.rescue import save_where_possible
from tunix_grpo.run.room import room_for, tree_bytes
from tunix_grpo.run.runs import this_run
from tunix_grpo.run.saved_runs import begin, start_model
from tunix_grpo.run.saving import Saver
from tunix_grpo.run.shared_checkpoints import open_checkpoints
from tunix_grpo.run.start import (
    as_begun,
    find_start,
    last_saved,
    nothing_to_do,
    saved_ledger,
)
from tunix_grpo.run.stopping import stop_of_a_run
from tunix_grpo.tasks.builders import build_task, validate_task
from tunix_grpo.text.order import prompt_order
from tunix_grpo.text.prompt_set import prompt_set, prompt_width
from tunix_grpo.text.tokenizer import model_tokenizer

_log = logging.getLogger(__name__)


@workers.closed_at_end()
def train(config: Config) -> Summary:
    """Trains a model and leaves the record in config.output_dir, the checkpoints in config.checkpoint_dir.

    Where this process is one of several, the folders are those of the first.

    Raises:
        UserError: something that the user can mend; nothing has been left half-written.
    """
    with joined(config.distributed) as hosts:
        return train_on(hosts, settled(config, hosts))


def train_on(hosts: Hosts, config: Config) -> Summary:
    """Trains a model, see `train`; every process of a cluster runs all of this, and the first one keeps the record."""
    started = time.monotonic()
    if config.task.validate:
        score_golds(config.reward, validate_task(config.task, config.seed), config.generation.max_generation_steps)
        return Summary(steps=0, accuracy_before=None, accuracy_after=None)
    ask_for_determinism(config.training.deterministic)
    devices = open_devices(config.device, config.mesh, config.jax_cache, hosts)
    compilations = CompilationCounter()
    address = None if config.training.dry_run else config.training.mirror
    with (
        open_checkpoints(config.checkpoint_dir, config.training.max_to_keep, hosts) as checkpoints,
        mirrored(address, checkpoints, hosts) as mirror,
    ):
        saved = last_saved(checkpoints, mirror)
        config = as_begun(config, saved, hosts)

        # --- the words: questions, prompts, rewards ---
        rewards = build_rewards(config.reward)
        directory = hosts.first_then_others(functools.partial(resolve_directory, config.model))
        spec = read_spec(directory, config.model.family)
        words = config.task.template_variables, config.task.date
        tokenizer = model_tokenizer(config.model.tokenizer, directory, spec.vocab_size, *words)
        task = build_task(config.task, config.seed)
        require_columns(rewards, task)
        training_set = prompt_set("training", task.train, tokenizer, config)
        held_out = held_out_questions(config, task, tokenizer)

        # --- where to start ---
        prompts_per_step = config.prompts_per_step(devices.data_parallel)
        total_steps = config.total_steps(len(training_set), devices.data_parallel)
        origin, start = begin(config)
        run = this_run(config, directory, training_set, prompts_per_step, start)
        hosts.require_same(run.identity | {"device": devices.kind}, "give all hosts the same files and devices")
        with hosts.together():
            state = find_start(checkpoints, saved, run, config, total_steps)
        mirror.keep()
        if done := nothing_to_do(checkpoints, state, config, total_steps):
            _log.info("nothing to do: %s", done)
            return Summary(steps=state.step, accuracy_before=state.accuracy_before, accuracy_after=None)
        if config.training.dry_run:
            show_dry_run(config, checkpoints, training_set, held_out.own.prompts, total_steps, state.step + 1)
            return Summary(steps=state.step, accuracy_before=state.accuracy_before, accuracy_after=None)

        # --- which questions are asked ---
        ledger = saved_ledger(checkpoints, state, run, training_set)
        order = prompt_order(config, training_set, held_out.own.prompts, prompts_per_step, ledger)

        # --- the model, its trainer, its judge ---
        model = start_model(config.model, directory, devices.mesh, config.seed, origin)
        schedule = build_schedule(config.optimizer, config.scheduler, total_steps * config.grpo.updates_per_step)
        optimizer = build_optimizer(config.optimizer, schedule)
        width = prompt_width(config.generation.max_prompt_length, training_set, held_out.own.prompts)
        each, follows = config.reward.normalisation == "per_reward", order.needs_the_ledger()
        spikes = Spikes(config.training.spikes, config.training.spike_threshold, state.update_window)
        parts = (model, tokenizer, task, rewards, optimizer)
        trainer = Trainer(config, devices.mesh, *parts, width, each, follows, spikes, hosts)
        trainer.memory.recall(state.memory)
        if state.step > 0:
            trainer.restore(*checkpoints.restore(state.step, trainer.params, trainer.optimizer_state))
        sizes = {"width": width, "data_parallel": devices.data_parallel}
        evaluations = build_evaluations(config, state.evaluations, held_out, rewards, **sizes, hosts=hosts)
        size = tree_bytes((trainer.params, trainer.optimizer_state))
        first_step, output = state.step + 1, Path(config.output_dir)
        room = room_for(config, checkpoints, size, total_steps, first_step)
        table = start_rows(config, devices, model, trainer, room, total_steps, first_step)
        record, notes = open_record(
            config, devices, state, evaluations, total_steps, table, "tunix-grpo", writes=hosts.is_first
        )
        health, bad_steps = Health(config, notes), BadSteps(config.training.max_bad_steps, output, notes)

        # --- the loop ---
        metric, most_failures = config.evaluation.metric, config.training.max_failed_saves
        beside = functools.partial(write_ledger, ledger, training_set, output, writes=hosts.is_first)
        saver = Saver(checkpoints, run, state, ledger, trainer, metric, most_failures, beside, mirror.update)
        step, steps = state.step, range(first_step, total_steps + 1)
        asking = stop_of_a_run(config.training.max_hours, started)
        with console.Progress(total_steps, first_step) as progress, asking as stop, record:
            stopped = functools.partial(stop.heard_by, hosts)
            try:
                if state.unevaluated:  # what a stop has cut off is made up for
                    state.unevaluated = not evaluations.run(trainer, state.step, record, progress, stop=stopped)
                    saver.start()
                    steps = () if stopped() or evaluations.end() else steps
                for step in steps:
                    fresh = functools.partial(order.batch, step) if config.grpo.replace_equal_groups else None
                    try:
                        collected = trainer.collect(step, order.batch(step), fresh, stopped)
                    except StoppedError:  # nothing has moved: the step is drawn again when the run goes on
                        break
                    if step == 1:  # an evaluation takes minutes, and moves nothing: the first look comes before it
                        with hosts.together():
                            if hosts.is_first:
                                health.first_look(collected, task)
                        if config.evaluation.before_training:
                            if not evaluations.run(trainer, 0, record, progress, stop=stopped):
                                break
                            state.accuracy_before = evaluations.accuracy()
                    result = trainer.update(collected)
                    health.note(step, result)
                    level = order.metrics()
                    order.note(step, collected.groups.outcomes)
                    state.step = step
                    state.num_tokens += result.num_tokens
                    state.update_window, state.memory = spikes.window, trainer.memory.saved()
                    metrics = {}
                    with hosts.together():
                        bad_steps.note(step, result.health, completion_lines(step, result))
                        if due(step, config.training.log_interval_steps, total_steps):
                            metrics = step_metrics(result) | {
                                "learning_rate": float(schedule(step * config.grpo.updates_per_step - 1)),
                                "num_tokens": state.num_tokens,
                                "perf/compilations": compilations.count,
                                **saver.metrics(),
                                **level,
                                **workers.counts(),
                            }
                            record.log_metrics(step, metrics)
                            record.log_completions(step, completion_records(step, result))
                    progress.update(step, metrics)
                    if metrics:
                        progress.show(shown_groups(step, result, config.tracker.show))
                    state.unevaluated = due(step, config.training.eval_interval_steps, total_steps)
                    if state.unevaluated:
                        state.unevaluated = not evaluations.run(trainer, step, record, progress, stop=stopped)
                    saver.look()
                    best = evaluations.best_step() == step
                    if best or due(step, config.training.save_interval_steps, total_steps):
                        saver.start()
                    if stopped() or evaluations.end():
                        break
                saver.finish()
            except UserError as error:  # a reward that fails, numbers that are not finite, a disk that stays full
                new = state.step >= first_step and hosts.is_known(error) and not isinstance(error, NoStepError)
                where = save_where_possible(error, saver.save_into, checkpoints, output) if new else ""
                raise UserError(f"step {step}: {error}{where}") from error

        # --- the end ---
        counts = {"num_steps": state.step - first_step + 1, "seconds": time.monotonic() - started}
        return show_summary(state, total_steps, evaluations, stop, output, checkpoints, **counts)
