"""Builds the selected rewards; `config/plugins.py` lists those of the package."""

from __future__ import annotations

from dataclasses import fields, replace

from tunix_grpo.config import OutsideReward, RewardLimits, RewardsConfig, WeightedReward, plugins, selected_rewards
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.custom import load_custom_reward, reward_of_columns


def build_rewards(config: RewardsConfig) -> list[Reward]:
    """Builds the selected rewards: the package's, those from outside, and `reward.custom` last.

    Raises:
        UserError: none is selected, two have one name, or the user's file cannot be used.
    """
    rewards = [_build(name, settings) for name, settings in selected_rewards(config).items() if name != "custom"]
    custom = config.custom
    if custom.path is not None and custom.function is not None:
        if custom.function in [reward.name for reward in rewards]:
            raise UserError(
                f"reward.custom.function={custom.function}: a selected reward has that name "
                "already; rename the function"
            )
        rewards.append(_limited(load_custom_reward(custom.path, custom.function, custom.weight), custom))
    if not rewards:
        raise UserError("no reward is selected; give reward=[format,correctness]")
    return rewards


def _build(name: str, settings: WeightedReward) -> Reward:
    if isinstance(settings, OutsideReward):
        function = plugins.resolve(settings.function, f"reward.{name}.function")
        return _limited(reward_of_columns(name, settings.weight, function), settings)
    build = plugins.resolve(plugins.REWARDS[name], f"reward.{name}")
    common = {each.name for each in fields(WeightedReward)}
    own = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in common}
    return _limited(Reward(name, settings.weight, build(**own)), settings)


def _limited(reward: Reward, limits: RewardLimits) -> Reward:
    return replace(reward, **{each.name: getattr(limits, each.name) for each in fields(RewardLimits)})
