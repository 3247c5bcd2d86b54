"""Groups of equal rewards teach nothing: those of fresh prompts take their place (dynamic sampling, arXiv:2503.14476).

Every round samples as many prompts as a step has, so that no program is compiled anew; whole groups change places.

Letters: P prompts, G completions of each, B = P * G rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tunix_grpo.decoder.rows import Completions, rows_of
from tunix_grpo.grpo.rollout import Rollout
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.rewards.ahead import Ahead
from tunix_grpo.rewards.correctness import CORRECTNESS
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.ledger import Outcomes
from tunix_grpo.text.prompt_set import Batch


class Sampling(Protocol):
    """What draws and scores completions: a `Trainer`."""

    def ahead(self) -> Ahead: ...

    def draw(
        self, batch: Batch, step: int, extra_round: int, ahead: Ahead, stop: Callable[[], bool] | None
    ) -> Rollout: ...

    def groups(self, batch: Batch, rollout: Rollout, step: int, ahead: Ahead) -> Groups: ...


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of a step.

    Attributes:
        equal: bool[P], those that teach nothing.
        replaced: how many took the place of equal ones.
        outcomes: right answers by question, of all groups that were sampled; None where nobody wants to know.
        extra_rounds: how often fresh prompts were sampled.
        given_back_tokens: prompt and completion tokens of the groups that were sampled and are not here.
        given_back_drawn: the completion tokens among them.
    """

    batch: Batch
    rollout: Rollout
    rewards: RewardTable
    equal: np.ndarray
    outcomes: Outcomes | None = None
    replaced: int = 0
    extra_rounds: int = 0
    given_back_tokens: int = 0
    given_back_drawn: int = 0

    def num_tokens(self) -> int:
        """Returns the tokens of all completions, each with its prompt."""
        prompts = self.batch.num_generations * sum(map(len, self.batch.ids))
        return prompts + self.num_drawn()

    def num_drawn(self) -> int:
        """Returns the tokens of all completions."""
        return int(self.rollout.lengths.sum())

    def metrics(self) -> dict[str, float]:
        """Returns the metric names of `record.metrics.METRICS`."""
        given_up = int(np.sum(self.equal))
        return {
            "groups/kept": len(self.equal) - self.replaced - given_up,
            "groups/replaced": self.replaced,
            "groups/given_up": given_up,
            "groups/extra_rounds": self.extra_rounds,
        }

    def improved_by(self, fresh: Groups) -> Groups:
        """Returns these groups with as many of the equal ones as can be replaced by unequal fresh ones."""
        places, useful = np.flatnonzero(self.equal), np.flatnonzero(~fresh.equal)
        count = min(len(places), len(useful))
        source = np.arange(len(self.equal))
        source[places[:count]] = len(self.equal) + useful[:count]
        rows = rows_of(source, self.batch.num_generations)
        batch = self.batch.with_groups(fresh.batch, source)
        rollout = _rollout_with(self.rollout, fresh.rollout, source, rows)
        rewards = self.rewards.with_rows(fresh.rewards, rows.tolist())
        equal = np.concatenate([self.equal, fresh.equal])[source]
        outcomes = None if self.outcomes is None or fresh.outcomes is None else self.outcomes.and_those(fresh.outcomes)
        new = Groups(batch, rollout, rewards, equal, outcomes, self.replaced + count, self.extra_rounds + 1)
        given_back = self.given_back_tokens + self.num_tokens() + fresh.num_tokens() - new.num_tokens()
        drawn = self.given_back_drawn + self.num_drawn() + fresh.num_drawn() - new.num_drawn()
        return dataclasses.replace(new, given_back_tokens=given_back, given_back_drawn=drawn)


def right_answers(
    batch: Batch, rollout: Rollout, rewards: RewardTable, task: Task | None, hosts: Hosts = ALONE
) -> Outcomes | None:
    """Returns which completions are right: as the reward for correctness has it, or else the task.

    Args:
        task: None leaves it unasked; the outcomes are None then where no such reward is selected.
        hosts: those that share the questions to the task.
    """
    scores = rewards.parts.get(CORRECTNESS)
    if scores is None and task is not None:
        questions = batch.per_completion(batch.questions)
        pairs = list(zip(rollout.texts, questions, strict=True))
        scores = hosts.spread(pairs, lambda own: [task.score(text, asked) for text, asked in own])
    return None if scores is None else Outcomes.of(batch.rows, scores)


def replace_equal_groups(
    trainer: Sampling,
    groups: Groups,
    fresh: Callable[[int], Batch],
    step: int,
    max_rounds: int,
    stop: Callable[[], bool] | None = None,
) -> Groups:
    """Samples fresh prompts until no group is equal, or the rounds are over.

    Args:
        fresh: round from 1 -> P prompts.
        max_rounds: at most so many.
        stop: see `Sampler.sample`.
    """
    for extra_round in range(1, max_rounds + 1):
        if not groups.equal.any():
            break
        batch, ahead = fresh(extra_round), trainer.ahead()
        rollout = trainer.draw(batch, step, extra_round, ahead, stop)
        groups = groups.improved_by(trainer.groups(batch, rollout, step, ahead))
    return groups


def _rollout_with(old: Rollout, fresh: Rollout, source: np.ndarray, rows: np.ndarray) -> Rollout:
    """Returns the prompts `source` int[P] and the rows int[B], counted over both rollouts, one behind the other."""
    texts, token_ids = old.texts + fresh.texts, old.token_ids + fresh.token_ids
    both = Completions(*(np.concatenate(pair) for pair in zip(old.batch[:4], fresh.batch[:4], strict=True)))
    return Rollout(
        both.rows(source, rows),
        np.concatenate([old.truncated, fresh.truncated])[rows],
        [texts[row] for row in rows],
        [token_ids[row] for row in rows],
        np.concatenate([old.logps, fresh.logps])[rows],
    )
