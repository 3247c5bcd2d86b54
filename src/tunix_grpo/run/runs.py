"""What a run is, as its checkpoints say it and as the settings of a command do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunix_grpo.config import Config, RunConfig, SftConfig
from tunix_grpo.config.history import with_former_entries
from tunix_grpo.files import Json
from tunix_grpo.run.identity import (
    differences,
    identity,
    model_identity,
    model_source,
    settings,
    sft_identity,
    without_folders,
)
from tunix_grpo.text.prompt_set import PromptSet


@dataclasses.dataclass(frozen=True)
class Run:
    """What a checkpoint says of the run that made it.

    Attributes:
        identity: what makes it this run: by content, not by the names of files.
        settings: those that decide what is learned.
        source: the settings that say where the model comes from; empty in checkpoints of versions up to 0.1.
        belongs: keys of `identity` without which saved parameters mean nothing.
    """

    identity: dict[str, Json]
    settings: dict[str, Json]
    source: dict[str, Json]
    belongs: frozenset[str] = frozenset()

    def saved(self) -> dict[str, Json]:
        """Returns what goes into a checkpoint."""
        return {"identity": self.identity, "settings": self.settings, "source": self.source}

    def differences(self, saved: Run) -> dict[str, str]:
        """Returns key -> `key: then -> now` for all that differs from what a checkpoint says."""
        then = with_former_entries(saved.settings, self.settings)
        now = self.settings
        if not any(key.startswith("task.") for key in saved.settings):  # versions up to 0.1 saved the prompts alone
            now = {key: value for key, value in now.items() if not key.startswith("task.")}
        then |= with_former_entries(saved.identity, self.identity)
        return differences(without_folders(then), without_folders(now | self.identity))


def this_run(
    config: Config, directory: Path, prompts: PromptSet, prompts_per_step: int, start: str | None = None
) -> Run:
    """Returns what a run with these settings is.

    Args:
        directory: the model's.
        prompts: of training.
        prompts_per_step: P.
        start: digest of the trained weights that it starts from; None where it starts from the model's own.
    """
    return _run(config, directory, identity(config, directory, prompts, prompts_per_step, start))


def this_sft_run(
    config: SftConfig,
    directory: Path,
    heldout: PromptSet,
    demonstrations: str,
    per_step: int,
    start: str | None = None,
) -> Run:
    """Returns the same of a run on demonstrations.

    Args:
        heldout: all prompts that the task holds out; an evaluation may ask fewer.
        demonstrations: digest of their tokens.
        per_step: D.
    """
    return _run(config, directory, sft_identity(config, directory, heldout, demonstrations, per_step, start))


def _run(config: RunConfig, directory: Path, identity: dict[str, Json]) -> Run:
    belongs = frozenset(model_identity(config, directory))
    return Run(identity, settings(config), model_source(config), belongs)
