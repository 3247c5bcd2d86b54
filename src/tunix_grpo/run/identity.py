"""What a run is: what a checkpoint must agree with to be gone on with, and what it may differ in on purpose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tunix_grpo.config import Config, ModelConfig, RewardsConfig, RunConfig, SftConfig, selected_rewards
from tunix_grpo.config.course import COURSE, FREE, FREE_OF_A_REWARD
from tunix_grpo.config.history import former_of_a_reward
from tunix_grpo.config.rules import BUNDLED
from tunix_grpo.files import Json
from tunix_grpo.text.prompt_set import PromptSet

# What says where a model comes from. Moved files are the same model, so these are not compared: they name it again.
_SOURCE = ("path", "kaggle_id", "hub_id", "revision", "tokenizer", "family", "random_weights", "run", "step")
_REWARD_FILES = (("judge", "prompt_file"), ("json_schema", "path"))
PROGRAM = "program"  # of an identity: the one that trained, where it is not run_training.py
_EDGE = 1 << 16  # bytes of a weight file that are read at either end to tell it from another


def identity(
    config: Config, model_directory: Path, prompts: PromptSet, prompts_per_step: int, start: str | None = None
) -> dict[str, Json]:
    """Returns what makes a run this run, beside its settings: by content, not by the names of files.

    Args:
        prompts: of training.
        start: digest of the trained weights that it starts from; None where it starts from the model's own.
    """
    return model_identity(config, model_directory, start) | {
        **_asked(config, prompts),
        "prompts per step": prompts_per_step,
        "grpo.num_generations": config.grpo.num_generations,
        **reward_files(config.reward),
    }


def sft_identity(
    config: SftConfig,
    model_directory: Path,
    heldout: PromptSet,
    demonstrations: str,
    per_step: int,
    start: str | None = None,
) -> dict[str, Json]:
    """Returns the same of a run on demonstrations.

    Args:
        heldout: all prompts that the task holds out; an evaluation may ask fewer.
        demonstrations: digest of their tokens.
        per_step: D.
    """
    return model_identity(config, model_directory, start) | {
        PROGRAM: "sft",
        **_asked(config, heldout),
        "demonstrations": demonstrations,
        "demonstrations per step": per_step,
    }


def _asked(config: RunConfig, prompts: PromptSet) -> dict[str, Json]:
    digest = content_digest("\0".join(prompts.texts).encode())
    return {"seed": config.seed, "task": config.task.name, "task prompts": digest}


def reward_files(rewards: RewardsConfig) -> dict[str, Json]:
    """Returns the digest of every file that says what a selected reward wants, by its setting."""
    selected = selected_rewards(rewards)
    named = {f"reward.{name}.{key}": getattr(selected.get(name), key, None) for name, key in _REWARD_FILES}
    return {
        f"content of {setting}": content_digest(Path(file).read_bytes())
        for setting, file in named.items()
        if file is not None and not file.startswith(BUNDLED)
    }


class NamesModel(Protocol):
    """Settings that say which model there is, and the seed of random weights."""

    @property
    def model(self) -> ModelConfig: ...

    @property
    def seed(self) -> int: ...


def model_identity(config: NamesModel, model_directory: Path, start: str | None = None) -> dict[str, Json]:
    """Returns what saved parameters belong to: without it they mean nothing."""
    random = config.model.random_weights
    return {
        "model": config.model.name,
        "model weights": _weights_digest(model_directory, random=random),
        "model.run": start,
        "model.dtype": config.model.dtype,
        "model.lora_rank": config.model.lora_rank,
        "model.lora_alpha": config.model.lora_alpha if config.model.lora_rank is not None else None,
        "model.quantization": config.model.quantization,
        "model.lora_target_modules": config.model.lora_target_modules if config.model.lora_rank is not None else None,
    } | ({"seed": config.seed} if random else {})


def model_source(config: RunConfig) -> dict[str, Json]:
    """Returns the settings that say where the model comes from."""
    return {f"model.{name}": getattr(config.model, name) for name in _SOURCE}


def settings(config: RunConfig) -> dict[str, Json]:
    """Returns the settings that decide what is learned, apart from the model's and from task.date.

    Those of a run on demonstrations are of fewer groups.
    """
    groups = {group: dataclasses.asdict(getattr(config, group)) for group in COURSE if hasattr(config, group)}
    del groups["task"]["name"], groups["task"]["date"]  # `identity` has the name, and the prompts show the date
    if isinstance(config, Config):
        groups["reward"] = _of_rewards(groups["reward"])
    flat = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    flat["training.deterministic"] = config.training.deterministic
    return {key: value for key, value in flat.items() if key not in FREE}


def _of_rewards(rewards: dict[str, Any]) -> dict[str, Json]:
    """Returns what is compared of the group `reward`; each reward has what it has of its limits."""
    del rewards["limits"]
    functions = rewards.pop("functions").items()
    compared = {key: _of_a_reward(f"reward.{key}", value) for key, value in rewards.items()}
    compared["functions"] = {name: _of_a_reward(f"reward.functions.{name}", value) for name, value in functions}
    return compared


def _of_a_reward(setting: str, value: Json) -> Json:
    """Returns what is compared of a reward's settings: what is as it was before the reward had them is left out."""
    if not isinstance(value, dict):
        return value
    former = former_of_a_reward(setting)
    kept = {key: each for key, each in value.items() if key not in FREE_OF_A_REWARD}
    return {key: each for key, each in kept.items() if key not in former or each != former[key]}


def without_folders(values: Mapping[str, Json]) -> dict[str, Json]:
    """Returns values by key, each absolute path without its folder: files that have moved are the same files."""
    return {key: value if key == "task.system_prompt" else _without_folder(value) for key, value in values.items()}


def _without_folder(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_folder(item) for key, item in value.items()}
    return os.path.basename(value) if isinstance(value, str) and value.startswith("/") else value


def content_digest(data: bytes) -> str:
    """Returns a digest of a content, 16 letters."""
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
    return content_digest(b"\0".join(data))


def differences(saved: Mapping[str, object], current: Mapping[str, object]) -> dict[str, str]:
    """Returns key -> `key: saved -> current` for every key whose value differs, sorted."""
    return {
        key: f"{key}: {json.dumps(saved.get(key))} -> {json.dumps(current.get(key))}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    }
