"""Greedy answers to held-out questions: what a model can do, apart from the noise of sampling."""

from __future__ import annotations

import dataclasses
import itertools
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


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Greedy results on held-out questions.

    Attributes:
        accuracy: share of questions answered right (score 1), in [0, 1].
        reward: mean total reward; None where it could be had of no completion.
        truncated: share of completions that ran into the token limit.
        seconds: that it took.
    """

    accuracy: float
    reward: float | None
    truncated: float
    seconds: float

    def metrics(self, prefix: str) -> dict[str, float]:
        """Returns the metrics by the names of `record.metrics.METRICS`, which begin with the prefix of their task."""
        return {
            f"{prefix}accuracy": self.accuracy,
            **({} if self.reward is None else {f"{prefix}reward": self.reward}),
            f"{prefix}truncated": self.truncated,
        }


class Answer(Protocol):
    """Completions on their way."""

    def rollout(self) -> Rollout: ...


class Answering(Protocol):
    """What is evaluated: a `Trainer`, or whatever answers and scores like one."""

    def start(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int, width: int | None = None
    ) -> Answer: ...

    def reward(self, samples: Samples) -> RewardTable: ...


@dataclasses.dataclass(slots=True)
class _Tally:
    """What is known of each question so far; a reward that could not be had is left out."""

    right: list[bool] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    truncated: list[bool] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Asks every held-out question once, greedily.

    Attributes:
        prompts: the held-out set.
        task: says whether an answer is right.
        sampling: one greedy completion.
        batch_size: prompts at once; the last batch is filled up, so that one program serves all.
        name: of a further task; empty for the run's own.
        width: tokens that prompts are padded to; None is what training pads its own to.
        rewarded: whether the rewards can score this task.
    """

    prompts: PromptSet
    task: Task
    sampling: Sampling
    batch_size: int
    name: str = ""
    width: int | None = None
    rewarded: bool = True

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"eval/{self.name}/" if self.name else "eval/"

    def run(self, model: Answering, step: int) -> Evaluation:
        """Evaluates a model.

        Args:
            step: the step that the model is of.
        """
        begun = time.perf_counter()
        tally = _Tally()
        starts = range(0, len(self.prompts), self.batch_size)
        batches = [self.prompts.batch(range(s, min(s + self.batch_size, len(self.prompts))), 1) for s in starts]
        drawing = self._start(model, batches[0], step)
        for batch, following in itertools.zip_longest(batches, batches[1:]):
            rollout = drawing.rollout()
            if following is not None:  # the device works while the host scores
                drawing = self._start(model, following, step)
            self._score(model, batch, rollout, step, tally)
        return Evaluation(
            accuracy=float(np.mean(tally.right)),
            reward=float(np.mean(tally.rewards)) if tally.rewards else None,
            truncated=float(np.mean(tally.truncated)),
            seconds=time.perf_counter() - begun,
        )

    def _start(self, model: Answering, batch: Batch, step: int) -> Answer:
        filled = batch.ids + [batch.ids[-1]] * (self.batch_size - len(batch))
        return model.start(filled, self.sampling, step, self.width)

    def _score(self, model: Answering, batch: Batch, rollout: Rollout, step: int, tally: _Tally) -> None:
        count = len(batch)
        samples = Samples(
            prompts=batch.texts,
            completions=rollout.texts[:count],
            questions=batch.questions,
            task=self.task,
            token_lengths=rollout.lengths.tolist()[:count],
            step=step,
            num_generations=1,
            max_tokens=self.sampling.max_tokens,
            token_ids=rollout.token_ids[:count],
        )
        pairs = zip(samples.completions, samples.questions, strict=True)
        tally.right += [self.task.score(text, asked) == 1.0 for text, asked in pairs]
        if self.rewarded:
            table = model.reward(samples)
            tally.rewards += [value for row, value in enumerate(table.total) if row not in table.skipped]
        tally.truncated += list(rollout.truncated[:count])


def batch_size_for(wanted: int, num_questions: int, data_parallel_devices: int) -> int:
    """Returns how many questions are asked at once: as many as wanted or as there are, evenly over the devices."""
    per_device = math.ceil(min(wanted, num_questions) / data_parallel_devices)
    return per_device * data_parallel_devices
