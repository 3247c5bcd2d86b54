"""One run on demonstrations, from a checked config to a trained model: read it from top to bottom.

A step is

  1. its demonstrations, a function of seed and step, their loss, gradient and update: `SupervisedTrainer.step`;
  2. the record of the step, to all trackers;
  3. when they are due, an evaluation on held-out questions, `Evaluations.run`, and a checkpoint, `Saver.start`.

All but the first is what `train.py` does, too.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import SftConfig
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.evaluations import Evaluated, HeldOut, build_evaluations, further_prompts
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.spikes import Spikes
from tunix_grpo.grpo.supervised import SupervisedTrainer
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.record.left_out import BadSteps, demonstration_lines
from tunix_grpo.record.opening import open_record
from tunix_grpo.record.summary import Summary, sft_start_rows, show_summary
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.determinism import ask_for_determinism
from tunix_grpo.run.devices import CompilationCounter, open_devices, peak_memory_bytes
from tunix_grpo.run.intervals import due
from tunix_grpo.run.mirror import mirrored
from tunix_grpo.run.rescue import save_where_possible
from tunix_grpo.run.room import room_for, tree_bytes
from tunix_grpo.run.runs import this_sft_run
from tunix_grpo.run.saved_runs import begin, start_model
from tunix_grpo.run.saving import Saver
from tunix_grpo.run.start import as_begun, find_start, last_saved, nothing_to_do
from tunix_grpo.run.stopping import stop_of_a_run
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.tasks.demonstration_set import demonstration_set
from tunix_grpo.tasks.demonstrations import read_demonstrations
from tunix_grpo.text.prompt_set import prompt_set, prompt_width
from tunix_grpo.text.tokenizer import model_tokenizer

_log = logging.getLogger(__name__)


def train_on_demonstrations(config: SftConfig) -> Summary:
    """Trains a model and leaves the record in config.output_dir, the checkpoints in config.checkpoint_dir.

    Raises:
        UserError: something that the user can mend; nothing has been left half-written.
    """
    started = time.monotonic()
    ask_for_determinism(config.training.deterministic)
    devices = open_devices(config.device, config.mesh, config.jax_cache)
    compilations = CompilationCounter()
    with (
        Checkpoints(config.checkpoint_dir, config.training.max_to_keep) as checkpoints,
        mirrored(config.training.mirror, checkpoints) as mirror,
    ):
        saved = last_saved(checkpoints, mirror)
        config = as_begun(config, saved)

        # --- the words: held-out questions, demonstrations ---
        origin, start = begin(config)
        directory = resolve_directory(config.model)
        spec = read_spec(directory, config.model.family)
        words = config.task.template_variables, config.task.date
        tokenizer = model_tokenizer(config.model.tokenizer, directory, spec.vocab_size, *words)
        task = build_task(config.task, config.seed)
        heldout_set = prompt_set("held-out", task.heldout, tokenizer, config)
        further = further_prompts(config, tokenizer)
        found = read_demonstrations(config, task)
        demonstrations = demonstration_set(found, tokenizer, config, task, heldout_set)

        # --- where to start ---
        total_steps = config.total_steps(len(demonstrations), devices.data_parallel)
        per_step = config.demonstrations_per_step(devices.data_parallel)
        run = this_sft_run(config, directory, heldout_set, demonstrations.digest(), per_step, start)
        state = find_start(checkpoints, saved, run, config, total_steps)
        mirror.keep()
        if done := nothing_to_do(checkpoints, state, config, total_steps):
            _log.info("nothing to do: %s", done)
            return Summary(steps=state.step, accuracy_before=state.accuracy_before, accuracy_after=None)

        # --- the model, its trainer, its judge ---
        model = start_model(config.model, directory, devices.mesh, config.seed, origin)
        schedule = build_schedule(config.optimizer, config.scheduler, total_steps)
        optimizer = build_optimizer(config.optimizer, schedule)
        asked = heldout_set.first(config.evaluation.num_questions)
        width = prompt_width(config.generation.max_prompt_length, asked)
        spikes = Spikes(config.training.spikes, config.training.spike_threshold, state.update_window)
        trainer = SupervisedTrainer(config, devices.mesh, model, tokenizer, demonstrations, optimizer, width, spikes)
        if state.step > 0:
            trainer.restore(*checkpoints.restore(state.step, trainer.params, trainer.optimizer_state))
        held_out, parallel = HeldOut(Evaluated(task, asked), further), devices.data_parallel
        evaluations = build_evaluations(config, state.evaluations, held_out, [], width=width, data_parallel=parallel)

        # --- the record ---
        first_step, output = state.step + 1, Path(config.output_dir)
        size = tree_bytes((trainer.params, trainer.optimizer_state))
        room = room_for(config, checkpoints, size, total_steps, first_step)
        table = sft_start_rows(config, devices, model, trainer, room, len(demonstrations), total_steps, first_step)
        record, notes = open_record(config, devices, state, evaluations, total_steps, table, "tunix-grpo sft")
        bad_steps = BadSteps(config.training.max_bad_steps, output, notes)

        # --- the loop ---
        metric, most_failures = config.evaluation.metric, config.training.max_failed_saves
        saver = Saver(checkpoints, run, state, None, trainer, metric, most_failures, after=mirror.update)
        step, steps = state.step, range(first_step, total_steps + 1)
        asking = stop_of_a_run(config.training.max_hours, started)
        with console.Progress(total_steps, first_step) as progress, asking as stop, record:
            try:
                if state.unevaluated:  # what a stop has cut off is made up for
                    state.unevaluated = not evaluations.run(trainer, state.step, record, progress, stop=stop.asked)
                    saver.start()
                    steps = () if stop or evaluations.end() else steps
                if first_step == 1 and config.evaluation.before_training:
                    steps = steps if evaluations.run(trainer, 0, record, progress, stop=stop.asked) else ()
                    state.accuracy_before = evaluations.accuracy()
                for step in steps:
                    result = trainer.step(step)
                    state.step = step
                    state.num_tokens += result.num_tokens
                    state.update_window = spikes.window
                    bad_steps.note(step, result.health, demonstration_lines(step, result))
                    metrics = {}
                    if due(step, config.training.log_interval_steps, total_steps):
                        metrics = result.metrics | {
                            "learning_rate": float(schedule(step - 1)),
                            "num_tokens": state.num_tokens,
                            "perf/peak_memory_gb": peak_memory_bytes() / 1e9,
                            "perf/compilations": compilations.count,
                            **saver.metrics(),
                        }
                        record.log_metrics(step, metrics)
                    progress.update(step, metrics)
                    state.unevaluated = due(step, config.training.eval_interval_steps, total_steps)
                    if state.unevaluated:
                        state.unevaluated = not evaluations.run(trainer, step, record, progress, stop=stop.asked)
                    saver.look()
                    best = evaluations.best_step() == step
                    if best or due(step, config.training.save_interval_steps, total_steps):
                        saver.start()
                    if stop or evaluations.end():
                        break
                saver.finish()
            except UserError as error:  # numbers that are not finite, a disk that stays full
                new = state.step >= first_step
                where = save_where_possible(error, saver.save_into, checkpoints, output) if new else ""
                raise UserError(f"step {step}: {error}{where}") from error

        # --- the end ---
        counts = {"num_steps": state.step - first_step + 1, "seconds": time.monotonic() - started}
        return show_summary(state, total_steps, evaluations, stop, output, checkpoints, **counts)
