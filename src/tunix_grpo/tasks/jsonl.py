"""A user's own questions, from jsonl, JSON, CSV or parquet files."""

from pathlib import Path

from tunix_grpo.tasks.base import (
    AnswerColumn,
    DataPath,
    ExactTask,
    HeldoutFraction,
    NumQuestionsOrAll,
    QuestionColumn,
    train_and_heldout,
)
from tunix_grpo.tasks.files import read_splits
from tunix_grpo.tasks.graders import Grader, GraderTimeout, build_grade


def build_jsonl(
    *,
    path: DataPath,
    question_column: QuestionColumn,
    answer_column: AnswerColumn,
    heldout_fraction: HeldoutFraction,
    num_questions: NumQuestionsOrAll,
    grader: Grader,
    grader_timeout_s: GraderTimeout,
    seed: int,
) -> ExactTask:
    """Builds the task.

    Equal questions are on the same side of the split. Columns other than the question's and the
    answer's are kept for reward functions.

    Args:
        path: A jsonl, JSON, CSV or parquet file, gzipped or not, or a folder of them.
        question_column: Column that holds the question, a text or a list of messages; dots lead inside a column.
        answer_column: Column that holds the answer; dots lead inside a column; of "... #### 72" the 72 counts.
        heldout_fraction: Part held out for evaluation when the folder has no test or validation file, in (0, 1).
        num_questions: Questions in all, 2 or more; null is all there are.
        grader: What compares answers: number (numbers and short texts), or math_verify (LaTeX mathematics, too).
        grader_timeout_s: Seconds that a judgement of math_verify may take, above 0; a longer one counts as wrong.
        seed: decides which questions are taken, and the order of the training questions.
    """
    train, heldout = read_splits(Path(path).expanduser(), question_column=question_column, answer_column=answer_column)
    train, heldout = train_and_heldout(
        train, heldout, heldout_fraction, source=f"task.path={path}", seed=seed, num_questions=num_questions
    )
    return ExactTask("jsonl", train, heldout, build_grade(grader, grader_timeout_s))
