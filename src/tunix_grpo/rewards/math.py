"""The reward for an answer in LaTeX mathematics, compared by math-verify whatever the task's own score is."""

from tunix_grpo.rewards.base import Failure, RewardFunction, Samples
from tunix_grpo.tasks.graders import MathGrader


def build_math_reward(*, timeout_s: float, workers: int) -> RewardFunction:
    """Returns the reward: 1.0 for each completion whose answer is the gold answer, else 0.0.

    Args:
        timeout_s: seconds that a judgement may take, above 0; a longer one counts as wrong.
        workers: processes that judge side by side, 1 or more.
    """
    grader = MathGrader(timeout_s, workers)

    def math_reward(samples: Samples) -> list[float | Failure]:
        golds = [question.answer for question in samples.questions]
        judged = grader.judge(list(zip(samples.completions, golds, strict=True)), samples.deadline)
        return [_LATE if each is None else float(each) for each in judged]

    return math_reward


_LATE = Failure("timeout", "was not judged in time")
