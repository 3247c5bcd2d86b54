"""Builds the selected rewards; `config/plugins.py` lists those of the package."""

from __future__ import annotations

from dataclasses import fields, replace

from tunix_grpo.config import (
    CustomReward,
    NamedFunction,
    OutsideReward,
    RewardLimits,
    RewardsConfig,
    WeightedReward,
    plugins,
    selected_rewards,
)
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.custom import outside_reward, user_reward

# What a function of the package says of itself; see `Reward`.
_OF_A_FUNCTION = ("columns", "limits_itself", "by_row")


def build_rewards(config: RewardsConfig) -> list[Reward]:
    """Builds the selected rewards: the package's, those from outside, the user's functions, `reward.custom` last.

    Raises:
        UserError: none is selected, two have one name, or the user's file cannot be used.
    """
    rewards = [_build(name, settings, config.workers) for name, settings in selected_rewards(config).items()]
    if not rewards:
        raise UserError("no reward is selected; give reward=[format,correctness]")
    if rewards[-1].name in [reward.name for reward in rewards[:-1]]:  # the others have the names of their settings
        raise UserError(
            f"reward.custom.function={config.custom.function}: a selected reward has that name "
            "already; rename the function"
        )
    return rewards


def _build(name: str, settings: WeightedReward, workers: int) -> Reward:
    match settings:
        case OutsideReward():
            reward = outside_reward(name, settings, workers)
        case NamedFunction():
            setting = f"reward.functions.{name}"
            reward = user_reward(name, settings, settings.path, settings.function, setting, workers)
        case CustomReward(path=path, function=str(function)):
            own_name = function.replace(":", ".").rpartition(".")[2]
            reward = user_reward(own_name, settings, path, function, "reward.custom", workers)
        case _:
            build = plugins.resolve(plugins.REWARDS[name], f"reward.{name}")
            common = {each.name for each in fields(WeightedReward)}
            own = {each.name: getattr(settings, each.name) for each in fields(settings) if each.name not in common}
            function = build(**own)
            known = {each: getattr(function, each) for each in _OF_A_FUNCTION if hasattr(function, each)}
            reward = Reward(name, settings.weight, function, **known)
    return replace(reward, **{each.name: getattr(settings, each.name) for each in fields(RewardLimits)})
