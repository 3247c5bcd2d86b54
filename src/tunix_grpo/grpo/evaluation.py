"""Greedy answers to held-out questions: what a model can do, apart from the noise of sampling."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.rollout import Rollout
from tunix_grpo.rewards.base import Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch, PromptSet


class Recording(Protocol):
    """What metrics are handed to: the record of a run, the progress on the screen."""

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Greedy results on held-out questions.

    Attributes:
        accuracy: share of questions answered right (score 1), in [0, 1].
        reward: mean total reward.
        truncated: share of completions that ran into the token limit.
        seconds: that it took.
    """

    accuracy: float
    reward: float
    truncated: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Returns the metric names of `record.metrics.METRICS`."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/reward": self.reward,
            "eval/truncated": self.truncated,
            "timing/eval": self.seconds,
        }

    def record(self, step: int, *places: Recording) -> float:
        """Hands the metrics of a step's evaluation to everything that keeps or shows them; returns the accuracy."""
        for place in places:
            place.log_metrics(step, self.metrics())
        return self.accuracy


class Answering(Protocol):
    """What is evaluated: a `Trainer`, or whatever answers and scores like one."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Rollout: ...

    def reward(self, samples: Samples) -> RewardTable: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Asks every held-out question once, greedily.

    Attributes:
        prompts: the held-out set.
        task: says whether an answer is right.
        sampling: one greedy completion.
        batch_size: prompts at once; the last batch is filled up, so that one program serves all.
    """

    prompts: PromptSet
    task: Task
    sampling: Sampling
    batch_size: int

    def run(self, model: Answering, step: int) -> Evaluation:
        """Evaluates a model.

        Args:
            step: the step that the model is of.
        """
        begun = time.perf_counter()
        right: list[bool] = []
        rewards: list[float] = []
        truncated: list[bool] = []
        for start in range(0, len(self.prompts), self.batch_size):
            batch = self.prompts.batch(range(start, min(start + self.batch_size, len(self.prompts))), 1)
            filled = batch.ids + [batch.ids[-1]] * (self.batch_size - len(batch))
            rollout = model.sample(filled, self.sampling, step)
            texts = rollout.texts[: len(batch)]
            right += [self.task.score(text, asked) == 1.0 for text, asked in zip(texts, batch.questions, strict=True)]
            rewards += model.reward(self._samples(batch, texts, rollout.lengths.tolist(), step)).total
            truncated += list(rollout.truncated[: len(batch)])
        return Evaluation(
            accuracy=float(np.mean(right)),
            reward=float(np.mean(rewards)),
            truncated=float(np.mean(truncated)),
            seconds=time.perf_counter() - begun,
        )

    def _samples(self, batch: Batch, texts: list[str], lengths: Sequence[int], step: int) -> Samples:
        return Samples(
            prompts=batch.texts,
            completions=texts,
            questions=batch.questions,
            task=self.task,
            token_lengths=lengths[: len(texts)],
            step=step,
            num_generations=1,
            max_tokens=self.sampling.max_tokens,
        )


def batch_size_for(wanted: int, num_questions: int, data_parallel_devices: int) -> int:
    """Returns how many questions are asked at once: as many as wanted or as there are, evenly over the devices."""
    per_device = math.ceil(min(wanted, num_questions) / data_parallel_devices)
    return per_device * data_parallel_devices
