"""The procedural data sets of reasoning_gym, each with its own scorer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

from tunix_grpo.config import rules
from tunix_grpo.config.rules import Name, Values, Whole
from tunix_grpo.tasks import expressions
from tunix_grpo.tasks.base import (
    HeldoutFraction,
    NumQuestions,
    Question,
    TaskError,
    arrange_splits,
    split_questions,
    without_heldout,
)
from tunix_grpo.tasks.gym_entries import Entry, make_entries
from tunix_grpo.tasks.gym_settings import Part, make_part, mixture_parts, part_sizes, parts_by_level
from tunix_grpo.text.answers import answers_match, extract_answer

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # reasoning_gym loads matplotlib
    from reasoning_gym.dataset import ProceduralDataset

MAX_ANSWER_CHARS = 1000
COIN_TOLERANCE = Fraction(1, 10**4)

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


@dataclass(frozen=True, slots=True)
class PartsTask:
    """Questions of several data sets, or of one at several levels, each scored by its own.

    Attributes:
        parts: the data sets, by what `part_of` gives for their questions.
        part_of: a question -> whose it is.
    """

    name: str
    parts: Mapping[object, ReasoningGymTask]
    part_of: Callable[[Question], object]
    train: list[Question]
    heldout: list[Question]

    def score(self, completion: str, question: Question) -> float:
        """Returns the score that the question's own data set gives, in [0, 1]."""
        return self.parts[self.part_of(question)].score(completion, question)


def _part_of_mixture(question: Question) -> object:
    assert question.extra is not None  # every question of a mixture has one, with the column `part`
    return question.extra["part"]


def build_reasoning_gym(
    *,
    dataset: Annotated[Name | None, rules.hint("give task.dataset=NAME, such as task.dataset=chain_sum")],
    level: Annotated[Whole | None, rules.number(minimum=0, hint="null is the data set's own defaults")],
    highest_level: Annotated[Whole | None, rules.number(minimum=0, hint="null keeps the level")],
    settings: Values | None,
    mixture: Values | None,
    num_questions: NumQuestions,
    heldout_fraction: HeldoutFraction,
    seed: int,
) -> ReasoningGymTask | PartsTask:
    """Builds the task. Questions that the data set makes twice are kept once.

    Args:
        dataset: Name of one of reasoning_gym's data sets (chain_sum, leg_counting, countdown, ...), read when
            `mixture` is null.
        level: Level of the data set's own curriculum, from 0, the easiest; null is the data set's defaults.
        highest_level: The level goes up and down with success, from 0 to this one; it starts at `level` (null: 0),
            where the held-out questions stay. null keeps the level.
        settings: Settings of the data set, such as {min_terms: 2, max_terms: 2}; they win over the level's.
        mixture: Several data sets, name: weight, or name: {weight, dataset, level, settings}; null is one.
        num_questions: Questions in all, 2 or more.
        heldout_fraction: Part of the questions that is held out for evaluation, in (0, 1).
        seed: decides which questions are made, and the order of the training questions.
    """
    if mixture is None:
        if dataset is None:
            raise TaskError("task.dataset=null and task.mixture=null: no questions; give task.dataset=chain_sum")
        if highest_level is None:
            return _build_part(make_part(dataset, level, settings), num_questions, heldout_fraction, seed)
        start, levels = parts_by_level(dataset, level, highest_level, settings)
        return _build_levels(start, levels, num_questions, heldout_fraction, seed)
    if highest_level is not None:
        raise TaskError(
            f"task.highest_level={highest_level} is of one data set, and task.mixture has several; "
            "give task.highest_level=null, or task.mixture=null"
        )
    if settings is not None or level is not None:
        given = "task.settings" if settings is not None else "task.level"
        raise TaskError(
            f"{given} is of one data set: give it as task.mixture={{NAME: {{weight: 1, {given[5:]}: ...}}}}"
        )
    parts = mixture_parts(mixture)
    if not parts:
        raise TaskError(
            "task.mixture={}: it has no data set; give task.mixture={chain_sum: 2, leg_counting: 1}, or null"
        )
    sizes = part_sizes(parts, num_questions)
    tasks = {
        part.name: _build_part(part, size, heldout_fraction, seed) for part, size in zip(parts, sizes, strict=True)
    }
    train, heldout = (
        [_of_part(name, question) for name, task in tasks.items() for question in getattr(task, side)]
        for side in ("train", "heldout")
    )
    # Two parts may make the same question, each on a side of its own.
    train, heldout = arrange_splits(without_heldout(train, heldout), heldout, seed=seed)
    return PartsTask("reasoning_gym", {**tasks}, _part_of_mixture, train, heldout)


def _build_levels(
    start: int, levels: dict[int, Part], num_questions: int, heldout_fraction: float, seed: int
) -> PartsTask:
    """Returns the questions of all levels to train on, as many of each, and those of the first to evaluate on.

    The questions of a level are those that the data set has with `task.level`, whatever the others are.
    """
    size = num_questions // len(levels)
    if size < 2:
        raise TaskError(
            f"task.num_questions={num_questions} is too few for {len(levels)} levels; give {2 * len(levels)} or more"
        )
    dataset = levels[start].dataset
    entries = make_entries(dataset, seed=seed, size=size, settings=[part.settings for part in levels.values()])
    tasks = {
        level: _of_entries(part, made, heldout_fraction, seed)
        for (level, part), made in zip(levels.items(), entries, strict=True)
    }
    heldout = [replace(question, level=start) for question in tasks[start].heldout]
    train = [replace(question, level=level) for level, task in tasks.items() for question in task.train]
    return PartsTask("reasoning_gym", {**tasks}, attrgetter("level"), without_heldout(train, heldout), heldout)


def _build_part(part: Part, num_questions: int, heldout_fraction: float, seed: int) -> ReasoningGymTask:
    (entries,) = make_entries(part.dataset, seed=seed, size=num_questions, settings=[part.settings])
    return _of_entries(part, entries, heldout_fraction, seed)


def _of_entries(part: Part, entries: list[Entry], heldout_fraction: float, seed: int) -> ReasoningGymTask:
    import reasoning_gym

    num_questions = len(entries)
    questions = list({entry["question"]: _question(entry) for entry in entries}.values())
    if len(questions) < num_questions:
        logger.info("%d of the %d questions of %s are different", len(questions), num_questions, part.dataset)
    train, heldout = split_questions(
        questions,
        heldout_fraction,
        source=f"task.dataset={part.dataset} with task.num_questions={num_questions}",
        seed=seed,
    )
    scorer = reasoning_gym.create_dataset(part.dataset, seed=0, size=1, **part.settings)
    return ReasoningGymTask("reasoning_gym", part.dataset, scorer, train, heldout)


def _of_part(name: str, question: Question) -> Question:
    return replace(question, extra={**(question.extra or {}), "part": name})


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
    return expressions.is_antiderivative(answer, metadata["variable"], metadata["integrand"])


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
