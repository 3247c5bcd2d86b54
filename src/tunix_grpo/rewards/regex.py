"""The reward for a completion that a regular expression matches."""

from typing import Literal

from tunix_grpo.rewards.base import RewardFunction, Samples, Scored
from tunix_grpo.rewards.patterns import compiled


def build_regex_reward(
    *, pattern: str, match: Literal["search", "full"], value: float, timeout_s: float
) -> RewardFunction:
    """Returns the reward: `value` for each completion that matches, else 0.0.

    Its extra `too_slow` is 1.0 for a completion that took longer than the limit, which counts as no match, else 0.0.

    Args:
        pattern: of the package `regex`; flags stand in it, as in `(?si)`.
        match: search for it anywhere in the completion, or compare it with all of it.
        value: of a match, any finite number.
        timeout_s: seconds that a completion may take, above 0.

    Raises:
        UserError: the pattern is none.
    """
    expression = compiled(pattern, "reward.regex.pattern")
    matches = expression.search if match == "search" else expression.fullmatch

    def score(completion: str) -> Scored:
        try:
            return Scored(value if matches(completion, timeout=timeout_s) else 0.0, {"too_slow": 0.0})
        except TimeoutError:
            return Scored(0.0, {"too_slow": 1.0})

    def regex_reward(samples: Samples) -> list[Scored]:
        return [score(completion) for completion in samples.completions]

    return regex_reward
