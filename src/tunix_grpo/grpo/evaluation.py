"""What a set of completions is worth: rewards into metrics, and the held-out evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Greedy results on held-out questions.

    Attributes:
        accuracy: share of questions answered right (score 1), in [0, 1].
        reward: mean total reward.
        truncated: share of completions that ran into the token limit.
    """

    accuracy: float
    reward: float
    truncated: float

    def metrics(self) -> dict[str, float]:
        """Returns the metric names of `trackers.METRICS`."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/reward": self.reward,
            "eval/truncated": self.truncated,
        }


def evaluate(prompts, task, generate: Callable, score: Callable, batch_size: int) -> Evaluation:
    """Answers every question once, greedily.

    Args:
        prompts: has questions, texts and ids, row by row.
        task: has score(completion, question) in [0, 1].
        generate: list of token ids -> an object with texts, lengths and truncated.
        score: (prompt texts, completions, questions) -> list of total rewards.
        batch_size: prompts at once; the last batch is filled up, so that one program serves all.
    """
    right, rewards, truncated = [], [], []
    for start in range(0, len(prompts), batch_size):
        rows = range(start, min(start + batch_size, len(prompts)))
        ids = [prompts.ids[row] for row in rows]
        rollout = generate(ids + [ids[-1]] * (batch_size - len(ids)))
        texts = rollout.texts[: len(ids)]
        questions = [prompts.questions[row] for row in rows]
        right += [task.score(text, question) == 1.0 for text, question in zip(texts, questions, strict=True)]
        rewards += score([prompts.texts[row] for row in rows], texts, questions)
        truncated += list(rollout.truncated[: len(ids)])
    return Evaluation(float(np.mean(right)), float(np.mean(rewards)), float(np.mean(truncated)))
