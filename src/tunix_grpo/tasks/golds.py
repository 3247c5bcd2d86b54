"""Tests at load whether the gold answers of a task can be matched by completions, and shows it."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunix_grpo import console
from tunix_grpo.errors import shortened
from tunix_grpo.tasks.base import ExactTask, Question, Task, TaskError
from tunix_grpo.text.answers import FORMS, gold_problem, marked_answer

MAX_SCORED = 1000  # questions whose answers `show_golds` scores in every form
_MAX_EXAMPLES = 3
_SHOWN_CHARS = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnmatchedGolds:
    """The gold answers that no completion can be expected to match.

    Attributes:
        num_questions: questions in all.
        counts: why -> how many questions.
        examples: the first different ones of each kind.
    """

    num_questions: int
    counts: Counter[str]
    examples: dict[str, list[Question]]

    @property
    def share(self) -> float:
        """Part of all questions, in [0, 1]."""
        return self.counts.total() / self.num_questions

    def described(self) -> str:
        """Returns how many there are of each kind, with an example each, in one line."""
        kinds = [f"{count:,} {why}{_example(self.examples[why][0])}" for why, count in self.counts.most_common()]
        return (
            f"{self.counts.total():,} of {self.num_questions:,} answers can be matched by no completion: "
            + ", ".join(kinds)
        )


def unmatched_golds(questions: Sequence[Question]) -> UnmatchedGolds:
    """Looks for the gold answers that no completion can match; equal ones are looked at once."""
    problems = {gold: gold_problem(gold) for gold in {question.answer for question in questions}}
    counts: Counter[str] = Counter()
    examples: dict[str, list[Question]] = {}
    for question in questions:
        why = problems[question.answer]
        if why is not None:
            counts[why] += 1
            shown = examples.setdefault(why, [])
            if len(shown) < _MAX_EXAMPLES and question.answer not in [each.answer for each in shown]:
                shown.append(question)
    return UnmatchedGolds(len(questions), counts, examples)


def check_golds(task: Task, max_unmatched: float) -> None:
    """Warns of gold answers that cannot be matched, and refuses a task where they are too many.

    Only of a task that compares with the gold answer; others score in their own way.

    Args:
        max_unmatched: share of the questions, in [0, 1], above which the task is refused.

    Raises:
        TaskError: the share is larger.
    """
    if not isinstance(task, ExactTask):
        return
    found = unmatched_golds([*task.train, *task.heldout])
    if found.num_questions == 0 or not found.counts:
        return
    if found.share > max_unmatched:
        raise TaskError(
            f"{found.described()}; name the column of the final answers with task.answer_column=NAME, end worked "
            f"solutions with #### and the answer, or take them as they are with task.max_unmatched=1"
        )
    _log.warning("%s; they always score 0 (task.validate=true shows more)", found.described())


def show_golds(task: Task) -> None:
    """Prints how many gold answers the task's own score takes for right in each form that completions give them."""
    questions = [*task.train, *task.heldout]
    scored = questions[:: max(1, -(-len(questions) // MAX_SCORED))]
    rows = [
        ("questions", f"{len(task.train):,} to train on, {len(task.heldout):,} held out"),
        ("different answers", f"{len({question.answer for question in questions}):,}"),
    ]
    for name, form in FORMS.items():
        right = [task.score(form.format(_said(question)), question) == 1.0 for question in scored]
        wrong = [question for question, is_right in zip(scored, right, strict=True) if not is_right]
        example = f", not {_shorten(wrong[0].answer)}" if wrong else ""
        rows.append((f"right as {name}", f"{sum(right):,} of {len(scored):,}{example}"))
    if isinstance(task, ExactTask):
        found = unmatched_golds(questions)
        rows += [
            (
                why,
                f"{count:,} of {found.num_questions:,}: "
                + ", ".join(_shorten(each.answer) for each in found.examples[why]),
            )
            for why, count in found.counts.most_common()
        ]
    console.start_table(rows, f"answers of the task {task.name}")


def _said(question: Question) -> str:
    """Returns what a completion would say: of a worked solution the marked answer."""
    return marked_answer(question.answer).strip()


def _example(question: Question) -> str:
    shown = question.answer if question.answer.strip() else question.question
    return f" (such as {'that of ' if shown is question.question else ''}{_shorten(shown)})"


def _shorten(text: str) -> str:
    return repr(shortened(" ".join(text.split()), _SHOWN_CHARS))
