"""Builds the task that the settings choose; `config/plugins.py` lists the tasks of the package."""

import re
from dataclasses import fields

from tunix_grpo.config import AskedTask, TaskConfig, plugins
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Task, TaskError
from tunix_grpo.tasks.golds import check_golds, show_golds


def build_task(config: AskedTask, seed: int) -> Task:
    """Builds the task that `config.name` says from the keys that its builder takes, and tests its gold answers.

    Args:
        config: the group `task` of the settings, or one of `evaluation.tasks`.
        seed: decides which questions are made up or taken, and the order of the training questions.

    Raises:
        TaskError: the data is missing or wrong, or too many of its answers can be matched by no completion; the message
            says what to do.
    """
    task = _built(config, seed)
    check_golds(task, config.max_unmatched)
    return task


def build_further_task(group: str, config: AskedTask, seed: int) -> Task:
    """Builds a task that a run is only evaluated on.

    Args:
        group: where its settings stand.

    Raises:
        TaskError: as `build_task`, with the keys of this group.
    """
    try:
        return build_task(config, seed)
    except UserError as error:
        keys = "|".join(each.name for each in fields(config))
        raise TaskError(re.sub(rf"(?<![\w./-])task\.(?=({keys})\b)", f"{group}.", str(error))) from error


def validate_task(config: TaskConfig, seed: int) -> Task:
    """Returns the task; prints what its gold answers are worth, and tests them as for a run.

    Raises:
        TaskError: as `build_task`.
    """
    task = _built(config, seed)
    show_golds(task)
    check_golds(task, config.max_unmatched)
    return task


def _built(config: AskedTask, seed: int) -> Task:
    builder = plugins.resolve(plugins.task_reference(config.name), "task.name")
    common = {each.name for each in fields(TaskConfig)}
    own = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in common}
    if not plugins.is_outside(config.name):
        return builder(seed=seed, **own)
    with plugins.Reporting(lambda what: TaskError(f"task.name={config.name} raised {what}")):
        return builder(seed=seed, **own)
