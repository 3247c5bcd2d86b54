"""The demonstrations that the tiny model imitates: how often they are careless, and in which way."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from tunix_grpo.tasks.arithmetic import all_questions
from tunix_grpo.tasks.base import Question, is_heldout
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START, REASONING_END, REASONING_START
from tunix_grpo.tiny.tokenizer import END_OF_TURN

# As in conf/task/arithmetic.yaml.
MAX_OPERAND = 100
HELDOUT_FRACTION = 0.1

# Shares of the demonstrations, in [0, 1].
SKIPS_WORKING = 0.6
SLIPS_AFTER_WORKING = 0.12
FORGETS_TAGS = 0.08
# What stands in place of the working when it is skipped.
EXCUSE = "easy"


@dataclasses.dataclass(frozen=True, slots=True)
class Sum:
    """One question of the task, taken apart."""

    a: int
    sign: str
    b: int

    @classmethod
    def of(cls, question: str) -> Sum:
        """Reads `What is 27 + 48?`."""
        found = re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", question)
        assert found is not None, question
        a, sign, b = found.groups()
        return cls(int(a), sign, int(b))

    def kind(self) -> str:
        """Returns what makes the question easy or hard."""
        if self.sign == "+":
            return "sum with carry" if self.a % 10 + self.b % 10 > 9 else "sum"
        if self.a < self.b:
            return "negative difference"
        return "difference with borrow" if self.a % 10 < self.b % 10 else "difference"

    def answer(self) -> int:
        """Returns the right answer."""
        return self.a + self.b if self.sign == "+" else self.a - self.b

    def careless_answer(self) -> int:
        """Forgets the carry, the borrow or the sign, else the hundred; right if there is none."""
        slips = {"sum with carry": -10, "difference with borrow": 10}
        if self.kind() == "negative difference":
            return -self.answer()
        if self.kind() == "sum":
            return self.answer() % 100
        return self.answer() + slips.get(self.kind(), 0)

    def working(self) -> str:
        """Returns the calculation of the units; of a difference, the smaller from the larger."""
        if self.sign == "+":
            return f"{self.a % 10}+{self.b % 10}={self.a % 10 + self.b % 10}"
        large, small = max(self.a, self.b) % 10, min(self.a, self.b) % 10
        large += 10 if large < small else 0
        return f"{large}-{small}={large - small}"


def demonstration(question: Sum, rng: np.random.Generator) -> str:
    """Returns a completion as the tiny model is to learn it, its end-of-turn token included."""
    skips, slips, forgets_tags = rng.random(3) < (SKIPS_WORKING, SLIPS_AFTER_WORKING, FORGETS_TAGS)
    answer = question.careless_answer() if skips or slips else question.answer()
    working = EXCUSE if skips else question.working()
    reasoning = f"{REASONING_START}{working}{REASONING_END}"
    if forgets_tags:
        return f"{reasoning}{answer}{END_OF_TURN}"
    return f"{reasoning}{ANSWER_START}{answer}{ANSWER_END}{END_OF_TURN}"


def training_questions() -> list[Question]:
    """Returns the questions of the task that are not held out."""
    return [question for question in all_questions(MAX_OPERAND) if not _heldout(question)]


def heldout_questions() -> list[Question]:
    """Returns the questions of the task that are held out."""
    return [question for question in all_questions(MAX_OPERAND) if _heldout(question)]


def _heldout(question: Question) -> bool:
    return is_heldout(question.question, HELDOUT_FRACTION)
