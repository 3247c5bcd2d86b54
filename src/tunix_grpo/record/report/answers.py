"""What evaluations have left in a run's folder, so that runs can be compared on the questions that they share."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo.files import Json, read_json

_EVALUATIONS = "evaluations/*/evaluation.json"  # as scripts/evaluate.py writes them for a run, a folder for each


def greedy_answers(run: Path) -> dict[str, dict[str, bool]]:
    """Returns task -> id of a question -> whether its greedy answer is right, of the latest step that was evaluated.

    Raises:
        UserError: a file is damaged.
    """
    latest: dict[str, tuple[int, dict[str, bool]]] = {}
    for file in sorted(run.glob(_EVALUATIONS)):
        results = read_json(file).get("results")
        for result in results if isinstance(results, list) else []:
            if not isinstance(result, dict):
                continue
            task, step, answers = result.get("task"), result.get("step"), _answers(result)
            if isinstance(task, str) and isinstance(step, int) and step >= latest.get(task, (0, {}))[0] and answers:
                latest[task] = step, answers
    return {task: answers for task, (_, answers) in latest.items()}


def _answers(result: dict[str, Json]) -> dict[str, bool]:
    """Returns what a result says of each question; nothing where that makes no sense."""
    questions, greedy = result.get("questions"), result.get("greedy")
    if not (isinstance(questions, list) and isinstance(greedy, list) and len(questions) == len(greedy)):
        return {}
    return {str(question): right is True for question, right in zip(questions, greedy, strict=True)}
