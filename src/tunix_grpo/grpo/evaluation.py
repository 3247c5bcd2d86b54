"""Greedy answers to held-out questions: what a model can do, apart from the noise of sampling."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import Protocol

import numpy as np

from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo.answering import Answered, Answerer, Request
from tunix_grpo.rewards.base import Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import PromptSet


class Recording(Protocol):
    """What metrics are handed to: the record of a run, the progress on the screen."""

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None: ...


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

    def metrics(self) -> dict[str, float]:
        """Returns the metric names of `record.metrics.METRICS`."""
        return {
            "eval/accuracy": self.accuracy,
            **({} if self.reward is None else {"eval/reward": self.reward}),
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

    def answerer(self, rows: int) -> Answerer: ...

    def reward(self, samples: Samples) -> RewardTable: ...


@dataclasses.dataclass(frozen=True)
class _Judged:
    """An answer, judged; `reward` is None where it could not be had."""

    right: bool
    reward: float | None
    truncated: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Asks every held-out question once, greedily.

    Attributes:
        prompts: the held-out set.
        task: says whether an answer is right.
        sampling: one greedy completion.
        batch_size: questions that are answered at once, and answers that are scored at once.
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
        requests = [Request(number, 0, prompt) for number, prompt in enumerate(self.prompts.ids)]
        answers = model.answerer(self.batch_size).answers(requests, self.sampling)
        judged: dict[int, _Judged] = {}
        while answered := list(itertools.islice(answers, self.batch_size)):
            judged |= self._judged(model, answered, step)
        # In the order of the questions: a mean depends on it in its last digit.
        each = [judged[number] for number in range(len(self.prompts))]
        rewards = [one.reward for one in each if one.reward is not None]
        return Evaluation(
            accuracy=float(np.mean([one.right for one in each])),
            reward=float(np.mean(rewards)) if rewards else None,
            truncated=float(np.mean([one.truncated for one in each])),
            seconds=time.perf_counter() - begun,
        )

    def _judged(self, model: Answering, answered: list[Answered], step: int) -> dict[int, _Judged]:
        """Returns what answers are worth, by question."""
        numbers = [one.request.question for one in answered]
        questions = [self.prompts.questions[number] for number in numbers]
        texts = [one.text for one in answered]
        right = [self.task.score(text, asked) == 1.0 for text, asked in zip(texts, questions, strict=True)]
        table = model.reward(
            Samples(
                prompts=[self.prompts.texts[number] for number in numbers],
                completions=texts,
                questions=questions,
                task=self.task,
                token_lengths=[len(one.token_ids) for one in answered],
                step=step,
                num_generations=1,
                max_tokens=self.sampling.max_tokens,
                token_ids=[one.token_ids for one in answered],
            )
        )
        rewards = [None if row in table.skipped else value for row, value in enumerate(table.total)]
        return {
            number: _Judged(is_right, reward, one.truncated)
            for number, is_right, reward, one in zip(numbers, right, rewards, answered, strict=True)
        }


def batch_size_for(wanted: int, num_questions: int, data_parallel_devices: int) -> int:
    """Returns how many questions are asked at once: as many as wanted or as there are, evenly over the devices."""
    per_device = math.ceil(min(wanted, num_questions) / data_parallel_devices)
    return per_device * data_parallel_devices
