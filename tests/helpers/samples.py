"""Completions as rewards are given them."""

from collections.abc import Sequence

from tunix_grpo.rewards.base import Samples
from tunix_grpo.tasks.base import ExactTask, Question, Task


def samples_of(
    completions: Sequence[str], questions: Sequence[Question], task: Task | None = None, **changed
) -> Samples:
    """Returns completions of questions, one each unless `num_generations` is given; lengths are in letters."""
    content = {
        "prompts": [f"<user>{question.question}" for question in questions],
        "completions": list(completions),
        "questions": list(questions),
        "task": task or ExactTask("questions", questions, questions),
        "token_lengths": [len(text) for text in completions],
        "step": 1,
        "num_generations": 1,
        "max_tokens": 100,
    }
    return Samples(**content | changed)
