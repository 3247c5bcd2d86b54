"""What is known of the training questions: how often each was tried, and how often with success.

Letters: N questions in the set, P prompts in a step, G completions of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tunix_grpo.files import Json

PRIOR = 0.4
"""Pseudo-counts of success and of failure, each: two tries leave a question in the usual band, eight decide."""
MEMORY = 32
"""Tries that an estimate remembers: with more, all of them count half as much, since the model has changed."""
_COLUMNS = {"asked": int, "tries": int, "successes": int, "last_step": int, "memory": float, "remembered": float}


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """How the groups of a step did, in the order in which they were sampled.

    Attributes:
        rows: int[n], the question of each in its set.
        tries: int[n], completions that were judged.
        successes: int[n], those of them that are right.
    """

    rows: np.ndarray
    tries: np.ndarray
    successes: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[int], scores: Sequence[float | None]) -> Outcomes:
        """Returns the outcomes of P groups.

        Args:
            rows: P indices of questions.
            scores: the task's score of each of the P x G completions, 1.0 is right; None where it was not judged.
        """
        groups = np.array([np.nan if score is None else score for score in scores], float).reshape(len(rows), -1)
        return cls(np.asarray(rows, int), np.sum(~np.isnan(groups), axis=1), np.sum(groups == 1.0, axis=1))

    def and_those(self, others: Outcomes) -> Outcomes:
        """Returns these outcomes and those that were sampled after them."""
        pairs = [(getattr(self, each.name), getattr(others, each.name)) for each in dataclasses.fields(self)]
        return Outcomes(*map(np.concatenate, pairs))


class Ledger:
    """Tries and successes by question.

    Attributes:
        asked: int[N], how many groups of completions it had.
        tries: int[N], completions.
        successes: int[N], right ones.
        last_step: int[N], the step that asked it last; 0 where none has.
        memory: float[N], tries as the estimate counts them, at most about MEMORY.
        remembered: float[N], successes as the estimate counts them.
        level: of questions that have levels, the one that is asked; None until one is.
        recent: the success rates of the last groups of that level, in [0, 1].
    """

    def __init__(self, size: int) -> None:
        """
        Args:
            size: N.
        """
        self.asked, self.tries, self.successes, self.last_step = (np.zeros(size, int) for _ in range(4))
        self.memory, self.remembered = np.zeros(size), np.zeros(size)
        self.level: int | None = None
        self.recent: list[float] = []

    def __len__(self) -> int:
        """Returns N."""
        return len(self.asked)

    def note(self, step: int, outcomes: Outcomes) -> None:
        """Adds what a step has shown."""
        rows = outcomes.rows
        np.add.at(self.asked, rows, 1)
        for totals, own in ((self.tries, outcomes.tries), (self.successes, outcomes.successes)):
            np.add.at(totals, rows, own)
        for totals, own in ((self.memory, outcomes.tries), (self.remembered, outcomes.successes)):
            np.add.at(totals, rows, own)
        full = np.unique(rows[self.memory[rows] > MEMORY])
        self.memory[full] /= 2
        self.remembered[full] /= 2
        self.last_step[rows] = step

    def rates(self) -> np.ndarray:
        """Returns float64[N], estimated success rates in (0, 1): the mean of a beta distribution, 1/2 without tries."""
        return (self.remembered + PRIOR) / (self.memory + 2 * PRIOR)

    def saved(self) -> dict[str, Json]:
        """Returns all of it as JSON values: columns of the questions that were asked."""
        rows = np.flatnonzero(self.asked)
        columns: dict[str, Json] = {name: getattr(self, name)[rows].tolist() for name in _COLUMNS}
        return {"rows": [*rows.tolist()], **columns, "level": self.level, "recent": [*self.recent]}

    @classmethod
    def read(cls, size: int, saved: Mapping[str, Json] | None) -> Ledger:
        """Returns the ledger of N questions that `saved` gave; None: an empty one."""
        ledger = cls(size)
        if saved is not None:
            rows = np.array(saved["rows"], int)
            for name, kind in _COLUMNS.items():
                getattr(ledger, name)[rows] = np.array(saved[name], kind)
            level, recent = saved["level"], saved["recent"]
            assert (level is None or isinstance(level, int)) and isinstance(recent, list)  # by `saved`
            ledger.level, ledger.recent = level, [rate for rate in recent if isinstance(rate, float)]
        return ledger
