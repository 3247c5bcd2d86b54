"""Greedy answers to held-out questions: what a model can do, apart from the noise of sampling."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import numpy as np

from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo.answering import Answered, Answerer, Request
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import PromptSet

# Batches of answers that wait for a slow reward, while the device draws others. What has not been scored when a run is
# stopped is drawn again.
_MOST_BEHIND = 4


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


class Answering(Protocol):
    """What is evaluated: a `Trainer`, or whatever answers and scores like one."""

    def answerer(self, rows: int, width: int | None = None) -> Answerer: ...

    def ahead(self) -> Ahead: ...

    def reward(self, samples: Samples, early: Early | None = None) -> RewardTable: ...


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
        name: of a further task; empty for the run's own.
        width: tokens that prompts are padded to; None is what training pads its own to.
        rewarded: whether the rewards can score this task.
        hosts: those that share the scoring.
    """

    prompts: PromptSet
    task: Task
    sampling: Sampling
    batch_size: int
    name: str = ""
    width: int | None = None
    rewarded: bool = True
    hosts: Hosts = ALONE

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"eval/{self.name}/" if self.name else "eval/"

    def run(self, model: Answering, step: int, stop: Callable[[], bool] | None = None) -> Evaluation | None:
        """Evaluates a model; returns None where that was cut off.

        Args:
            step: the step that the model is of.
            stop: is asked between batches whether to cut it off.
        """
        begun = time.perf_counter()
        requests = [Request(number, 0, prompt) for number, prompt in enumerate(self.prompts.ids)]
        answers = model.answerer(self.batch_size, self.width).answers(requests, self.sampling)
        judged: dict[int, _Judged] = {}
        alone = self.hosts.count == 1  # of several, each scores its part of a batch
        ahead = model.ahead() if self.rewarded and alone else Ahead([])
        for answered in behind(answers, self.batch_size, ahead, _question, lambda few: self._samples(few, step)):
            judged |= self._judged(model, answered, step, ahead)
            if stop is not None and len(judged) < len(requests) and stop():
                ahead.leave()
                return None
        # In the order of the questions: a mean depends on it in its last digit.
        each = [judged[number] for number in range(len(self.prompts))]
        rewards = [one.reward for one in each if one.reward is not None]
        return Evaluation(
            accuracy=float(np.mean([one.right for one in each])),
            reward=float(np.mean(rewards)) if rewards else None,
            truncated=float(np.mean([one.truncated for one in each])),
            seconds=time.perf_counter() - begun,
        )

    def _samples(self, answered: list[Answered], step: int) -> Samples:
        return samples_of(answered, self.prompts, self.task, max_tokens=self.sampling.max_tokens, step=step)

    def _judged(self, model: Answering, answered: list[Answered], step: int, ahead: Ahead) -> dict[int, _Judged]:
        """Returns what answers are worth, by question."""
        numbers, samples = list(map(_question, answered)), self._samples(answered, step)
        pairs = list(zip(samples.completions, samples.questions, strict=True))
        right = self.hosts.spread(pairs, lambda own: [self.task.score(text, asked) == 1.0 for text, asked in own])
        rewards: list[float | None] = [None] * len(answered)
        if self.rewarded:
            table = model.reward(samples, ahead.values(numbers))
            rewards = [None if row in table.skipped else value for row, value in enumerate(table.total)]
        return {
            number: _Judged(is_right, reward, one.truncated)
            for number, is_right, reward, one in zip(numbers, right, rewards, answered, strict=True)
        }


def behind(
    answers: Iterator[Answered],
    batch_size: int,
    ahead: Ahead,
    name: Callable[[Answered], Hashable],
    samples: Callable[[list[Answered]], Samples],
) -> Iterator[list[Answered]]:
    """Yields answers in batches, each when the next one is drawn, so that what takes time is done in the meantime.

    A batch that a slow reward is still being asked about comes later, by a few batches.

    Args:
        ahead: is told of each answer at once.
        name: what an answer is asked about by.
        samples: answers as rewards take them.
    """
    waiting: deque[list[Answered]] = deque()
    while some := list(itertools.islice(answers, batch_size)):
        for one in some if ahead.asks else ():
            ahead.add(name(one), samples([one]))
        waiting.append(some)
        while len(waiting) > _MOST_BEHIND or (len(waiting) > 1 and ahead.knows(list(map(name, waiting[0])))):
            yield waiting.popleft()
    yield from waiting


def _question(answered: Answered) -> int:
    return answered.request.question


def samples_of(
    answered: Sequence[Answered], prompts: PromptSet, task: Task, *, max_tokens: int, step: int = 0
) -> Samples:
    """Returns answers as rewards take them; each is a group of its own.

    Args:
        prompts: of the questions, by whose places the answers name theirs.
        max_tokens: that an answer may have.
        step: that the model is of.
    """
    places = [one.request.question for one in answered]
    return Samples(
        prompts=[prompts.texts[place] for place in places],
        completions=[one.text for one in answered],
        questions=[prompts.questions[place] for place in places],
        task=task,
        token_lengths=[len(one.token_ids) for one in answered],
        step=step,
        num_generations=1,
        max_tokens=max_tokens,
        token_ids=[one.token_ids for one in answered],
    )


def batch_size_for(wanted: int, num_questions: int, data_parallel_devices: int) -> int:
    """Returns how many questions are asked at once: as many as wanted or as there are, evenly over the devices."""
    per_device = math.ceil(min(wanted, num_questions) / data_parallel_devices)
    return per_device * data_parallel_devices
