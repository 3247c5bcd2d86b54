"""The penalty for a completion that comes close to the largest length, in tokens."""

from tunix_grpo.rewards.base import RewardFunction, Samples

# Of the largest length, where `cache` is null; DAPO takes 4,096 of 20,480 tokens.
_CACHE_SHARE = 0.2


def build_overlong_reward(*, max_length: int | None, cache: int | None) -> RewardFunction:
    """Returns the penalty: 0 up to `max_length - cache` tokens, from there linear to -1 at `max_length` and beyond.

    DAPO's soft overlong punishment, arXiv:2503.14476.

    Args:
        max_length: tokens, the end-of-turn token included, 1 or more; None is generation.max_generation_steps.
        cache: the tokens over which the penalty grows, 0 or more, at most `max_length`; None is a fifth of it.
    """

    def overlong_reward(samples: Samples) -> list[float]:
        longest = samples.max_tokens if max_length is None else max_length
        width = longest * _CACHE_SHARE if cache is None else min(cache, longest)
        return [_penalty(length - longest + width, width) for length in samples.token_lengths]

    return overlong_reward


def _penalty(beyond: float, width: float) -> float:
    """Returns the penalty of a length that is so many tokens beyond where it begins."""
    if beyond <= 0:
        return 0.0
    return -min(1.0, beyond / width) if width > 0 else -1.0
