"""Additions and subtractions of two numbers, made up without a download."""

from typing import Annotated

from tunix_grpo import seeds
from tunix_grpo.config import rules
from tunix_grpo.config.rules import Whole
from tunix_grpo.tasks.base import ExactTask, HeldoutFraction, NumQuestionsOrAll, Question, split_questions


def build_arithmetic(
    *,
    max_operand: Annotated[Whole, rules.number(minimum=1)],
    num_questions: NumQuestionsOrAll,
    heldout_fraction: HeldoutFraction,
    seed: int,
) -> ExactTask:
    """Builds the task.

    The split depends on the question alone: a model that was trained on the training side of one
    seed has seen no held-out question of any other.

    Args:
        max_operand: Operands are below this number, 1 or more.
        num_questions: Questions in all, 2 or more; null is all there are.
        heldout_fraction: Part of the questions that is held out for evaluation, in (0, 1).
        seed: decides which questions are taken, and the order of the training questions.
    """
    size = num_possible(max_operand)
    indices = range(size)
    if num_questions is not None and num_questions < size:
        indices = seeds.python_random("arithmetic", seed).sample(indices, num_questions)
    train, heldout = split_questions(
        [question_at(index, max_operand) for index in indices],
        heldout_fraction,
        source=f"the task arithmetic with task.max_operand={max_operand}",
        seed=seed,
    )
    return ExactTask("arithmetic", train, heldout)


def all_questions(max_operand: int) -> list[Question]:
    """Returns every question whose operands are in [0, max_operand)."""
    return [question_at(index, max_operand) for index in range(num_possible(max_operand))]


def num_possible(max_operand: int) -> int:
    """Returns how many questions there are."""
    return 2 * max_operand**2


def question_at(index: int, max_operand: int) -> Question:
    """Returns one of all questions, by its number in [0, num_possible)."""
    pair, is_difference = divmod(index, 2)
    a, b = divmod(pair, max_operand)
    if is_difference:
        return Question(f"What is {a} - {b}?", str(a - b))
    return Question(f"What is {a} + {b}?", str(a + b))
