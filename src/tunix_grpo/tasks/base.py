"""What every task is made of: questions, their split in two, and the exact score."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from tunix_grpo import seeds
from tunix_grpo.config import rules
from tunix_grpo.config.rules import Name, Number, Path, Whole
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.graders import Grade, grade_number

HASH_BYTES = 8
HASH_RANGE = 2 ** (8 * HASH_BYTES)

# Types of the keys that several builders take; the settings are checked with them.
HeldoutFraction = Annotated[Number, rules.number(above=0, below=1, hint="some questions must be left on both sides")]
NumQuestions = Annotated[Whole, rules.number(minimum=2)]
NumQuestionsOrAll = Annotated[Whole | None, rules.number(minimum=2, hint="null means all there are")]
DataPath = Annotated[Path, rules.hint("give task.path=FILE, a jsonl, JSON, CSV or parquet file, or a folder of them")]
QuestionColumn = Annotated[Name, rules.hint("give task.question_column=question, for example")]
AnswerColumn = Annotated[Name, rules.hint("give task.answer_column=answer, for example")]


class TaskError(UserError, ValueError):
    """Says in one sentence why a task cannot be built and what to do about it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a task.

    Attributes:
        question: the text that the model is asked.
        answer: the gold answer as text.
        extra: further columns, for the task's own scorer and for a user's reward function.
        turns: the conversation that ends with the question, `{"role": ..., "content": ...}` each, the data's own
            system message first if it has one; None where the question is all that is said.
        level: of difficulty, where training questions have one: training asks those of one level at a time, from
            that of the held-out questions on, and goes up and down with success. None: all are asked alike.
    """

    question: str
    answer: str
    extra: dict[str, Any] | None = None
    turns: tuple[dict[str, str], ...] | None = None
    level: int | None = None

    def whole(self) -> str:
        """Returns all that is asked: the question, behind the turns before it; a system message does not count."""
        if self.turns is None:
            return self.question
        return "\n".join(turn["content"] for turn in self.turns if turn["role"] != "system")


class Task(Protocol):
    """Questions to train on, questions to evaluate on, and what a completion is worth."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def train(self) -> Sequence[Question]:
        """The questions to train on."""
        ...

    @property
    def heldout(self) -> Sequence[Question]:
        """The questions to evaluate on."""
        ...

    def score(self, completion: str, question: Question) -> float:
        """Returns a score in [0, 1]; 1.0 is right.

        A bad completion scores low, whatever is in it. Only broken code raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExactTask:
    """A task whose score is 1.0 for an answer that equals the gold answer, else 0.0.

    Attributes:
        grade: says whether a completion's answer is the gold answer; see `graders.py`.
    """

    name: str
    train: Sequence[Question]
    heldout: Sequence[Question]
    grade: Grade = grade_number

    def score(self, completion: str, question: Question) -> float:
        """Compares the completion's answer with the gold answer."""
        return float(self.grade(completion, question.answer))


def question_hash(question: str) -> int:
    """Returns a hash in [0, HASH_RANGE) that depends on nothing but the words of the question."""
    words = " ".join(question.split()).casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(words, digest_size=HASH_BYTES).digest(), "big")


def is_heldout(question: str, fraction: float) -> bool:
    """Says on which side of the split a question is, whatever the seed and the other questions."""
    return question_hash(question) < fraction * HASH_RANGE


def split_questions(
    questions: Sequence[Question],
    heldout_fraction: float,
    *,
    source: str,
    seed: int,
    num_questions: int | None = None,
) -> tuple[list[Question], list[Question]]:
    """Splits questions by the hash of their text, so that equal questions are on the same side.

    Where the hash leaves a side empty, the question nearest to it goes there.

    Args:
        questions: all there are.
        heldout_fraction: part that is held out, in (0, 1).
        source: what the questions come from, for the error message.
        seed: decides the order of the training questions and which of them `num_questions` takes.
        num_questions: questions in all, 2 or more; None is all.

    Returns:
        The training and the held-out questions.

    Raises:
        TaskError: there are fewer than two different questions.
    """
    hashes = [_hash_of(question) for question in questions]
    if len(set(hashes)) < 2:
        raise TaskError(
            f"{source} has {len(questions)} question(s), {len(set(hashes))} of them different; at "
            "least two different ones are needed, to train on and to hold out"
        )
    lowest, highest = min(hashes), max(hashes)
    heldout = [
        value == lowest or (value != highest and is_heldout(question.whole(), heldout_fraction))
        for value, question in zip(hashes, questions, strict=True)
    ]
    return arrange_splits(
        [question for question, held in zip(questions, heldout, strict=True) if not held],
        [question for question, held in zip(questions, heldout, strict=True) if held],
        seed=seed,
        num_questions=num_questions,
    )


def arrange_splits(
    train: Sequence[Question],
    heldout: Sequence[Question],
    *,
    seed: int,
    num_questions: int | None = None,
) -> tuple[list[Question], list[Question]]:
    """Orders two splits and cuts them to `num_questions` in all, in the proportion that they have.

    Training questions are in the order of the seed. Held-out questions are in the order of their
    hashes, so that the first n of them are a fair sample and the same in every run.
    """
    train, heldout = list(train), sorted(heldout, key=_hash_of)
    seeds.python_random("split order", seed).shuffle(train)
    total = len(train) + len(heldout)
    if num_questions is None or num_questions >= total:
        return train, heldout
    num_heldout = round(num_questions * len(heldout) / total)
    num_heldout = min(max(num_heldout, 1), num_questions - 1)
    return train[: num_questions - num_heldout], heldout[:num_heldout]


def without_heldout(train: Sequence[Question], heldout: Sequence[Question]) -> list[Question]:
    """Returns the training questions that are not among the held-out ones."""
    hashes = set(map(_hash_of, heldout))
    return [question for question in train if _hash_of(question) not in hashes]


def train_and_heldout(
    train: Sequence[Question],
    heldout: Sequence[Question],
    heldout_fraction: float,
    *,
    source: str,
    seed: int,
    num_questions: int | None,
) -> tuple[list[Question], list[Question]]:
    """Returns the two sides of a task: the data's own split where it has one, else a split by question.

    Args:
        heldout: the data's own held-out questions, which are not trained on; empty where it has none.
        heldout_fraction: as `split_questions` takes it; read where `heldout` is empty.

    Raises:
        TaskError: there is nothing to train on, or nothing to hold out.
    """
    if not heldout:
        return split_questions(train, heldout_fraction, source=source, seed=seed, num_questions=num_questions)
    rest = without_heldout(train, heldout)
    if not rest:
        raise TaskError(f"{source}: every question of its training split is among the held-out ones; give other data")
    return arrange_splits(rest, heldout, seed=seed, num_questions=num_questions)


def _hash_of(question: Question) -> int:
    return question_hash(question.whole())
