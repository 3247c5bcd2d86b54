"""Additions and subtractions of two numbers, made up without a download."""

from tunix_grpo import seeds
from tunix_grpo.config import TaskConfig
from tunix_grpo.tasks.base import ExactTask, Question, TaskError, split_questions


def build_arithmetic(config: TaskConfig, seed: int) -> ExactTask:
    """Builds the task from `max_operand`, `num_questions` and `heldout_fraction`.

    The split depends on the question alone: a model that was trained on the training side of one
    seed has seen no held-out question of any other.
    """
    if config.max_operand is None:
        raise TaskError("task.max_operand=null: the task arithmetic needs it; give 100, for example")
    size = num_possible(config.max_operand)
    indices = range(size)
    if config.num_questions is not None and config.num_questions < size:
        indices = seeds.python_random("arithmetic", seed).sample(indices, config.num_questions)
    train, heldout = split_questions(
        [question_at(index, config.max_operand) for index in indices],
        config.heldout_fraction,
        source=f"the task arithmetic with task.max_operand={config.max_operand}",
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
