"""What a checkpoint must agree with to be continued, and from which step a run starts."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from tunix_grpo.config import Config
from tunix_grpo.config.history import with_former_entries
from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import Checkpoints, differences
from tunix_grpo.text.prompt_set import PromptSet

_log = logging.getLogger(__name__)
# Groups that a resumed run may change: they are named in the log when they do.
_CHANGEABLE = ("optimizer", "scheduler", "grpo", "generation", "reward")
_ANOTHER_FOLDER = (
    "another folder with checkpoint_dir=DIR (checkpoint_dir='${output_dir}/checkpoints' is a new one for every run)"
)
_EDGE = 1 << 16  # bytes of a weight file that are read at either end to tell it from another


@dataclasses.dataclass(slots=True)
class RunState:
    """What a run knows of itself between two steps, beside parameters and optimizer; saved in every checkpoint.

    Attributes:
        step: the last full step, 0 before the first.
        num_tokens: prompt and completion tokens processed so far.
        accuracy_before: held-out accuracy before the first step.
        wandb_run_id: so that a resumed run continues the same W&B run.
        total_steps: planned when this was saved.
    """

    step: int = 0
    num_tokens: int = 0
    accuracy_before: float | None = None
    wandb_run_id: str | None = None
    total_steps: int = 0


def identity(config: Config, model_directory: Path, prompts: PromptSet, prompts_per_step: int) -> dict[str, Any]:
    """Returns what makes a run this run: a checkpoint that differs in any of it is refused."""
    return model_identity(config, model_directory) | {
        "task": config.task.name,
        "task.template_variables": config.task.template_variables,
        "task prompts": _digest("\0".join(prompts.texts).encode()),
        "prompts per step": prompts_per_step,
        "grpo.num_generations": config.grpo.num_generations,
    }


def model_identity(config: Config, model_directory: Path) -> dict[str, Any]:
    """Returns what saved parameters belong to: without it they mean nothing."""
    return {
        "model": config.model.name,
        "model weights": _weights_digest(model_directory, random=config.model.random_weights),
        "model.dtype": config.model.dtype,
        "model.lora_rank": config.model.lora_rank,
        "model.lora_alpha": config.model.lora_alpha if config.model.lora_rank is not None else None,
        "model.quantization": config.model.quantization,
        "model.lora_target_modules": config.model.lora_target_modules if config.model.lora_rank is not None else None,
        "seed": config.seed,
    }


def settings(config: Config) -> dict[str, Any]:
    """Returns the settings that may change between two starts of a run but change its course."""
    groups = {name: dataclasses.asdict(getattr(config, name)) for name in _CHANGEABLE}
    flat: dict[str, Any] = {}
    for group, values in groups.items():
        for key, value in values.items():
            flat[f"{group}.{key}"] = value
    return flat


def find_start(
    checkpoints: Checkpoints, resume: str, this_run: dict[str, Any], these_settings: dict[str, Any], total_steps: int
) -> RunState:
    """Returns the state to start from: that of the newest valid checkpoint, or a fresh one.

    Raises:
        UserError: the checkpoint belongs to another run, or training.resume forbids what would have to be done.
    """
    step = checkpoints.latest_valid()
    if resume == "never" and checkpoints.steps():
        raise UserError(
            f"training.resume=never, but {checkpoints.root} already holds checkpoints; give {_ANOTHER_FOLDER}"
        )
    if step is None:
        if resume == "must":
            raise UserError(
                f"training.resume=must, but {checkpoints.root} holds no valid checkpoint; give the folder of the run "
                "that is to go on with checkpoint_dir=DIR, or training.resume=auto"
            )
        return RunState(total_steps=total_steps)
    saved = checkpoints.run_of(step)
    other = differences(with_former_entries(saved["identity"], this_run), this_run)
    if other:
        raise UserError(
            f"the checkpoint {checkpoints.root / str(step)} belongs to another run ({'; '.join(other)}); "
            f"give the settings it was made with, or {_ANOTHER_FOLDER}"
        )
    for change in differences(with_former_entries(saved["settings"], these_settings), these_settings):
        _log.warning("resuming with a changed setting: %s", change)
    state = RunState(**saved["state"])
    if state.total_steps != total_steps:
        _log.warning("total steps: %d -> %d; the learning rate follows the new length", state.total_steps, total_steps)
        state.total_steps = total_steps
    return state


def save_run(
    checkpoints: Checkpoints, run: dict[str, Any], state: RunState, params: Any, optimizer_state: Any
) -> float:
    """Saves the state of the last full step; returns the seconds that it took.

    Args:
        run: `identity` and `settings` of the run.
    """
    begun = time.perf_counter()
    checkpoints.save(state.step, params, optimizer_state, run | {"state": dataclasses.asdict(state)})
    return time.perf_counter() - begun


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _weights_digest(directory: Path, *, random: bool) -> str:
    """Returns a digest of config.json and both ends of every weight file: cheap, and independent of the path.

    Args:
        random: the weights come from the seed, so that files do not matter.
    """
    data = [b"random" if random else b"", (directory / "config.json").read_bytes()]
    for file in [] if random else sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            data += [f"{file.name} {size}".encode(), stream.read(_EDGE)]
            stream.seek(max(0, size - _EDGE))
            data.append(stream.read(_EDGE))
    return _digest(b"\0".join(data))
