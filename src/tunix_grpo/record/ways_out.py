"""Which settings make a task's questions easier or harder."""

from __future__ import annotations

from tunix_grpo.config import TaskConfig

# Data sets of reasoning_gym whose own settings are known here; the others have levels.
_EASIEST_SETTINGS = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}


def easier_questions(task: TaskConfig) -> str:
    """Returns how to get easier questions than the task's, with the settings to give."""
    if task.name == "arithmetic":
        return f"easier questions (task.max_operand={max(2, _max_operand(task) // 10)})"
    if task.name == "reasoning_gym":
        return f"easier questions ({_easier_in_reasoning_gym(task)})"
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


def _easier_in_reasoning_gym(task: TaskConfig) -> str:
    if getattr(task, "mixture", None) is not None:
        return "another task.mixture"
    given = getattr(task, "settings", None) or {}
    easiest = _EASIEST_SETTINGS.get(getattr(task, "dataset", ""))
    if easiest is not None and dict(given) != easiest:
        return f'"task.settings={{{", ".join(f"{name}: {value}" for name, value in easiest.items())}}}"'
    if easiest is None and not given and getattr(task, "level", None) != 0:  # given settings win over a level's
        return "task.level=0"
    return "other task.settings={NAME: VALUE}, or another task.dataset=NAME"


def _max_operand(task: TaskConfig) -> int:
    return getattr(task, "max_operand", 100)
