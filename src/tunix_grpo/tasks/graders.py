"""How a completion is compared with the gold answer: by the grammar of `text/answers`, or by math-verify beside it."""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from tunix_grpo.config import rules
from tunix_grpo.config.rules import Number
from tunix_grpo.text.answers import MAX_PARSED_CHARS, answers_match, extract_answer, is_quantity, marked_answer
from tunix_grpo.workers import NoReplyError, Worker

PROGRAM = "tunix_grpo.tasks.math_verify_program"
# Words are read by the grammar alone: math-verify finds the 5 in `not 5`.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")

# (completion, gold answer) -> whether the completion is right
Grade = Callable[[str, str], bool]
Grader = Literal["number", "math_verify"]
GraderTimeout = Annotated[Number, rules.number(above=0, hint="seconds that a judgement of math-verify may take")]


def grade_number(completion: str, gold: str) -> bool:
    """Says whether the answer of a completion is the gold answer, by the grammar of `text/answers`."""
    answer = extract_answer(completion)
    return answer is not None and answers_match(answer, gold)


class MathGrader:
    """Says whether the answer of a completion is the gold answer, by the grammar or by math-verify.

    What the grammar calls right is right. Else math-verify compares the marked answers as LaTeX mathematics: sets,
    intervals, roots, equations, expressions. A judgement that takes too long or crashes counts as wrong.
    """

    def __init__(self, timeout_s: float) -> None:
        """
        Args:
            timeout_s: seconds that a judgement may take, above 0.
        """
        self._worker = Worker(PROGRAM, timeout_s=timeout_s)

    def __call__(self, completion: str, gold: str) -> bool:
        """Judges one completion."""
        if grade_number(completion, gold):
            return True
        answer, gold = marked_answer(completion).strip(), marked_answer(gold).strip()
        if not answer or not gold or max(len(answer), len(gold)) > MAX_PARSED_CHARS:
            return False
        if is_quantity(gold) and _WORD.search(answer):
            return False
        try:
            return bool(self._worker.ask({"answer": answer, "gold": gold}))
        except NoReplyError:
            return False


def build_grade(grader: Grader, timeout_s: float) -> Grade:
    """Returns the function that a `task.grader` setting names."""
    return grade_number if grader == "number" else MathGrader(timeout_s)
