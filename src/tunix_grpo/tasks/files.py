"""Reads questions from rows: jsonl and parquet files, or any other dictionaries."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tunix_grpo.tasks.base import Question, TaskError
from tunix_grpo.text.answers import FINAL_MARK

PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".ndjson", PARQUET)
MAX_REPORTED_ROWS = 10
# Types of columns, as pyarrow and datasets call them, whose values are wider once they are Python floats.
NARROW_FLOATS = {"float": np.float32, "float32": np.float32, "halffloat": np.float16, "float16": np.float16}


class BadRowError(ValueError):
    """Says why a row is not a question."""


Row: TypeAlias = dict[str, object] | BadRowError  # the columns of a row, or why it has none


def find_files(path: Path) -> list[Path]:
    """Returns the data files at a path: the file itself, or those of a folder and its subfolders.

    Raises:
        TaskError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise TaskError(f"task.path={path} does not exist; give a file or folder that does")
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise TaskError(f"task.path={path} has no {', '.join(SUFFIXES)} files; give another folder")
    return files


def read_questions(files: Iterable[Path], *, question_column: str, answer_column: str) -> list[Question]:
    """Reads the questions of jsonl and parquet files, in order.

    Raises:
        TaskError: lists the bad rows by file and line, or says that there is no row at all.
    """
    files = list(files)
    rows = (row for file in files for row in _rows(file))
    questions = make_questions(rows, question_column=question_column, answer_column=answer_column)
    if not questions:
        raise TaskError(f"{', '.join(map(str, files))}: empty; one question per line is needed")
    return questions


def make_questions(
    rows: Iterable[tuple[str, Row]],
    *,
    question_column: str,
    answer_column: str,
) -> list[Question]:
    """Turns rows into questions.

    Args:
        rows: where each row is, such as `data.jsonl:3`, and its columns or why it has none.
        question_column: name of the column that holds the question.
        answer_column: name of the column that holds the answer; see `gold_answer`. A null is an empty answer.

    Raises:
        TaskError: lists the first bad rows, each with its place.
    """
    questions, problems = [], []
    for place, row in rows:
        try:
            questions.append(_question(row, question_column, answer_column))
        except BadRowError as error:
            problems.append(f"{place}: {error}")
            if len(problems) == MAX_REPORTED_ROWS:
                problems.append("and perhaps more")
                break
    if problems:
        raise TaskError("bad rows; correct or remove them:\n  " + "\n  ".join(problems))
    return questions


def gold_answer(text: str) -> str:
    """Returns the answer of a worked solution: what follows the last `####`, else all of it."""
    return text.rpartition(FINAL_MARK)[2].strip()


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yields the place and the columns of each row of a file."""
    try:
        if file.suffix == PARQUET:
            yield from _parquet_rows(file)
        else:
            yield from _jsonl_rows(file)
    except OSError as error:
        raise TaskError(f"{file} cannot be read: {error}") from error


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Row]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}:{number}", _parse_line(line)


def _parse_line(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BadRowError(f"not UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return BadRowError(f"not JSON ({error}); one object per line is needed")
    if not isinstance(row, dict):
        return BadRowError(f"not a JSON object but {_shorten(row)}")
    return row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Row]]:
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


def _question(row: Row, question_column: str, answer_column: str) -> Question:
    if isinstance(row, BadRowError):
        raise row
    for column in (question_column, answer_column):
        if column not in row:
            raise BadRowError(f"no column {column!r}; there are {', '.join(map(repr, row)) or 'none'}")
    question, answer = row[question_column], row[answer_column]
    if not isinstance(question, str) or not question.strip():
        raise BadRowError(f"{question_column} is not a text but {_shorten(question)}")
    if not (answer is None or isinstance(answer, str) or _is_finite(answer)):
        raise BadRowError(f"{answer_column} is neither text nor number but {_shorten(answer)}")
    extra = {name: row[name] for name in row if name not in (question_column, answer_column)}
    return Question(question.strip(), gold_answer(_text(answer)), extra or None)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)


def _text(answer: object) -> str:
    """Returns an answer as text: a decimal with all its digits, a null as no text."""
    if answer is None:
        return ""
    return format(answer, "f") if isinstance(answer, Decimal) else str(answer)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
