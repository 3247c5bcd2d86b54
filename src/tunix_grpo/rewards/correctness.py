"""The reward for the answer: the task's own score."""

from tunix_grpo.rewards.base import RewardFunction, Samples

CORRECTNESS = "correctness"
"""Its name among the parts of a total."""


def build_correctness_reward() -> RewardFunction:
    """Returns the reward: the task's score of each completion, in [0, 1]; 1.0 is right."""
    return _task_scores


def _task_scores(samples: Samples) -> list[float]:
    return [
        samples.task.score(completion, question)
        for completion, question in zip(samples.completions, samples.questions, strict=True)
    ]
