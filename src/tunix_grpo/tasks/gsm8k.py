"""Grade school math word problems (GSM8K, arXiv 2110.14168), from the hub or from local files."""

from pathlib import Path

from tunix_grpo.config import TaskConfig
from tunix_grpo.errors import one_line
from tunix_grpo.tasks.base import ExactTask, Question, TaskError, arrange_splits, split_questions, without_heldout
from tunix_grpo.tasks.files import find_files, make_questions, read_questions

TRAIN = "train"
TEST = "test"
MAIN = "main"


def build_gsm8k(config: TaskConfig, seed: int) -> ExactTask:
    """Builds the task from `path` if it is set, else from the hub data set `dataset`.

    The data's own test split is held out, and what it has in common with the training split is not
    trained on. Data without both splits is split like the task jsonl.
    """
    splits = _local_splits(config) if config.path is not None else _hub_splits(config)
    if TRAIN in splits and TEST in splits:
        heldout = splits[TEST]
        train, heldout = arrange_splits(
            without_heldout(splits[TRAIN], heldout),
            heldout,
            seed=seed,
            num_questions=config.num_questions,
        )
    else:
        train, heldout = split_questions(
            [question for questions in splits.values() for question in questions],
            config.heldout_fraction,
            source=f"task.path={config.path}" if config.path else f"task.dataset={config.dataset}",
            seed=seed,
            num_questions=config.num_questions,
        )
    return ExactTask("gsm8k", train, heldout)


def _local_splits(config: TaskConfig) -> dict[str, list[Question]]:
    """Reads a file, or a folder with files whose names begin with `train` and `test`.

    Of a copy of the hub repository only the folder `main` is read; `socratic` has the same
    questions.
    """
    path = Path(config.path).expanduser()
    files = find_files(path / MAIN if (path / MAIN).is_dir() else path)
    by_split = {split: [file for file in files if file.name.startswith(split)] for split in (TRAIN, TEST)}
    if not all(by_split.values()):
        by_split = {"all": files}
    return {
        split: read_questions(
            split_files,
            question_column=config.question_column,
            answer_column=config.answer_column,
        )
        for split, split_files in by_split.items()
    }


def _hub_splits(config: TaskConfig) -> dict[str, list[Question]]:
    """Downloads the data set, or takes it from the local cache of the hub."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # its retries are no news; what they come to is
    variant = MAIN if config.dataset.endswith("/gsm8k") else None
    try:
        loaded = datasets.load_dataset(config.dataset, variant)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TaskError(
            f"task.dataset={config.dataset} could not be loaded from the Hugging Face hub "
            f"({one_line(error)}); check the name and the network, or give the data with "
            "task.path=FOLDER of train and test files, parquet or jsonl"
        ) from error
    return {
        split: make_questions(
            ((f"{config.dataset}, {split} row {number}", row) for number, row in enumerate(rows, 1)),
            question_column=config.question_column,
            answer_column=config.answer_column,
        )
        for split, rows in loaded.items()
    }
