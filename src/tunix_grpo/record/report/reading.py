"""What is left of a run in its folder, read for a report: what an older version did not write is missing there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from tunix_grpo.config.history import read_run_config
from tunix_grpo.config.loading import leaves
from tunix_grpo.files import Json, read_json, read_json_lines
from tunix_grpo.record.environment import ENVIRONMENT
from tunix_grpo.record.notes import HEALTH
from tunix_grpo.record.report.intervals import Share, share_of
from tunix_grpo.run.logged import read_metrics
from tunix_grpo.run.places import HISTORY

METRICS, COMPLETIONS = "metrics.jsonl", "completions.jsonl"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        folder: of the run.
        settings: dotted key -> value.
        metrics: step -> name -> number, of all starts.
        environment: what `environment.json` says; nothing of a run that an older version made.
        notes: the lines of `health.jsonl`.
    """

    folder: Path
    settings: Mapping[str, object]
    metrics: Mapping[int, Mapping[str, float]]
    environment: Mapping[str, Json]
    notes: list[dict[str, Json]]

    @property
    def name(self) -> str:
        """The last two parts of the folder, such as 2026-01-31/12-00-00."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def main(self) -> str:
        """The main config of the program that made it: `sft` of scripts/sft.py, else `config`."""
        return "config" if any(key.startswith("grpo.") for key in self.settings) else "sft"

    @property
    def last_step(self) -> int:
        """The last step that was logged."""
        return max(self.metrics, default=0)

    @property
    def num_generations(self) -> int:
        """Completions of a prompt."""
        found = self.settings.get("grpo.num_generations")
        return found if isinstance(found, int) and found > 0 else 1

    def state(self) -> str:
        """Returns how far the run has come, in words."""
        total = self.environment.get("total_steps")
        if not isinstance(total, int):
            return f"step {self.last_step:,}"
        return f"{'finished, ' if self.last_step >= total else ''}step {self.last_step:,} of {total:,}"

    def values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the steps that logged a metric, int64, and its values, float64."""
        found = [(step, row[name]) for step, row in sorted(self.metrics.items()) if name in row]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, np.int64), np.array(values, np.float64)

    def names(self) -> list[str]:
        """Returns the names of all metrics, in the order in which they were logged first."""
        return list(dict.fromkeys(name for row in self.metrics.values() for name in row))

    def shares(self, name: str) -> list[tuple[int, Share]]:
        """Returns the values of a metric that is a share of questions, with their steps and intervals."""
        counts = self.environment.get("questions")
        total = counts.get(name) if isinstance(counts, dict) else None
        steps, values = self.values(name)
        known = total if isinstance(total, int) else None
        return [(int(step), share_of(float(value), known)) for step, value in zip(steps, values, strict=True)]


def read_record(folder: Path, checkpoint_dir: str | None = None, key: str = "run") -> RunRecord:
    """Reads a run's folder.

    Args:
        key: the setting that names the folder, for errors.
        checkpoint_dir: where its checkpoints are now; None for where the run has put them. Beside them stands what
            earlier starts have logged in other folders.

    Raises:
        UserError: it is not the folder of a run, or a file in it is damaged.
    """
    config = OmegaConf.to_container(read_run_config(folder, key), resolve=False)
    settings = {key: value for key, value in leaves(config) if key}
    own = folder / METRICS
    files = [own]
    history = Path(checkpoint_dir or str(settings["training.checkpoint_dir"])) / HISTORY
    if _begins_with(own, history):
        files.append(history)
    environment, notes = folder / ENVIRONMENT, folder / HEALTH
    return RunRecord(
        folder=folder,
        settings=settings,
        metrics=read_metrics(*files),
        environment=read_json(environment) if environment.is_file() else {},
        notes=read_json_lines(notes) if notes.is_file() else [],
    )


def _begins_with(own: Path, history: Path) -> bool:
    """Says whether a history has the first line of a run's own record: a line holds times to the last digit."""
    try:
        with own.open("rb") as lines, history.open("rb") as all_lines:
            first = lines.readline()
            return first.endswith(b"\n") and first in all_lines
    except OSError:
        return False
