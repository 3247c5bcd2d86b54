"""The completions of a run, put together for a page: numbers in columns to filter by, texts in packed chunks."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunix_grpo.files import Json, parse_json_line
from tunix_grpo.record.report.packing import Chunks

CHUNK_LETTERS = 1 << 19
"""Letters of a chunk of texts, about: a page reads one in some milliseconds."""
_LARGEST = sys.float_info.max
_NUMBERS = ("reward", "advantage", "length")
_START = b'{"step": '


class _Row(NamedTuple):
    """A line of the file; `others` is all of it."""

    step: int
    prompt: str
    completion: str
    answer: str
    others: dict[str, Json]


class Chosen(NamedTuple):
    """The steps whose completions are shown.

    Attributes:
        steps: None for all of them.
        total: completions of all steps.
    """

    steps: frozenset[int] | None
    total: int


@dataclasses.dataclass
class Columns:
    """What a page knows of all completions before it reads a text: a value a row, and a value a group.

    Attributes:
        rewards: reward part -> its value before its weight; None where it does not apply, or was not written.
        truncated: 1 for a completion that ran into the limit; None where that was not written.
        group_start: the first row of each group.
        group_step: the step of each group.
        group_question: which of the questions it answers.
    """

    reward: list[float | None] = dataclasses.field(default_factory=list)
    advantage: list[float | None] = dataclasses.field(default_factory=list)
    length: list[float | None] = dataclasses.field(default_factory=list)
    truncated: list[int | None] = dataclasses.field(default_factory=list)
    rewards: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    group_start: list[int] = dataclasses.field(default_factory=list)
    group_step: list[int] = dataclasses.field(default_factory=list)
    group_question: list[int] = dataclasses.field(default_factory=list)

    def add(self, line: dict[str, Json]) -> None:
        """Adds a row; what is no number is missing."""
        for name in _NUMBERS:
            getattr(self, name).append(_number(line.get(name)))
        truncated = line.get("truncated")
        self.truncated.append(int(truncated) if isinstance(truncated, bool) else None)
        parts = line.get("rewards")
        for name, value in parts.items() if isinstance(parts, dict) else ():
            column = self.rewards.setdefault(name, [])
            column += [None] * (len(self.reward) - 1 - len(column))
            column.append(_number(value))

    def filled(self) -> dict[str, object]:
        """Returns the columns, all of one length."""
        for column in self.rewards.values():
            column += [None] * (len(self.reward) - len(column))
        return dict(vars(self))


class Packed(NamedTuple):
    """Completions, packed.

    Attributes:
        columns: of `Columns`.
        texts: chunks of completions, in order.
        questions: chunks of [prompt, answer], in the order in which they were asked first.
        total: completions that the run has written; more than there are here where steps are left out.
        unreadable: lines that are no JSON object with a step, a prompt and a completion.
    """

    columns: Columns
    texts: Chunks
    questions: Chunks
    total: int
    unreadable: int


def pack(file: Path, num_generations: int, most: int) -> Packed:
    """Packs a file of completions.

    Args:
        file: JSON lines, those of a group one after another; it may be missing.
        num_generations: completions of a group.
        most: completions that are taken; where there are more, whole steps are left out, evenly over the run.
    """
    chosen = choose_steps(file, most)
    columns, texts, questions = Columns(), Chunks(CHUNK_LETTERS), Chunks(CHUNK_LETTERS)
    number_of: dict[str, int] = {}
    unreadable, last = 0, None
    for line in _lines(file):
        if chosen.steps is not None and (step := _step_of(line)) is not None and step not in chosen.steps:
            continue
        row = _row(line)
        if row is None:
            unreadable += 1
            continue
        if row.prompt not in number_of:
            number_of[row.prompt] = len(number_of)
            questions.add([row.prompt, row.answer])
        count = len(columns.reward)
        if (row.step, row.prompt) != last or count - columns.group_start[-1] == num_generations:
            columns.group_start.append(count)
            columns.group_step.append(row.step)
            columns.group_question.append(number_of[row.prompt])
            last = row.step, row.prompt
        columns.add(row.others)
        texts.add(row.completion)
    total = len(columns.reward) if chosen.steps is None else chosen.total
    return Packed(columns, texts, questions, total, unreadable)


def choose_steps(file: Path, most: int) -> Chosen:
    """Returns which steps are taken so that there are at most so many completions: the first, the last, evenly between.

    Where even one step has more, the last one is taken.
    """
    counts: dict[int, int] = {}
    for line in _lines(file):
        step = _step_of(line)
        if step is not None:
            counts[step] = counts.get(step, 0) + 1
    total, steps = sum(counts.values()), sorted(counts)
    if total <= most:
        return Chosen(None, total)
    for number in range(max(2, most * len(steps) // total), 1, -1):
        taken = [steps[index * (len(steps) - 1) // (number - 1)] for index in range(number)]
        if sum(counts[step] for step in taken) <= most:
            return Chosen(frozenset(taken), total)
    return Chosen(frozenset(steps[-1:] if most else []), total)


def _lines(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file; none of one that is missing, and not the one that is still being written."""
    if file.is_file():
        with file.open("rb") as lines:
            yield from (line for line in lines if line.endswith(b"\n"))


def _step_of(line: bytes) -> int | None:
    """Returns the step of a line, which stands first in those that a run writes, without reading all of it."""
    digits = line[len(_START) : len(_START) + 20].partition(b",")[0]
    if line.startswith(_START) and digits.isdigit():
        return int(digits)
    row = _row(line)
    return None if row is None else row.step


def _row(line: bytes) -> _Row | None:
    """Reads a line; None where it is no JSON object with a step, a prompt and a completion."""
    try:
        read = parse_json_line(line)
    except ValueError:
        return None
    step, prompt, completion, answer = (read.get(name) for name in ("step", "prompt", "completion", "answer"))
    if not (isinstance(step, int) and isinstance(prompt, str) and isinstance(completion, str)):
        return None
    return _Row(int(step), prompt, completion, answer if isinstance(answer, str) else "", read)


def _number(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -_LARGEST <= value <= _LARGEST else None
