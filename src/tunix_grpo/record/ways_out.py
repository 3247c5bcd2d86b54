"""Which settings make a task's questions easier or harder."""

from __future__ import annotations

from tunix_grpo.config import TaskConfig

# Data sets of reasoning_gym whose own settings are known by name here; the others have levels.
_EASIEST_SETTINGS = {"chain_sum": "{min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}"}


def easier_questions(task: TaskConfig) -> str:
    """Returns how to get easier questions than the task's, with the settings to give."""
    if task.name == "arithmetic":
        return f"easier questions (task.max_operand={max(2, _max_operand(task) // 10)})"
    if task.name == "reasoning_gym":
        settings = _EASIEST_SETTINGS.get(getattr(task, "dataset", ""))
        return f'easier questions ("task.settings={settings}")' if settings else "easier questions (task.level=0)"
    if task.name == "gsm8k":
        return "easier questions (another task.path=FILE, or task=arithmetic)"
    return "easier questions (another task.path=FILE)" if task.name == "jsonl" else "easier questions"


def harder_questions(task: TaskConfig) -> str:
    """Returns how to get harder questions than the task's, with the settings to give."""
    if task.name == "arithmetic":
        return f"harder questions (task.max_operand={10 * _max_operand(task)})"
    if task.name == "reasoning_gym":
        return "harder questions (a higher task.level=NUMBER, or task.settings={NAME: VALUE})"
    return "harder questions (another task.path=FILE)" if task.name in ("gsm8k", "jsonl") else "harder questions"


def _max_operand(task: TaskConfig) -> int:
    return getattr(task, "max_operand", 100)
