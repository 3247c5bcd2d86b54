"""Reads questions from rows: of files, or any other dictionaries."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np

from tunix_grpo.tasks.base import Question, TaskError
from tunix_grpo.tasks.columns import LAST_TURN, Columns, find_columns, last_text, read_asked, value_at
from tunix_grpo.tasks.finding import by_split, choose_splits, find_files
from tunix_grpo.tasks.text_rows import BadRowError, Row, shorten, text_rows
from tunix_grpo.text.answers import FINAL_MARK

MAX_REPORTED_ROWS = 10
# Types of columns, as pyarrow and datasets call them, whose values are wider once they are Python floats.
NARROW_FLOATS = {"float": np.float32, "float32": np.float32, "halffloat": np.float16, "float16": np.float16}
PARQUET_BYTES = b"PAR1"
_log = logging.getLogger(__name__)


def read_splits(path: Path, *, question_column: str, answer_column: str) -> tuple[list[Question], list[Question]]:
    """Reads the questions at a path; a folder with files named for splits keeps them apart.

    Returns:
        The questions to train on, and those to evaluate on: empty where the data has no split of its own.

    Raises:
        TaskError: there is no data, or not what can be read as questions.
    """
    files = find_files(path)
    train, heldout = choose_splits(f"task.path={path}", by_split(files, path))
    names = {"question_column": question_column, "answer_column": answer_column}
    return (
        read_questions([file for split in train for file in split], **names),
        read_questions([file for split in heldout for file in split], **names) if heldout else [],
    )


def read_questions(files: Iterable[Path], *, question_column: str, answer_column: str) -> list[Question]:
    """Reads the questions of files, in order.

    Raises:
        TaskError: lists the bad rows by file and line, or says what is wrong with a file as a whole.
    """
    files = list(files)
    questions: list[Question] = []
    problems: list[str] = []
    for file in files:
        made, bad = _read_rows(str(file), rows_of_file(file), question_column, answer_column)
        questions += made
        problems += bad
        if len(problems) >= MAX_REPORTED_ROWS:
            break
    _refuse(problems)
    if not questions:
        raise TaskError(f"{', '.join(map(str, files))}: empty; one question per line is needed")
    return questions


def make_questions(
    source: str, rows: Iterable[tuple[str, Row | BadRowError]], *, question_column: str, answer_column: str
) -> list[Question]:
    """Turns rows into questions.

    Args:
        source: what they come from, for messages.
        rows: where each row is, such as `data.jsonl:3`, and its columns or why it has none.
        question_column: name of the column that holds the question; see `columns.py`.
        answer_column: name of the column that holds the answer; see `gold_answer`. A null is an empty answer.

    Raises:
        TaskError: lists the first bad rows, each with its place.
    """
    questions, problems = _read_rows(source, rows, question_column, answer_column)
    _refuse(problems)
    return questions


def _read_rows(
    source: str, rows: Iterable[tuple[str, Row | BadRowError]], question_column: str, answer_column: str
) -> tuple[list[Question], list[str]]:
    """Returns the questions of one source, and what is wrong with its first bad rows, each with its place.

    Raises:
        TaskError: the fault is the file's: no row at all is a question, or its encoding is another one.
    """
    questions: list[Question] = []
    problems: list[tuple[str, BadRowError]] = []
    columns = None
    for place, row in rows:
        try:
            if columns is None and not isinstance(row, BadRowError):
                columns = find_columns(source, row, question_column, answer_column)
            questions.append(_question(row, columns or Columns(question_column, answer_column)))
        except BadRowError as error:
            problems.append((place, error))
            if error.of_file or len(problems) == MAX_REPORTED_ROWS:
                break
    if problems and (problems[-1][1].of_file or not questions):
        place, error = problems[-1] if problems[-1][1].of_file else problems[0]
        others = ", and no other row is a question either" if len(problems) > 1 and not questions else ""
        raise TaskError(f"{place}: {error}{others}; {error.way_out}")
    return questions, [f"{place}: {error}" for place, error in problems]


def _refuse(problems: list[str]) -> None:
    if problems:
        shown = problems[:MAX_REPORTED_ROWS] + ["and perhaps more"] * (len(problems) >= MAX_REPORTED_ROWS)
        raise TaskError("bad rows; correct or remove them:\n  " + "\n  ".join(shown))


def gold_answer(text: str) -> str:
    """Returns the answer of a worked solution: what follows the last `####`, else all of it."""
    return text.rpartition(FINAL_MARK)[2].strip()


def rows_of_file(file: Path) -> Iterator[tuple[str, Row | BadRowError]]:
    """Yields the place and the columns of each row of a file."""
    try:
        with file.open("rb") as stream:
            is_parquet = stream.read(len(PARQUET_BYTES)) == PARQUET_BYTES
        yield from _parquet_rows(file) if is_parquet else text_rows(file)
    except OSError as error:
        raise TaskError(f"{file} cannot be read: {error}") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Row | BadRowError]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise TaskError(f"{file} is not a parquet file that can be read: {error}") from error
    narrow = {each.name: NARROW_FLOATS[str(each.type)] for each in table.schema if str(each.type) in NARROW_FLOATS}
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{file}, row {number}", with_stored_precision(row, narrow)


def with_stored_precision(row: dict[str, object], narrow: Mapping[str, type[np.floating]]) -> dict[str, object]:
    """Returns a row whose narrow floats are the shortest decimals that stand for them: 0.1, not 0.10000000149011612.

    Args:
        narrow: the columns of float32 and float16, whose values have come as wider floats, each with its type.
    """
    wide = {name: value for name, value in row.items() if name in narrow and isinstance(value, float)}
    return row | {name: float(str(narrow[name](value))) for name, value in wide.items()}


def _question(row: Row | BadRowError, columns: Columns) -> Question:
    if isinstance(row, BadRowError):
        raise row
    asked = read_asked(value_at(row, columns.question, "task.question_column"), columns.question)
    answer: object = asked.answer
    if columns.answer != LAST_TURN:
        answer = last_text(value_at(row, columns.answer, "task.answer_column"))
    if not (answer is None or isinstance(answer, str) or _is_finite(answer)):
        raise BadRowError(f"{columns.answer} is neither text nor number but {shorten(answer)}")
    gold = gold_answer(_text(answer))
    for text in (gold, asked.question, *(turn["content"] for turn in asked.turns or ())):
        _refuse_half_characters(text)
    # A reward that was written for another trainer asks for that trainer's column of the answer.
    own = (columns.question,) if columns.keeps_answer else (columns.question, columns.answer)
    extra = {name: row[name] for name in row if name not in own}
    return Question(asked.question, gold, extra or None, asked.turns)


def _is_finite(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)  # of any size
    return isinstance(value, float | Decimal) and math.isfinite(value)


def _text(answer: object) -> str:
    """Returns an answer as text: a decimal with all its digits, a null as no text."""
    if answer is None:
        return ""
    return format(answer, "f") if isinstance(answer, Decimal) else str(answer)


def _refuse_half_characters(text: str) -> None:
    """Raises BadRowError for half of a surrogate pair, which JSON can write but no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise BadRowError(f"it holds {half}, half of a character (a surrogate pair); write the whole one") from error
