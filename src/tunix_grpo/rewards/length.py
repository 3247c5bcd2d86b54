"""The reward for a completion of a wanted length, in tokens."""

from tunix_grpo.rewards.base import RewardFunction, Samples


def build_length_reward(*, target: int) -> RewardFunction:
    """Returns the reward: how far each completion is from the wanted length, as a share of it, from -1 to 0.

    The distance that LCPO takes off the reward (arXiv:2503.04697), measured in targets and bounded by one.

    Args:
        target: tokens, the end-of-turn token included, 1 or more.
    """

    def length_reward(samples: Samples) -> list[float]:
        return [-min(1.0, abs(length - target) / target) for length in samples.token_lengths]

    return length_reward
