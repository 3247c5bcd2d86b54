"""From which step a run starts: the same command goes on, another one never does so in silence."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
from typing import TypeVar

from tunix_grpo.config import Config, RunConfig, SftConfig
from tunix_grpo.config.changing import changed
from tunix_grpo.config.history import defaults_of_then, with_former_entries
from tunix_grpo.config.words import assignment
from tunix_grpo.errors import NotContinued, UserError
from tunix_grpo.files import Json
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.evaluated import Row, early_end, logged_evaluations
from tunix_grpo.run.identity import PROGRAM, differences, settings
from tunix_grpo.run.mirror import Mirror
from tunix_grpo.run.mirror_store import free_mirror
from tunix_grpo.run.places import HISTORY, free_folder
from tunix_grpo.run.runs import Run
from tunix_grpo.text.ledger import Ledger
from tunix_grpo.text.prompt_set import PromptSet

Settings = TypeVar("Settings", Config, SftConfig)
_log = logging.getLogger(__name__)
_QUESTIONS = "task prompts"  # of a run's identity
_ANOTHER_FOLDER = (
    "another folder with checkpoint_dir=DIR (checkpoint_dir='${output_dir}/checkpoints' is a new one for every run)"
)
_ANOTHER_MIRROR = " and another place for its copies with training.mirror=ADDRESS"


@dataclasses.dataclass(slots=True)
class RunState:
    """What a run knows of itself between two steps, beside parameters and optimizer; saved in every checkpoint.

    Attributes:
        step: the last full step, 0 before the first.
        num_tokens: prompt and completion tokens processed so far.
        accuracy_before: held-out accuracy before the first step.
        wandb_run_id: so that a resumed run continues the same W&B run.
        trackio_run: likewise, the name of the trackio run.
        total_steps: planned when this was saved.
        date: the day that chat templates are told, YYYY-MM-DD; None in checkpoints of versions up to 0.1.
        memory: what runs at once, where the device has no room for what the settings say (`grpo.memory`).
        update_window: loss and gradient norm of the last updates, which spikes are told by.
        evaluations: what all evaluations up to now have shown, in their order.
        unevaluated: the evaluation after `step` was cut off, and is to be done.
    """

    step: int = 0
    num_tokens: int = 0
    accuracy_before: float | None = None
    wandb_run_id: str | None = None
    trackio_run: str | None = None
    total_steps: int = 0
    date: str | None = None
    memory: dict[str, Json] = dataclasses.field(default_factory=dict)
    update_window: list[list[float]] = dataclasses.field(default_factory=list)
    evaluations: list[Row] = dataclasses.field(default_factory=list)
    unevaluated: bool = False


def last_saved(checkpoints: Checkpoints, mirror: Mirror | None = None) -> tuple[Run, RunState] | None:
    """Returns what the newest valid checkpoint says of its run, or None where there is no such checkpoint.

    Args:
        mirror: where newer ones are fetched from.
    """
    step = checkpoints.latest_valid()
    if mirror is not None and mirror.fetch(step or 0):
        step = checkpoints.latest_valid()
    if step is None:
        return None
    saved = checkpoints.run_of(step)
    state = RunState(**saved["state"])
    if "evaluations" not in saved["state"]:  # older checkpoints have no list of them
        state.evaluations = logged_evaluations(checkpoints.folder / HISTORY, state.step)
    return Run(saved["identity"], saved["settings"], saved.get("source", {})), state


def as_begun(config: Settings, saved: tuple[Run, RunState] | None, hosts: Hosts = ALONE) -> Settings:
    """Returns the settings with what a run keeps from its beginning on, unless they name it themselves.

    That is the day that chat templates are told, today for a new run, and a default that has changed since.
    """
    today = str(hosts.broadcast(datetime.date.today().isoformat()))  # hosts may have clocks of their own
    date = config.task.date or (saved[1].date if saved else None) or today
    config = changed(config, {"task.date": date})
    kept = defaults_of_then(str(config.model.path), settings(config), saved[0].settings) if saved else {}
    for key, value in kept.items():
        _log.info("%s: the default when this run began", assignment(key, value))
    return changed(config, kept)


def find_start(
    checkpoints: Checkpoints, saved: tuple[Run, RunState] | None, run: Run, config: RunConfig, total_steps: int
) -> RunState:
    """Returns the state to start from: that of the newest valid checkpoint, or a fresh one.

    Args:
        saved: what that checkpoint says.
        run: what is about to run.

    Raises:
        UserError: training.resume forbids what would have to be done.
        NotContinued: the checkpoint was made with settings that decide what is learned and differ.
    """
    resume = config.training.resume
    if resume == "never" and checkpoints.steps():
        raise UserError(
            f"training.resume=never, but {checkpoints.root} already holds checkpoints; give {_elsewhere(config)}"
        )
    if saved is None:
        if resume == "must":
            raise UserError(
                f"training.resume=must, but {checkpoints.root} holds no valid checkpoint; give the folder of the run "
                "that is to go on with checkpoint_dir=DIR, or training.resume=auto"
            )
        return RunState(total_steps=total_steps, date=config.task.date)
    before, state = saved
    if before.identity.get(PROGRAM) != run.identity.get(PROGRAM):
        raise _of_another_program(checkpoints, before, config)
    changes = run.differences(before)
    if _QUESTIONS in changes and state.date != config.task.date:
        changes |= differences({"task.date": state.date}, {"task.date": config.task.date})
    # With other settings and no step left, there is nothing that going on could mean.
    if changes and (resume != "changed" or changes.keys() & run.belongs or state.step >= total_steps):
        raise _refusal(checkpoints, before, state, run, changes, config, total_steps)
    for change in changes.values():
        _log.warning("going on with another setting: %s", change)
    if state.total_steps != total_steps and state.step < total_steps:
        _log.warning(
            "total steps: %d -> %d; the learning rate of the steps to come is that of a run of %d steps",
            state.total_steps,
            total_steps,
            total_steps,
        )
    evaluations = [] if _QUESTIONS in changes else state.evaluations  # other questions are no measure of these
    return dataclasses.replace(state, total_steps=total_steps, date=config.task.date, evaluations=evaluations)


def nothing_to_do(checkpoints: Checkpoints, state: RunState, config: RunConfig, total_steps: int) -> str | None:
    """Returns in words why a run has no step to do, or None."""
    if state.unevaluated:
        return None
    if state.step >= total_steps:
        return f"{checkpoints.root} already holds step {state.step} of {total_steps}"
    early = early_end(state.evaluations, config.evaluation.metric, config.evaluation.patience)
    if early is None:
        return None
    return (
        f"{checkpoints.root} holds step {state.step}, after which the run ended early ({early}); "
        "a larger evaluation.patience, or null, goes on"
    )


def saved_ledger(checkpoints: Checkpoints, state: RunState, run: Run, prompts: PromptSet) -> Ledger:
    """Returns what the checkpoint that a run starts from knows of its questions.

    It is empty at the start of a run, after a checkpoint that is older than the ledger, and where the questions are
    others.
    """
    if state.step == 0:
        return Ledger(len(prompts))
    saved = checkpoints.run_of(state.step)
    ledger = saved.get("ledger")
    if ledger is not None and saved["identity"][_QUESTIONS] != run.identity[_QUESTIONS]:
        _log.warning("the training questions are others than before: the ledger of tries and successes starts anew")
        ledger = None
    return Ledger.read(len(prompts), ledger)


# --- the refusal ---


def _elsewhere(config: RunConfig) -> str:
    """Returns in words how a run starts afresh."""
    return _ANOTHER_FOLDER if config.training.mirror is None else f"{_ANOTHER_FOLDER}{_ANOTHER_MIRROR}"


def _afresh(checkpoints: Checkpoints, config: RunConfig) -> list[str]:
    """Returns the settings with which it does."""
    folder, mirror = assignment("checkpoint_dir", free_folder(checkpoints.folder)), config.training.mirror
    return [folder] if mirror is None else [folder, assignment("training.mirror", free_mirror(mirror))]


def _of_another_program(checkpoints: Checkpoints, before: Run, config: RunConfig) -> NotContinued:
    """Returns what is said where supervised training meets GRPO's checkpoints, or the other way round."""
    made = "scripts/sft.py" if before.identity.get(PROGRAM) == "sft" else "run_training.py"
    return NotContinued(
        f"the checkpoints in {checkpoints.root} were made by {made}; give {_elsewhere(config)}, and model.run=RUN, the "
        "run's folder, to start from its weights",
        {"start afresh": _afresh(checkpoints, config)},
    )


def _refusal(
    checkpoints: Checkpoints,
    before: Run,
    state: RunState,
    run: Run,
    changes: dict[str, str],
    config: RunConfig,
    total_steps: int,
) -> NotContinued:
    """Returns what differs, and the settings that go on all the same or start afresh."""
    foreign = changes.keys() & run.belongs
    restored = _words_of_the_model(before, run, changes)
    ways: dict[str, list[str]] = {}
    advice = "the model that it was made with"
    if restored is not None:
        go_on = restored + (["training.resume=changed"] if changes.keys() - foreign else [])
        if state.step >= total_steps:  # what was asked for is done already: as many steps once more
            more = math.ceil((state.step + total_steps) / config.training.num_epochs)
            go_on.append(assignment("training.num_batches", more))
        ways["go on from here, with the model that it has" if foreign else "go on from here, with what changed"] = go_on
        advice = f"{' '.join(go_on)} to go on all the same"
    ways["start afresh"] = _afresh(checkpoints, config)
    return NotContinued(
        f"the checkpoint {checkpoints.root / str(state.step)} was made with other settings "
        f"({'; '.join(changes[key] for key in sorted(changes))}); give {advice}, or {_elsewhere(config)}",
        ways,
    )


def _words_of_the_model(before: Run, run: Run, changes: dict[str, str]) -> list[str] | None:
    """Returns the settings that bring back the model of a checkpoint; None where the checkpoint does not say them."""
    words = []
    for key in sorted(changes.keys() & run.belongs):
        value = with_former_entries(before.identity, run.identity).get(key)
        if key in ("model weights", "model.run"):
            source = before.source
            if not source:
                return None
            own = [assignment(key, source[key]) for key in source if source[key] != run.source.get(key)]
            words += [word for word in own if word not in words]
        elif key == "model":
            words.append(assignment("model.name", value))
        elif value is not None or key in ("model.lora_rank", "model.quantization"):  # else without a meaning: no LoRA
            words.append(assignment(key, value))
    return words
