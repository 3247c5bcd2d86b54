"""The reward for the answer: the task's own score."""

from collections.abc import Sequence

from tunix_grpo.tasks.base import Question, Task


def correctness_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    questions: Sequence[Question],
    task: Task,
) -> list[float]:
    """Returns the task's score of each completion, in [0, 1]; 1.0 is right."""
    return [task.score(completion, question) for completion, question in zip(completions, questions, strict=True)]
