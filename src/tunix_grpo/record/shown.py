"""Which completions of a step a person sees, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tunix_grpo.console import ShownCompletion, ShownGroup

if TYPE_CHECKING:  # whoever wants names of the record is not to load jax
    from tunix_grpo.grpo.step import StepResult


def shown_groups(step: int, done: StepResult, count: int) -> list[ShownGroup]:
    """Returns the groups whose rewards lie furthest apart, of equals the first: their best and worst completion.

    Args:
        count: groups, 0 or more.
    """
    size = done.batch.num_generations
    rewards = np.asarray(done.rewards.total, np.float64).reshape(-1, size)
    spread = rewards.max(axis=1) - rewards.min(axis=1)
    spread[[row // size for row in done.rewards.skipped]] = -1.0  # they are not trained on
    chosen = np.argsort(-spread, kind="stable")[:count]
    return [_shown(step, done, int(group), rewards[group]) for group in chosen]


def _shown(step: int, done: StepResult, group: int, rewards: np.ndarray) -> ShownGroup:
    size, question = len(rewards), done.batch.questions[group]
    best, worst = int(rewards.argmax()), int(rewards.argmin())
    labels = {best: "best", worst: "worst"} if rewards[best] > rewards[worst] else {0: f"all {size} alike, one"}
    return ShownGroup(
        title=f"step {step}, group {group + 1} of {len(done.batch)}",
        question=question.whole(),
        answer=question.answer,
        completions=[_completion(done, group * size + place, label) for place, label in labels.items()],
    )


def _completion(done: StepResult, row: int, label: str) -> ShownCompletion:
    parts = {name: column[row] for name, column in done.rewards.parts.items()}
    words = ", ".join(f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in parts.items())
    cut = ", truncated" if done.rollout.truncated[row] else ""
    worth = f"reward {done.rewards.total[row]:.3g} ({words}), {done.rollout.lengths[row]} tokens{cut}"
    return ShownCompletion(label, worth, done.rollout.texts[row])
