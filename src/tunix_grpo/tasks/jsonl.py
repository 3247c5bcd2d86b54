"""A user's own questions, from jsonl or parquet files."""

from pathlib import Path

from tunix_grpo.config import TaskConfig
from tunix_grpo.tasks.base import ExactTask, TaskError, split_questions
from tunix_grpo.tasks.files import find_files, read_questions


def build_jsonl(config: TaskConfig, seed: int) -> ExactTask:
    """Builds the task from the file or folder at `path`.

    Equal questions are on the same side of the split. Columns other than the question's and the
    answer's are kept for reward functions.
    """
    if config.path is None:
        raise TaskError("task.path=null: the task jsonl needs your data; give task.path=FILE")
    questions = read_questions(
        find_files(Path(config.path).expanduser()),
        question_column=config.question_column,
        answer_column=config.answer_column,
    )
    train, heldout = split_questions(
        questions,
        config.heldout_fraction,
        source=f"task.path={config.path}",
        seed=seed,
        num_questions=config.num_questions,
    )
    return ExactTask("jsonl", train, heldout)
