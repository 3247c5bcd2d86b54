"""Opens the record of a run: what every step is written to, and what is written and shown before the first."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tunix_grpo import console
from tunix_grpo.config import Config
from tunix_grpo.grpo.evaluations import Evaluations
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.model.model import Model
from tunix_grpo.record.environment import write_environment
from tunix_grpo.record.health import Health
from tunix_grpo.record.jsonl import drop_evaluation
from tunix_grpo.record.left_out import BadSteps
from tunix_grpo.record.notes import Notes
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.summary import start_rows
from tunix_grpo.record.trackers import TrackerGroup, build_trackers
from tunix_grpo.run.devices import Devices
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.room import Room
from tunix_grpo.run.start import RunState


class Record(NamedTuple):
    """What looks at every step: the numbers and completions for all trackers, and what they say of its health."""

    trackers: TrackerGroup
    health: Health
    bad_steps: BadSteps


def open_record(
    config: Config,
    devices: Devices,
    model: Model,
    trainer: Trainer,
    state: RunState,
    evaluations: Evaluations,
    room: Room,
    total_steps: int,
) -> Record:
    """Opens the record in `config.output_dir`, after `state.step`; writes settings and environment, shows the start.

    Args:
        state: gets the names of the trackers' own runs.
        room: for the checkpoints.

    Raises:
        UserError: the disk refuses it, or the user's own tracker cannot be made.
    """
    first_step, output = state.step + 1, Path(config.output_dir)
    if state.unevaluated:  # a start may have been killed after it had made up for it, and before it had saved that
        for file in (Path(config.checkpoint_dir, HISTORY), output / "metrics.jsonl"):
            drop_evaluation(file, state.step)
    names = {"wandb_run_id": state.wandb_run_id, "trackio_run": state.trackio_run}
    trackers = build_trackers(config, resume_step=state.step, **names)
    state.wandb_run_id, state.trackio_run = trackers.wandb_run_id, trackers.trackio_run
    notes = Notes(output, resume_step=state.step)
    write_config(config, output)
    questions = evaluations.questions()
    write_environment(output, devices, total_steps=total_steps, first_step=first_step, questions=questions)
    console.start_table(start_rows(config, devices, model, trainer, room, total_steps, first_step), "tunix-grpo")
    return Record(trackers, Health(config, notes), BadSteps(config.training.max_bad_steps, output, notes))
