"""Builds the selected rewards; `config/plugins.py` lists those of the package."""

from __future__ import annotations

from dataclasses import fields

from tunix_grpo.config import OutsideReward, RewardsConfig, WeightedReward, plugins
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.custom import load_custom_reward, reward_of_columns


def build_rewards(config: RewardsConfig) -> list[Reward]:
    """Builds the selected rewards: the package's, those from outside, and `reward.custom` last.

    Raises:
        UserError: none is selected, two have one name, or the user's file cannot be used.
    """
    names = [*plugins.REWARDS, *(each.name for each in fields(config) if each.name not in plugins.REWARDS)]
    selected = {name: getattr(config, name, None) for name in names if name != "custom"}
    rewards = [_build(name, settings) for name, settings in selected.items() if settings is not None]
    custom = config.custom
    if custom.path is not None and custom.function is not None:
        if custom.function in [reward.name for reward in rewards]:
            raise UserError(
                f"reward.custom.function={custom.function}: a selected reward has that name "
                "already; rename the function"
            )
        rewards.append(load_custom_reward(custom.path, custom.function, custom.weight))
    if not rewards:
        raise UserError("no reward is selected; give reward=[format,correctness]")
    return rewards


def _build(name: str, settings: WeightedReward) -> Reward:
    if isinstance(settings, OutsideReward):
        function = plugins.resolve(settings.function, f"reward.{name}.function")
        return reward_of_columns(name, settings.weight, function)
    function = plugins.resolve(plugins.REWARDS[name], f"reward.{name}")
    own = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name != "weight"}
    return Reward(name, settings.weight, function(**own) if own else function)
