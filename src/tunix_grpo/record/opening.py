"""Opens the record of a run: its trackers and notes, and what is written and shown before the first step."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config import RunConfig
from tunix_grpo.grpo.evaluations import Evaluations
from tunix_grpo.record.environment import write_environment
from tunix_grpo.record.jsonl import drop_evaluation
from tunix_grpo.record.notes import Notes
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.trackers import TrackerGroup, build_trackers
from tunix_grpo.run.devices import Devices
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.start import RunState


def open_record(
    config: RunConfig,
    devices: Devices,
    state: RunState,
    evaluations: Evaluations,
    total_steps: int,
    table: list[tuple[str, str]],
    title: str,
) -> tuple[TrackerGroup, Notes]:
    """Opens the record in `config.output_dir`, after `state.step`; writes settings and environment, shows the start.

    Args:
        state: gets the names of the trackers' own runs.
        table: the start table.
        title: of it.

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
    console.start_table(table, title)
    return trackers, notes
