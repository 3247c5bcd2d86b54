"""Whether a model is better than another one on the same questions, and how sure that is."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import read_json
from tunix_grpo.grpo.statistics import LEVEL, POWER, Difference, paired_means, paired_shares
from tunix_grpo.programs.evaluation.results import GREEDY, SAMPLED, Result
from tunix_grpo.run.identity import differences

FORMAT = 1
_MOST_SHOWN = 4  # differences of settings
_log = logging.getLogger(__name__)
_RESULTS = TypeAdapter(list[Result])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model beside its baseline.

    Attributes:
        baseline: the other one's name.
        questions: that both have answered.
        differences: `greedy`, `greedy_strict`, `sampled`, `sampled_strict` -> how much larger the accuracy is.
        decided_by: the one of them that the verdict goes by.
        ours, theirs: that accuracy, of the common questions.
    """

    baseline: str
    questions: int
    differences: dict[str, Difference]
    decided_by: str
    ours: float
    theirs: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`."""
        return self.differences[self.decided_by].verdict

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        found = self.differences[self.decided_by]
        test = "exact McNemar test" if self.decided_by == GREEDY else "paired bootstrap"
        text = (
            f"{self.verdict}: {self.decided_by} accuracy {self.ours:.3f} against {self.theirs:.3f} of {self.baseline} "
            f"on {self.questions:,} questions: {found.value:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}"
            f", p = {found.p_value:.2g}, {test})"
        )
        if found.needed is None:
            return text
        return f"{text}; to see a difference of this size takes about {found.needed:,} questions ({_HOW_SURE})"


_HOW_SURE = f"power {100 * POWER:.0f} %, level {100 * LEVEL:.0f} %"


def compared(ours: Result, theirs: Result, *, accuracy: str, seed: int, setting: str) -> Comparison:
    """Compares two models on the questions that both have answered.

    Args:
        accuracy: greedy or sampled: what the verdict goes by.
        seed: of the bootstrap.
        setting: that names the baseline, with its value, for errors.

    Raises:
        UserError: there are no common questions, or no samples where the verdict is to go by them.
    """
    places = {name: place for place, name in enumerate(theirs.questions)}
    rows = [(row, places[name]) for row, name in enumerate(ours.questions) if name in places]
    if not rows:
        raise UserError(
            f"{setting}: it was asked other questions of the task {ours.task}, none of ours; compare with an "
            "evaluation of the same task settings"
        )
    if len(rows) < len(ours.questions):
        _log.warning(
            "%s was asked %d of our %d questions of %s; the comparison is on those",
            *(setting, len(rows), len(ours.questions), ours.task),
        )
    _note_other_settings(ours, theirs, setting)
    found = {
        GREEDY: _paired_shares(ours.greedy, theirs.greedy, rows),
        f"{GREEDY}_strict": _paired_shares(ours.greedy_strict, theirs.greedy_strict, rows),
    }
    if len(rows) > 1 and ours.samples and theirs.samples:
        samples = ours.samples, theirs.samples
        found[SAMPLED] = _paired_means(ours.right, theirs.right, samples, rows, seed)
        found[f"{SAMPLED}_strict"] = _paired_means(ours.right_strict, theirs.right_strict, samples, rows, seed)
    if accuracy not in found:
        raise UserError(
            f"{setting}: evaluation.accuracy=sampled needs samples of both models and two common questions; give "
            "evaluation.accuracy=greedy, or a baseline with samples"
        )
    return Comparison(
        baseline=theirs.model,
        questions=len(rows),
        differences={name: each for name, each in found.items() if each is not None},
        decided_by=accuracy,
        ours=_accuracy(ours, accuracy, [row for row, _ in rows]),
        theirs=_accuracy(theirs, accuracy, [row for _, row in rows]),
    )


def _accuracy(result: Result, accuracy: str, rows: Sequence[int]) -> float:
    if accuracy == GREEDY:
        return float(np.mean([result.greedy[row] for row in rows]))
    return float(np.mean([result.right[row] / result.samples for row in rows]))


def _paired_shares(
    ours: list[bool] | None, theirs: list[bool] | None, rows: list[tuple[int, int]]
) -> Difference | None:
    if ours is None or theirs is None:
        return None
    return paired_shares([ours[row] for row, _ in rows], [theirs[row] for _, row in rows])


def _paired_means(
    ours: list[int] | None,
    theirs: list[int] | None,
    samples: tuple[int, int],
    rows: list[tuple[int, int]],
    seed: int,
) -> Difference | None:
    if ours is None or theirs is None:
        return None
    first = np.array([ours[row] for row, _ in rows]) / samples[0]
    second = np.array([theirs[row] for _, row in rows]) / samples[1]
    return paired_means(first, second, seed)


def _note_other_settings(ours: Result, theirs: Result, setting: str) -> None:
    other = differences(theirs.settings, ours.settings)
    if None in (ours.settings.get("task.date"), theirs.settings.get("task.date")):
        other.pop("task.date", None)  # a day that no template may write is none that was chosen
    other = list(other.values())
    if other:
        more = f" and {len(other) - _MOST_SHOWN} more" if len(other) > _MOST_SHOWN else ""
        shown = "; ".join(other[:_MOST_SHOWN])
        _log.warning("%s was asked with other settings (theirs -> ours): %s%s", setting, shown, more)


# --- an earlier evaluation as the baseline ---


def read_results(file: Path, setting: str) -> list[Result]:
    """Returns the results of an evaluation.json.

    Raises:
        UserError: it is none, or damaged.
    """
    try:
        content = read_json(file)
        if content.get("format") != FORMAT:
            raise UserError(f"{file}: no evaluation.json of this program")
        results = _RESULTS.validate_json(json.dumps(content.get("results")))
    except UserError as error:
        raise UserError(f"{setting}: {error}; give another one, or a model") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("results", *first["loc"])))
        raise UserError(
            f"{setting}: {file} is damaged ({where}: {one_line(Exception(first['msg']))}); evaluate that model again"
        ) from error
    if fault := next((fault for each in results if (fault := each.fault())), None if results else "it has no results"):
        raise UserError(f"{setting}: {file} is damaged ({fault}); evaluate that model again")
    return results


def result_for(results: Sequence[Result], task: str, step: str, setting: str) -> Result:
    """Returns the result of a task in an earlier evaluation.

    Args:
        step: which one, where there are several: a number, or latest.

    Raises:
        UserError: there is none.
    """
    of_task = [each for each in results if each.task == task]
    if not of_task:
        tasks = ", ".join(dict.fromkeys(each.task for each in results))
        raise UserError(f"{setting}: it is an evaluation on {tasks}, not on {task}; give one on the same tasks")
    if step.isdigit():
        chosen = [each for each in of_task if each.step == int(step)]
    else:
        chosen = of_task[-1:] if step == "latest" or len(of_task) == 1 else []
    if not chosen:
        steps = ", ".join(str(each.step) for each in of_task)
        raise UserError(
            f"{setting} and baseline_step={step}: it is an evaluation of step {steps}; give baseline_step=STEP"
        )
    return chosen[0]
