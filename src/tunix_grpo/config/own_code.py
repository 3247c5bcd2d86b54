"""Whether a process may run code of the user's: a file that its settings, or those of another job of a sweep, name."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tunix_grpo.config import plugins
from tunix_grpo.config.loading import leaves

# Each may be FILE.py:NAME.
_REFERENCES = ("model.family", "task.name", "tracker.custom", "grpo.advantage", "grpo.ratio")


def may_run_own_code(config: object) -> bool:
    """Says whether this process may run a Python file of the user's.

    Args:
        config: the typed config of a program. The jobs of a sweep share a process, and the config is that of one job.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return True
    return any(_names_file(key, value) for key, value in leaves(config) if value is not None)


def _names_file(key: str, value: object) -> bool:
    if key.startswith("reward.") and key.endswith(".function"):
        return plugins.is_outside(str(value)) or key.startswith(("reward.custom.", "reward.functions."))
    further_task = key.startswith("evaluation.tasks.") and key.endswith(".name")
    return (key in _REFERENCES or further_task) and plugins.is_outside(str(value))
