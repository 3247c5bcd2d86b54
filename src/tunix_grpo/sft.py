"""One run on demonstrations, from a checked config to a trained model: read it from top to bottom.

A step is

  1. its demonstrations, a function of seed and step, their loss, gradient and update: `SupervisedTrainer.step`;
  2. the record of the step, to all trackers;
  3. when they are due, an evaluation on held-out questions, `Evaluations.run`, and a checkpoint, `Checkpoints.save`.

All but the first is what `train.py` does, too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import SftConfig
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.evaluations import Evaluated, build_evaluations, further_prompts
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.spikes import Spikes
from tunix_grpo.grpo.supervised import SupervisedTrainer
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.record.environment import write_environment
from tunix_grpo.record.left_out import BadSteps, demonstration_lines
from tunix_grpo.record.notes import Notes
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.summary import Summary, sft_start_rows, show_summary
from tunix_grpo.record.trackers import build_trackers
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.determinism import ask_for_determinism
from tunix_grpo.run.devices import CompilationCounter, open_devices, peak_memory_bytes
from tunix_grpo.run.intervals import due
from tunix_grpo.run.rescue import save_where_possible
from tunix_grpo.run.runs import this_sft_run
from tunix_grpo.run.saved_runs import begin, start_model
from tunix_grpo.run.start import find_start, last_saved, nothing_to_do, save_run, with_date
from tunix_grpo.run.stopping import StopRequest
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
    with contextlib.closing(Checkpoints(config.checkpoint_dir, config.training.max_to_keep)) as checkpoints:
        saved = last_saved(checkpoints)
        config = with_date(config, saved)

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
        own, sizes = Evaluated(task, asked), {"width": width, "data_parallel": devices.data_parallel}
        evaluations = build_evaluations(config, state.evaluations, own, further, [], **sizes)

        # --- the record ---
        names = {"wandb_run_id": state.wandb_run_id, "trackio_run": state.trackio_run}
        record = build_trackers(config, resume_step=state.step, **names)
        state.wandb_run_id, state.trackio_run = record.wandb_run_id, record.trackio_run
        output = Path(config.output_dir)
        bad_steps = BadSteps(config.training.max_bad_steps, output, Notes(output, resume_step=state.step))
        write_config(config, config.output_dir)
        first_step = step = state.step + 1
        questions = evaluations.questions()
        write_environment(output, devices, total_steps=total_steps, first_step=first_step, questions=questions)
        rows = sft_start_rows(config, devices, model, trainer, len(demonstrations), total_steps, first_step)
        console.start_table(rows, "tunix-grpo sft")

        # --- the loop ---
        metric = config.evaluation.metric
        save = functools.partial(save_run, run=run, state=state, ledger=None, learner=trainer, metric=metric)
        saving = 0.0  # seconds for checkpoints since the last logged step
        with console.Progress(total_steps, first_step) as progress, StopRequest() as stop, record:
            try:
                if first_step == 1 and config.evaluation.before_training:
                    evaluations.run(trainer, 0, record, progress)
                    state.accuracy_before = evaluations.accuracy()
                for step in range(first_step, total_steps + 1):
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
                            "timing/save": saving,
                        }
                        saving = 0.0
                        record.log_metrics(step, metrics)
                    progress.update(step, metrics)
                    if due(step, config.training.eval_interval_steps, total_steps):
                        evaluations.run(trainer, step, record, progress)
                    ends = stop or evaluations.end()
                    best = evaluations.best_step() == step
                    if ends or best or due(step, config.training.save_interval_steps, total_steps):
                        saving += save(checkpoints)
                    if ends:
                        break
            except UserError as error:  # numbers that are not finite, a full disk
                new = state.step >= first_step
                where = save_where_possible(error, save, checkpoints, output) if new else ""
                raise UserError(f"step {step}: {error}{where}") from error

        # --- the end ---
        counts = {"num_steps": state.step - first_step + 1, "seconds": time.monotonic() - started}
        return show_summary(state, total_steps, evaluations, stop, output, checkpoints, **counts)
