"""Grade school math word problems (GSM8K, arXiv 2110.14168), from the hub or from local files."""

import pathlib
from typing import TYPE_CHECKING, Annotated

from tunix_grpo.config import rules
from tunix_grpo.config.rules import Name, Path
from tunix_grpo.errors import one_line
from tunix_grpo.tasks.base import (
    AnswerColumn,
    ExactTask,
    HeldoutFraction,
    NumQuestionsOrAll,
    Question,
    QuestionColumn,
    TaskError,
    arrange_splits,
    split_questions,
    without_heldout,
)
from tunix_grpo.tasks.files import (
    NARROW_FLOATS,
    find_files,
    make_questions,
    read_questions,
    with_stored_precision,
)
from tunix_grpo.tasks.graders import Grader, GraderTimeout, build_grade

if TYPE_CHECKING:
    import datasets

TRAIN = "train"
TEST = "test"
MAIN = "main"


def build_gsm8k(
    *,
    path: Annotated[Path | None, rules.hint("give a local file or folder, or null")],
    dataset: Annotated[Name | None, rules.hint("give a name, or null")],
    question_column: QuestionColumn,
    answer_column: AnswerColumn,
    heldout_fraction: HeldoutFraction,
    num_questions: NumQuestionsOrAll,
    grader: Grader,
    grader_timeout_s: GraderTimeout,
    seed: int,
) -> ExactTask:
    """Builds the task from local files or from the hub.

    The data's own test split is held out, and what it has in common with the training split is not
    trained on. Data without both splits is split like the task jsonl.

    Args:
        path: Local jsonl or parquet file, or a folder of them, read instead of the hub.
        dataset: Hugging Face hub id, read when `path` is null.
        question_column: Column that holds the question.
        answer_column: Column that holds the answer; of "... #### 72" the 72 counts.
        heldout_fraction: Part held out for evaluation when the data has no test split of its own, in (0, 1).
        num_questions: Questions in all, 2 or more; null is all there are.
        grader: What compares answers: number (numbers and short texts), or math_verify (LaTeX mathematics, too).
        grader_timeout_s: Seconds that a judgement of math_verify may take, above 0; a longer one counts as wrong.
        seed: decides which questions are taken, and the order of the training questions.
    """
    columns = {"question_column": question_column, "answer_column": answer_column}
    splits = _local_splits(path, columns) if path is not None else _hub_splits(str(dataset), columns)
    if TRAIN in splits and TEST in splits:
        heldout = splits[TEST]
        train, heldout = arrange_splits(
            without_heldout(splits[TRAIN], heldout), heldout, seed=seed, num_questions=num_questions
        )
    else:
        train, heldout = split_questions(
            [question for questions in splits.values() for question in questions],
            heldout_fraction,
            source=f"task.path={path}" if path else f"task.dataset={dataset}",
            seed=seed,
            num_questions=num_questions,
        )
    return ExactTask("gsm8k", train, heldout, build_grade(grader, grader_timeout_s))


def _local_splits(given: str, columns: dict[str, str]) -> dict[str, list[Question]]:
    """Reads a file, or a folder with files whose names begin with `train` and `test`.

    Of a copy of the hub repository only the folder `main` is read; `socratic` has the same
    questions.
    """
    path = pathlib.Path(given).expanduser()
    files = find_files(path / MAIN if (path / MAIN).is_dir() else path)
    by_split = {split: [file for file in files if file.name.startswith(split)] for split in (TRAIN, TEST)}
    if not all(by_split.values()):
        by_split = {"all": files}
    return {split: read_questions(split_files, **columns) for split, split_files in by_split.items()}


def _hub_splits(dataset: str, columns: dict[str, str]) -> dict[str, list[Question]]:
    """Downloads the data set, or takes it from the local cache of the hub."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # the user reads how a download ends, not each retry
    variant = MAIN if dataset.endswith("/gsm8k") else None
    try:
        loaded = datasets.load_dataset(dataset, variant)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TaskError(
            f"task.dataset={dataset} could not be loaded from the Hugging Face hub "
            f"({one_line(error)}); check the name and the network, or give the data with "
            "task.path=FOLDER of train and test files, parquet or jsonl"
        ) from error
    return {str(split): _hub_questions(rows, f"{dataset}, {split}", columns) for split, rows in loaded.items()}


def _hub_questions(rows: "datasets.Dataset", place: str, columns: dict[str, str]) -> list[Question]:
    """Turns a split of the hub into questions; its numbers keep the precision of their columns."""
    types = {name: str(getattr(each, "dtype", "")) for name, each in rows.features.items()}
    narrow = {name: NARROW_FLOATS[kind] for name, kind in types.items() if kind in NARROW_FLOATS}
    numbered = (
        (f"{place} row {number}", with_stored_precision(dict(row), narrow)) for number, row in enumerate(rows, 1)
    )
    return make_questions(numbered, **columns)
