"""The tasks, by name. A new one is a small file with a builder, and an entry in `TASKS`."""

from collections.abc import Callable

from tunix_grpo.config import TaskConfig
from tunix_grpo.tasks.arithmetic import build_arithmetic
from tunix_grpo.tasks.base import Task, TaskError
from tunix_grpo.tasks.gsm8k import build_gsm8k
from tunix_grpo.tasks.jsonl import build_jsonl
from tunix_grpo.tasks.reasoning_gym_task import build_reasoning_gym

TASKS: dict[str, Callable[[TaskConfig, int], Task]] = {
    "arithmetic": build_arithmetic,
    "gsm8k": build_gsm8k,
    "jsonl": build_jsonl,
    "reasoning_gym": build_reasoning_gym,
}


def build_task(config: TaskConfig, seed: int) -> Task:
    """Builds the task that `config.name` says.

    Args:
        config: the group `task` of the settings.
        seed: decides which questions are made up or taken, and the order of the training questions.

    Raises:
        TaskError: the data is missing or wrong; the message says what to do.
    """
    if config.name not in TASKS:
        raise TaskError(f"task.name={config.name} is unknown; it is one of {', '.join(TASKS)}")
    return TASKS[config.name](config, seed)
