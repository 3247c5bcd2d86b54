"""Every setting of a run: its type, its meaning, its range, and `load()`, which checks them all."""

from tunix_grpo.config.loading import load
from tunix_grpo.config.parts import (
    CustomReward,
    NamedFunction,
    OutsideReward,
    Policy,
    RewardLimits,
    RewardsConfig,
    TaskConfig,
    TrackerConfig,
    UserReward,
    WeightedReward,
    selected_rewards,
)
from tunix_grpo.config.schema import (
    Config,
    EvaluationConfig,
    GenerationConfig,
    GrpoConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainerConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "CustomReward",
    "EvaluationConfig",
    "GenerationConfig",
    "GrpoConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "NamedFunction",
    "OutsideReward",
    "Policy",
    "RewardLimits",
    "RewardsConfig",
    "SchedulerConfig",
    "TaskConfig",
    "TrackerConfig",
    "TrainerConfig",
    "TrainingConfig",
    "UserReward",
    "WeightedReward",
    "load",
    "selected_rewards",
]
