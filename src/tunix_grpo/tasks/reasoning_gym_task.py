"""The procedural data sets of reasoning_gym, each with its own scorer."""

from __future__ import annotations

import logging
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from tunix_grpo import seeds
from tunix_grpo.config import rules
from tunix_grpo.config.rules import Name
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.tasks import expressions
from tunix_grpo.tasks.base import HeldoutFraction, NumQuestions, Question, TaskError, split_questions
from tunix_grpo.text.answers import answers_match, extract_answer

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # reasoning_gym loads matplotlib
    from reasoning_gym.dataset import ProceduralDataset

Entry: TypeAlias = dict[str, Any]  # as reasoning_gym declares it: each data set has columns of its own

MAX_ANSWER_CHARS = 1000
COIN_TOLERANCE = Fraction(1, 10**4)
ENTRIES_PROGRAM = Path(__file__).with_name("make_entries.py")

# A mixture of other data sets, which its own settings would have to name.
UNSUPPORTED = frozenset({"composite"})
# Their scorers give every answer full marks (0.1.25: bool("False") is true there).
UNSCORED = frozenset({"game_of_life_halting"})
# What the scorers raise on answers that they did not foresee.
SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
_HUGE_EXPONENT = re.compile(r"[0-9.][eE][+-]?[0-9]{3}")
_LONG_COUNT = re.compile(r"[0-9]{2}")


@dataclass(frozen=True, slots=True)
class ReasoningGymTask:
    """Questions of one data set, scored by the data set."""

    name: str
    dataset_name: str
    dataset: ProceduralDataset
    train: list[Question]
    heldout: list[Question]

    def score(self, completion: str, question: Question) -> float:
        """Returns the data set's own score of the completion's answer, in [0, 1]."""
        answer, entry = extract_answer(completion), question.extra
        assert entry is not None  # every question of this task has one
        if answer is None:
            return 0.0
        if self.dataset_name in UNSCORED:
            return float(answers_match(answer, question.answer))
        if not is_harmless(self.dataset_name, answer, entry):
            return 0.0
        try:
            score = float(self.dataset.score_answer(answer, entry))
        except SCORER_ERRORS:
            # The answer was at fault if the gold answer passes; else this raises again.
            self.dataset.score_answer(entry["answer"], entry)
            return 0.0
        return min(max(score, 0.0), 1.0) if score == score else 0.0


def build_reasoning_gym(
    *,
    dataset: Annotated[Name, rules.hint("give task.dataset=NAME, such as task.dataset=chain_sum")],
    num_questions: NumQuestions,
    heldout_fraction: HeldoutFraction,
    seed: int,
) -> ReasoningGymTask:
    """Builds the task. Questions that the data set makes twice are kept once.

    Args:
        dataset: Name of one of reasoning_gym's data sets: chain_sum, leg_counting, countdown, ...
        num_questions: Questions in all, 2 or more.
        heldout_fraction: Part of the questions that is held out for evaluation, in (0, 1).
        seed: decides which questions are made, and the order of the training questions.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    known = sorted(set(DATASETS) - UNSUPPORTED)
    if dataset not in known:
        raise TaskError(
            f"task.dataset={dataset} is not a data set of reasoning_gym"
            f"{did_you_mean(dataset, known)}; there are {', '.join(known)}"
        )
    entries = make_entries(dataset, seed=seed, size=num_questions)
    train, heldout = split_questions(
        list({entry["question"]: _question(entry) for entry in entries}.values()),
        heldout_fraction,
        source=f"task.dataset={dataset} with task.num_questions={num_questions}",
        seed=seed,
    )
    scorer = reasoning_gym.create_dataset(dataset, seed=0, size=1)
    return ReasoningGymTask("reasoning_gym", dataset, scorer, train, heldout)


def make_entries(name: str, *, seed: int, size: int) -> list[Entry]:
    """Returns a data set's entries, the same ones in every process; see `make_entries.py`."""
    logger.info("making %d questions of %s (task.num_questions)", size, name)
    # Entry i is made from seed + i: neighbouring seeds would share nearly all entries.
    start = seeds.python_random("reasoning_gym", seed).getrandbits(31)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "entries"
        # -P keeps the modules beside the program from hiding others of the same name.
        command = [sys.executable, "-P", ENTRIES_PROGRAM, name, str(start), str(size), output]
        last_line = ""
        with subprocess.Popen(
            command,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None  # it is a pipe
            for line in process.stderr:
                last_line = line.strip() or last_line
                if last_line.endswith("questions made"):
                    logger.info("%s", last_line)
        if process.returncode != 0:
            raise TaskError(
                f"task.dataset={name} could not be made by reasoning_gym: {last_line}; take another task.dataset"
            )
        return pickle.loads(output.read_bytes())


def is_harmless(name: str, answer: str, entry: Entry) -> bool:
    """Says whether a scorer may see an answer.

    Some scorers evaluate it as code, count up to the numbers in it, or take "nan" for any number.
    """
    gold = str(entry["answer"])
    if answer == gold.strip():
        return True
    if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)) or _HUGE_EXPONENT.search(answer):
        return False
    if any(word in answer.lower() and word not in gold.lower() for word in ("nan", "inf")):
        return False
    return name not in CHECKS or CHECKS[name](answer, entry)


def _question(entry: Entry) -> Question:
    answer = entry["answer"]
    return Question(entry["question"], "" if answer is None else str(answer), entry)


def _is_literal(answer: str, entry: Entry) -> bool:
    return expressions.is_literal(answer)


def _is_board(answer: str, entry: Entry) -> bool:
    return set(answer) <= set("Q_ \n") or expressions.is_literal(answer)


def _is_formula(answer: str, entry: Entry) -> bool:
    return expressions.is_formula(answer)


def _is_antiderivative(answer: str, entry: Entry) -> bool:
    metadata = entry["metadata"]
    return expressions.is_formula(answer) and expressions.is_antiderivative(
        answer, metadata["variable"], metadata["integrand"]
    )


def _has_short_counts(answer: str, entry: Entry) -> bool:
    return _LONG_COUNT.search(answer) is None


def _is_close(answer: str, entry: Entry) -> bool:
    try:
        return abs(Fraction(answer.replace(",", "")) - Fraction(entry["answer"])) <= COIN_TOLERANCE
    except (ValueError, ZeroDivisionError):
        return False


# What these scorers may see: they evaluate an answer as code, repeat a move as often as it says, or
# (coin_flip) give full marks to a leading zero.
CHECKS: dict[str, Callable[[str, Entry], bool]] = {
    "binary_matrix": _is_literal,
    "spiral_matrix": _is_literal,
    "string_insertion": _is_literal,
    "n_queens": _is_board,
    "countdown": _is_formula,
    "polynomial_multiplication": _is_formula,
    "puzzle24": _is_formula,
    "simple_integration": _is_antiderivative,
    "intermediate_integration": _is_antiderivative,
    "rubiks_cube": _has_short_counts,
    "rush_hour": _has_short_counts,
    "coin_flip": _is_close,
}
