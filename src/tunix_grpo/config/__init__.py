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
    DataConfig,
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
from tunix_grpo.config.sft import RunConfig, SftConfig

__all__ = [
    "Config",
    "CustomReward",
    "DataConfig",
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
    "RunConfig",
    "SchedulerConfig",
    "SftConfig",
    "TaskConfig",
    "TrackerConfig",
    "TrainerConfig",
    "TrainingConfig",
    "UserReward",
    "WeightedReward",
    "load",
    "selected_rewards",
]
