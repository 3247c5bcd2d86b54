"""Steps whose numbers are no good: said, counted, and set aside for whoever wants to know why."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunix_grpo.errors import UserError
from tunix_grpo.files import whole_file
from tunix_grpo.record.jsonl import disk_errors, to_line
from tunix_grpo.record.metrics import completion_records
from tunix_grpo.record.notes import Note, Notes

if TYPE_CHECKING:
    from tunix_grpo.grpo.step import StepResult, UpdateHealth
    from tunix_grpo.grpo.supervised import SupervisedResult

FOLDER = "left_out"  # in the run's folder

_log = logging.getLogger(__name__)
_WAY_OUT = "lower optimizer.learning_rate, or raise optimizer.eps"


class BadSteps:
    """Looks at the updates of every step, and stops the run where too many in a row are not finite."""

    def __init__(self, most: int, output_dir: Path, notes: Notes):
        """
        Args:
            most: bad steps in a row that end the run, 1 or more.
            output_dir: of the run.
            notes: keeps what is said.
        """
        self._most, self._folder, self._notes = most, output_dir / FOLDER, notes
        self._in_a_row = 0

    def note(self, step: int, health: UpdateHealth, trained_on: Iterable[Mapping[str, object]]) -> None:
        """Looks at a step.

        Args:
            trained_on: what it trained on, a line of a file each; read only where it is set aside.

        Raises:
            UserError: it is the last of too many bad ones; what was learned before is untouched.
        """
        for words in health.spikes:
            self._say(step, "spike", f"{words}{'; its update is left out' if health.left_out else ''}")
        self._in_a_row = self._in_a_row + 1 if health.not_finite else 0
        if not health.not_finite:
            return
        path = self._folder / f"step_{step}.jsonl"
        set_aside(path, trained_on)
        left_out = (
            f"the loss or the gradient is not a finite number in {health.not_finite} update(s), which are left out; "
            f"what the step trained on is in {path}"
        )
        if self._in_a_row >= self._most:
            rows = "" if self._most == 1 else f", as in the {self._most - 1} step(s) before"
            raise UserError(f"{left_out}{rows}, and the run stops; {_WAY_OUT}")
        self._say(step, "not finite", left_out)

    def _say(self, step: int, name: str, sentence: str) -> None:
        _log.warning("step %d: %s", step, sentence)
        self._notes.add(Note(step=step, where=f"step {step}", level="warning", name=name, sentence=sentence))


def set_aside(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Writes lines as JSON, whole; what is not finite is null."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as written, written.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for line in lines:
                file.write(to_line({name: _without_infinities(value) for name, value in line.items()}))


def completion_lines(step: int, result: StepResult) -> Iterator[dict[str, object]]:
    """Yields the completions of a step as completions.jsonl has them, with the token ids and log-probabilities."""
    rollout, batch = result.rollout, result.batch
    prompts = batch.per_completion(batch.ids)
    logps = rollout.logps.astype(np.float64)
    for row, record in enumerate(completion_records(step, result)):
        ids = rollout.token_ids[row]
        yield dataclasses.asdict(record) | {
            "prompt_token_ids": list(prompts[row]),
            "token_ids": ids,
            "sampled_logps": logps[row, : len(ids)].tolist(),
        }


def demonstration_lines(step: int, result: SupervisedResult) -> Iterator[dict[str, object]]:
    """Yields the demonstrations of a step, as token ids."""
    for prompt, completion in zip(result.prompts, result.completions, strict=True):
        yield {"step": step, "prompt_token_ids": prompt, "token_ids": completion}


def _without_infinities(value: object) -> object:
    """Returns plain content with null where a number is not finite."""
    if isinstance(value, dict):
        return {key: _without_infinities(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
