"""Reward settings and functions of a user's, as a run would have them."""

from pathlib import Path

from tunix_grpo.config import CustomReward, RewardLimits, RewardsConfig
from tunix_grpo.config.open_groups import REWARD
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.builders import build_rewards

LIMITS = {"time_limit": None, "on_error": "stop", "on_timeout": "stop"}
_FURTHER = {"math": {"timeout_s": 5.0, "workers": 2}, "format": {"reasoning": "reasoning", "answer": "answer"}}
OWN = {**LIMITS, "per": "auto", "messages": False, "isolate": False}


def custom(path: Path | None = None, function: str | None = None, weight: float = 1.0, **changed) -> CustomReward:
    """Returns `reward.custom`."""
    return CustomReward(path=str(path) if path else None, function=function, weight=weight, **OWN | changed)


def reward_settings(*, own: CustomReward | None = None, workers: int = 1, functions=(), **weights) -> RewardsConfig:
    """Returns the group `reward` with rewards of the package by name and weight.

    Args:
        functions: name -> what is given of a named function.
    """
    content = {
        name: None if weight is None else {"weight": weight, **LIMITS, **_FURTHER.get(name, {})}
        for name, weight in weights.items()
    }
    content |= {"limits": LIMITS, "workers": workers, "functions": dict(functions), "normalisation": "sum"}
    content["custom"] = {"path": None, "function": None, "weight": 1.0, **OWN}
    section = REWARD.section(content)
    kinds = {name: each.type for name, each in section.__dataclass_fields__.items()}
    named = {name: each for name, each in content["functions"].items()}
    return section(
        **{name: content[name] for name in weights},
        normalisation=content["normalisation"],
        limits=RewardLimits(**LIMITS),
        workers=workers,
        custom=own or custom(),
        functions=kinds["functions"](**named),
    )


def own_reward(folder: Path, source: str, function: str = "own", workers: int = 1, **changed) -> Reward:
    """Writes a file of a user's and returns the reward that a function of it is."""
    path = folder / "my_rewards.py"
    path.write_text(source)
    (reward,) = build_rewards(reward_settings(own=custom(path, function, **changed), workers=workers))
    return reward
