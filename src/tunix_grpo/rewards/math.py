"""The reward for an answer in LaTeX mathematics, compared by math-verify whatever the task's own score is."""

from tunix_grpo.rewards.base import RewardFunction, Samples
from tunix_grpo.tasks.graders import MathGrader


def build_math_reward(*, timeout_s: float) -> RewardFunction:
    """Returns the reward: 1.0 for each completion whose answer is the gold answer, else 0.0.

    Args:
        timeout_s: seconds that a judgement may take, above 0; a longer one counts as wrong.
    """
    grade = MathGrader(timeout_s)

    def math_reward(samples: Samples) -> list[float]:
        pairs = zip(samples.completions, samples.questions, strict=True)
        return [float(grade(completion, question.answer)) for completion, question in pairs]

    return math_reward
