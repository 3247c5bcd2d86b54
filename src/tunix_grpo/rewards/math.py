"""The reward for an answer in LaTeX mathematics, compared by math-verify whatever the task's own score is."""

from tunix_grpo.rewards.base import Failure, RewardFunction, Samples
from tunix_grpo.tasks.graders import MathGrader


class MathReward:
    """1.0 for each completion whose answer is the gold answer, else 0.0."""

    limits_itself = True  # what judges is killed at the deadline
    by_row = True

    def __init__(self, grader: MathGrader) -> None:
        """Takes what judges."""
        self._grader = grader

    def __call__(self, samples: Samples) -> list[float | Failure]:
        """Returns the values."""
        golds = [question.answer for question in samples.questions]
        judged = self._grader.judge(list(zip(samples.completions, golds, strict=True)), samples.deadline)
        return [_LATE if each is None else float(each) for each in judged]


def build_math_reward(*, timeout_s: float, workers: int) -> RewardFunction:
    """Returns the reward.

    Args:
        timeout_s: seconds that a judgement may take, above 0; a longer one counts as wrong.
        workers: processes that judge side by side, 1 or more.
    """
    return MathReward(MathGrader(timeout_s, workers))


_LATE = Failure("timeout", "was not judged in time")
