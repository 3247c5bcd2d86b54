"""A training without training: its data, its prompts, its place on the disk, and what its programs need here."""

from __future__ import annotations

import dataclasses

from tunix_grpo import console
from tunix_grpo.config import Config
from tunix_grpo.preflight.program import show_needs
from tunix_grpo.preflight.targets import present
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.room import room_for
from tunix_grpo.text.prompt_set import PromptSet, prompt_width


def show_dry_run(
    config: Config,
    checkpoints: Checkpoints,
    training_set: PromptSet,
    held_out: PromptSet,
    total_steps: int,
    first_step: int,
) -> None:
    """Prints what a run would ask and what its programs need on the devices that are there; loads no weights.

    Args:
        held_out: the prompts of the run's own evaluations.

    Raises:
        UserError: it does not fit the devices, or no checkpoint fits the disk.
    """
    width = prompt_width(config.generation.max_prompt_length, training_set, held_out)
    sets = {"training questions": training_set, "held-out questions": held_out}
    rows = [
        (name, f"{len(each):,}, prompts of up to {max(map(len, each.ids)):,} tokens") for name, each in sets.items()
    ]
    going_on = "" if first_step == 1 else f", going on with step {first_step:,}"
    rows.append(("steps", f"{total_steps:,}{going_on}"))
    console.start_table(rows, "dry run")
    generation = dataclasses.replace(config.generation, max_prompt_length=width)
    needs = show_needs(dataclasses.replace(config, generation=generation), *present(config))
    room = room_for(config, checkpoints, needs["saved_bytes"], total_steps, first_step)
    console.start_table([("checkpoints", room.in_words()), ("trained", "nothing: training.dry_run=true")], "disk")
