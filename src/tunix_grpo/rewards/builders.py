"""The rewards, by name. A new one is a small file with a function, and an entry in `REWARDS`."""

from __future__ import annotations

from dataclasses import asdict

from tunix_grpo.config import RewardsConfig
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward, RewardFunction
from tunix_grpo.rewards.correctness import correctness_reward
from tunix_grpo.rewards.custom import load_custom_reward
from tunix_grpo.rewards.format import format_reward

REWARDS: dict[str, RewardFunction] = {
    "format": format_reward,
    "correctness": correctness_reward,
}


def build_rewards(config: RewardsConfig) -> list[Reward]:
    """Builds the selected rewards, the user's own one last.

    Raises:
        UserError: none is selected, two have one name, or the user's file cannot be used.
    """
    settings = asdict(config)
    rewards = [
        Reward(name, settings[name]["weight"], function)
        for name, function in REWARDS.items()
        if settings[name] is not None
    ]
    custom = config.custom
    if custom.path is not None:
        if custom.function in [reward.name for reward in rewards]:
            raise UserError(
                f"reward.custom.function={custom.function}: a selected reward has that name "
                "already; rename the function"
            )
        function = load_custom_reward(custom.path, custom.function)
        rewards.append(Reward(custom.function, custom.weight, function))
    if not rewards:
        raise UserError("no reward is selected; give reward=[format,correctness]")
    return rewards
