"""What evaluations have written of each question, so that runs can be compared on the questions that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tunix_grpo.files import Json, read_json_lines

EVALUATIONS = "evaluations"
"""In a run's folder: a folder for every evaluation, named after its step."""
_ANSWERS = "answers/*.jsonl"  # below it, a file for every task: a line for every answer


def greedy_answers(run: Path) -> dict[str, dict[str, bool]]:
    """Returns task -> question -> whether the greedy answer is right, of the latest step of a run that was evaluated.

    A line has `question_id` or `question`, `sample` (null for the greedy answer) and `right`, or a `score` of which 1
    is right; other lines say nothing.

    Raises:
        UserError: a file is damaged.
    """
    found: dict[str, dict[str, bool]] = {}
    for folder in sorted((run / EVALUATIONS).glob("*"), key=_by_step):  # a later one takes the place of an earlier one
        for file in sorted(folder.glob(_ANSWERS)):
            answers = dict(_greedy(file))
            if answers:
                found[file.stem] = answers
    return found


def _by_step(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else -1, folder.name)


def _greedy(file: Path) -> Iterator[tuple[str, bool]]:
    for line in read_json_lines(file):
        question, right = line.get("question_id", line.get("question")), _right(line)
        if question is not None and right is not None and line.get("sample") is None:
            yield str(question), right


def _right(line: Mapping[str, Json]) -> bool | None:
    if isinstance(right := line.get("right"), bool):
        return right
    score = line.get("score")
    return score == 1 if isinstance(score, int | float) else None
