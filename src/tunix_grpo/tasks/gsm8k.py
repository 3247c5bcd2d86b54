"""Grade school math word problems (GSM8K, arXiv 2110.14168), from the hub or from local files."""

import pathlib
import shutil
import time
from typing import TYPE_CHECKING, Annotated

from tunix_grpo.config import rules
from tunix_grpo.config.rules import Name, Path
from tunix_grpo.errors import one_line
from tunix_grpo.hub_cache import remove_damaged
from tunix_grpo.tasks.base import (
    AnswerColumn,
    ExactTask,
    HeldoutFraction,
    NumQuestionsOrAll,
    Question,
    QuestionColumn,
    TaskError,
    train_and_heldout,
)
from tunix_grpo.tasks.files import NARROW_FLOATS, make_questions, read_splits, with_stored_precision
from tunix_grpo.tasks.finding import choose_splits, split_of
from tunix_grpo.tasks.graders import Grader, GraderTimeout, build_grade

if TYPE_CHECKING:
    import datasets

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

    The data's own test or validation split is held out, and what it has in common with the training
    split is not trained on. Data without both sides is split like the task jsonl.

    Args:
        path: Local jsonl, JSON, CSV or parquet file, gzipped or not, or a folder of them, read instead of the hub.
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
    train, heldout = _local_splits(path, columns) if path is not None else _hub_splits(str(dataset), columns)
    source = f"task.path={path}" if path else f"task.dataset={dataset}"
    train, heldout = train_and_heldout(
        train, heldout, heldout_fraction, source=source, seed=seed, num_questions=num_questions
    )
    return ExactTask("gsm8k", train, heldout, build_grade(grader, grader_timeout_s))


def _local_splits(given: str, columns: dict[str, str]) -> tuple[list[Question], list[Question]]:
    """Reads a file or a folder; of a copy of the hub repository only `main`, as `socratic` has the same questions."""
    path = pathlib.Path(given).expanduser()
    return read_splits(path / MAIN if (path / MAIN).is_dir() else path, **columns)


def _hub_splits(dataset: str, columns: dict[str, str]) -> tuple[list[Question], list[Question]]:
    """Downloads the data set, or takes it from the local cache of the hub."""
    import datasets
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # the user reads how a download ends, not each retry
    variant = MAIN if dataset.endswith("/gsm8k") else None
    begun = time.time()
    try:
        loaded = datasets.load_dataset(dataset, variant)
        _require_whole(dataset, begun)
    # A RuntimeError says that the data set is a script, which is not run.
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, httpx.HTTPError, DatasetsError) as error:
        _require_whole(dataset, begun)
        raise TaskError(
            f"task.dataset={dataset} could not be loaded from the Hugging Face hub "
            f"({one_line(error)}); check the name and the network, or give the data with "
            "task.path=FOLDER of train and test files, parquet or jsonl"
        ) from error
    parts: dict[str, list[Question]] = {}
    for split, rows in loaded.items():
        questions = _hub_questions(rows, f"{dataset}, {split}", columns)
        parts.setdefault(split_of(str(split)), []).extend(questions)
    train, heldout = choose_splits(f"task.dataset={dataset}", parts)
    return [question for part in train for question in part], [question for part in heldout for question in part]


def _require_whole(dataset: str, begun: float) -> None:
    """Raises TaskError where a file of a data set that has arrived since `begun` is damaged; then it is removed."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = dataset.replace("/", "--")
    damaged = remove_damaged(pathlib.Path(HF_HUB_CACHE, f"datasets--{folder}", "snapshots"), begun)
    if damaged is not None:
        # What was made of it.
        shutil.rmtree(pathlib.Path(HF_DATASETS_CACHE, dataset.replace("/", "___")), ignore_errors=True)
        raise TaskError(
            f"task.dataset={dataset}: {damaged.name} arrived damaged and is removed; start the same command again"
        )


def _hub_questions(rows: "datasets.Dataset", place: str, columns: dict[str, str]) -> list[Question]:
    """Turns a split of the hub into questions; its numbers keep the precision of their columns."""
    types = {name: str(getattr(each, "dtype", "")) for name, each in rows.features.items()}
    narrow = {name: NARROW_FLOATS[kind] for name, kind in types.items() if kind in NARROW_FLOATS}
    numbered = (
        (f"{place} row {number}", with_stored_precision(dict(row), narrow)) for number, row in enumerate(rows, 1)
    )
    return make_questions(place, numbered, **columns)
