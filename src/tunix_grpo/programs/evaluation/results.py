"""From answers to numbers: what one model's answers to the questions of one task come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from tunix_grpo.grpo.statistics import Estimate, majority_at_k, means, pass_at_k, powers_up_to, share
from tunix_grpo.programs.evaluation.answers import Line
from tunix_grpo.programs.evaluation.asked import Asked
from tunix_grpo.text.answers import answers_match

GREEDY, SAMPLED = "greedy", "sampled"


@dataclass(kw_only=True, slots=True, config=ConfigDict(extra="ignore", strict=True))
class Result:
    """What a model's answers to the Q questions of a task come to; evaluation.json holds it as it is here.

    Attributes:
        model: its name in the evaluation.
        step: of its run; None where it is of no run.
        task: its name in the evaluation.
        metrics: greedy or sampled -> name -> value, low and high (the 95 % interval).
        settings: that the answers belong to.
        questions: Q ids.
        greedy: bool[Q], the greedy answer is right.
        greedy_strict: bool[Q], it is right and in the form that was asked for; None where none is.
        samples: n, sampled answers to each question; 0 for none.
        right: int[Q], how many of them are right; none where there are no samples.
        right_strict: int[Q], how many are right and in form.
    """

    model: str
    step: int | None
    task: str
    metrics: dict[str, dict[str, dict[str, float | None]]]
    settings: dict[str, Any]
    questions: list[str]
    greedy: list[bool]
    greedy_strict: list[bool] | None
    samples: int
    right: list[int]
    right_strict: list[int] | None

    def fault(self) -> str | None:
        """Returns what makes no sense, as in a file that was changed by hand."""
        count, samples = len(self.questions), self.samples
        counts = [*self.right, *(self.right_strict or [])]
        columns = [self.greedy, self.greedy_strict] + ([self.right, self.right_strict] if samples else [])
        if count == 0 or len(set(self.questions)) < count:
            return "its questions are none, or not different from each other"
        if any(column is not None and len(column) != count for column in columns):
            return f"it has not one value for each of {count} questions"
        if any(not 0 <= number <= samples for number in counts):
            return f"it counts right answers that are not 0 to {samples}"
        return None


def result_of(
    asked: Asked, lines: Mapping[tuple[str, int | None], Line], *, model: str, step: int | None, samples: int, seed: int
) -> Result:
    """Returns what answers come to.

    Args:
        lines: id of the question and place of the sample -> answer; all that are asked for are there.
        samples: sampled answers to each question.
        seed: of the bootstrap.
    """
    greedy = [lines[name, None] for name in asked.ids]
    sampled = [[lines[name, sample] for sample in range(samples)] for name in asked.ids]
    strict = asked.form is not None
    metrics = {GREEDY: _greedy(greedy, strict, seed)}
    if samples:
        metrics[SAMPLED] = _sampled(sampled, strict, seed)
    return Result(
        model=model,
        step=step,
        task=asked.name,
        settings=asked.settings,
        questions=asked.ids,
        greedy=[line.right for line in greedy],
        greedy_strict=[line.strictly_right for line in greedy] if strict else None,
        samples=samples,
        right=[sum(line.right for line in group) for group in sampled] if samples else [],
        right_strict=[sum(line.strictly_right for line in group) for group in sampled] if samples and strict else None,
        metrics={kind: {name: each._asdict() for name, each in found.items()} for kind, found in metrics.items()},
    )


def _greedy(lines: Sequence[Line], strict: bool, seed: int) -> dict[str, Estimate]:
    count = len(lines)
    found = {"accuracy": share(sum(line.right for line in lines), count)}
    if strict:
        found["strict_accuracy"] = share(sum(line.strictly_right for line in lines), count)
    found["truncated"] = share(sum(line.truncated for line in lines), count)
    return found | _worth([[line] for line in lines], seed)


def _sampled(groups: Sequence[Sequence[Line]], strict: bool, seed: int) -> dict[str, Estimate]:
    samples = len(groups[0])
    right = [sum(line.right for line in group) for group in groups]
    found = {f"mean@{samples}": means(pass_at_k(right, samples, 1), seed, shares=True)}
    if strict:
        strictly = [sum(line.strictly_right for line in group) for group in groups]
        found[f"strict_mean@{samples}"] = means(pass_at_k(strictly, samples, 1), seed, shares=True)
    for k in powers_up_to(samples):
        found[f"pass@{k}"] = means(pass_at_k(right, samples, k), seed, shares=True)
    votes = [votes_of([line.answer for line in group]) for group in groups]
    for k in powers_up_to(samples)[1:]:
        won = [
            majority_at_k(vote, [line.right for line in group], k) for vote, group in zip(votes, groups, strict=True)
        ]
        found[f"maj@{k}"] = means(np.array(won), seed, shares=True)
    cut = [float(np.mean([line.truncated for line in group])) for group in groups]
    return found | {"truncated": means(np.array(cut), seed, shares=True)} | _worth(groups, seed)


def _worth(groups: Sequence[Sequence[Line]], seed: int) -> dict[str, Estimate]:
    """Returns lengths and rewards: means over questions of the means over their answers."""
    found = {"length": means(np.array([np.mean([line.length for line in group]) for group in groups]), seed)}
    columns = {"reward": [[line.reward for line in group] for group in groups]}
    for name in groups[0][0].rewards:
        columns[f"rewards/{name}"] = [[line.rewards.get(name) for line in group] for group in groups]
    for name, column in columns.items():
        values = np.array([_mean(group) for group in column])
        if not np.all(np.isnan(values)):
            found[name] = means(values, seed)
    return found


def _mean(values: Sequence[float | None]) -> float:
    """Returns the mean of the numbers that there are; NaN where there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def votes_of(answers: Sequence[str | None]) -> list[int | None]:
    """Returns a number for each answer, the same for those that mean the same: the place of the first of them."""
    votes: list[int | None] = []
    for place, answer in enumerate(answers):
        if answer is None:
            votes.append(None)
            continue
        firsts = (first for first in dict.fromkeys(votes) if first is not None)
        votes.append(next((first for first in firsts if answers_match(answer, str(answers[first]))), place))
    return votes
