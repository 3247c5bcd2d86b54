"""Demonstrations: what a model is to say, read from files, made of gold answers, or chosen among scored samples."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunix_grpo.config import SftConfig
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Question, Task
from tunix_grpo.tasks.columns import is_conversation, read_turns
from tunix_grpo.tasks.files import rows_of_file
from tunix_grpo.tasks.text_rows import BadRowError, Row, shorten
from tunix_grpo.text.answers import marked_answer

CONVERSATIONS = ("messages", "conversations")
PAIRS = (("prompt", "completion"), ("question", "completion"), ("prompt", "response"))
# What a run and `scripts/generate.py` write beside a completion, whose prompt stands as the model has read it.
RECORDED = "truncated"
_PLACE = re.compile(r"\{(\w+)\}")  # in answer_form
_log = logging.getLogger(__name__)

Turns = tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An answer of the assistant's that is trained, and what stands before it.

    Attributes:
        place: where it is from, such as `data.jsonl:3`.
        turns: the conversation before the answer, `{"role": ..., "content": ...}` each; () where `prompt` is given.
        prompt: the text before the answer, as the model reads it; "" where `turns` are given.
        answer: what is to be said.
        reward: of a sample; None where there is none.
    """

    place: str
    turns: Turns
    prompt: str
    answer: str
    reward: float | None = None

    def asked(self) -> str:
        """Returns what makes two questions one."""
        return self.prompt or json.dumps(self.turns, ensure_ascii=False)


@dataclass(slots=True)
class Chosen:
    """The demonstrations that are taken, and what of the rest is worth a word.

    Attributes:
        notes: sentences.
    """

    demonstrations: list[Demonstration]
    notes: list[str] = field(default_factory=list)


def read_demonstrations(config: SftConfig, task: Task) -> list[Demonstration]:
    """Returns the demonstrations that the settings ask for, in the order in which they stand.

    Raises:
        UserError: there are none, or a row is none.
    """
    if config.file is None:
        found = Chosen(list(gold_demonstrations(task, config.answer_form)))
    else:
        found = read_file(Path(config.file), config)
    if config.min_reward is not None:
        found = best_samples(found, config.min_reward)
    if config.max_per_question is not None:
        found = at_most(found, config.max_per_question)
    for note in found.notes:
        _log.info("%s: %s", "demonstrations" if config.file is None else config.file, note)
    if not found.demonstrations:
        what = f"file={config.file}" if config.file is not None else f"task.name={config.task.name}"
        raise UserError(f"{what}: no demonstration is left ({'; '.join(found.notes) or 'there is none'}); give others")
    return found.demonstrations


# --- from a task ---


def gold_demonstrations(task: Task, form: str) -> Iterator[Demonstration]:
    """Yields the gold answer to every training question, as a completion says it.

    A question without a gold answer is passed over.

    Args:
        form: with `{answer}`; `{question}` and `{COLUMN}` are filled in, too.

    Raises:
        UserError: the form names a column that the data has not.
    """
    for number, question in enumerate(task.train, 1):
        answer = marked_answer(question.answer).strip()
        if answer:
            said = _filled(form, question, answer)
            yield Demonstration(f"question {number}", _turns_of(question), "", said)


def _filled(form: str, question: Question, answer: str) -> str:
    values: dict[str, Any] = {**(question.extra or {}), "answer": answer, "question": question.question}

    def value(place: re.Match[str]) -> str:
        name = place[1]
        if not isinstance(values.get(name), str | int | float):
            there = [key for key, each in values.items() if isinstance(each, str | int | float)]
            raise UserError(
                f"answer_form={form}: the data has no text {{{name}}}{did_you_mean(name, there)}; "
                f"there are {', '.join(there)}"
            )
        return str(values[name])

    return _PLACE.sub(value, form)


def _turns_of(question: Question) -> Turns:
    return question.turns or ({"role": "user", "content": question.question},)


# --- from a file ---


def read_file(file: Path, config: SftConfig) -> Chosen:
    """Returns the demonstrations of a file: an assistant's turn each.

    Raises:
        UserError: a row is no demonstration, or the file cannot be read.
    """
    if not file.is_file():
        raise UserError(f"file={file}: there is no such file; give a file of demonstrations")
    found, cut = [], 0
    for place, row in rows_of_file(file):
        try:
            if isinstance(row, BadRowError):
                raise row
            if row.get(RECORDED) is True:  # it has no end that could be learned
                cut += 1
                continue
            found += _of_row(place, row, config)
        except BadRowError as error:
            raise UserError(f"{place}: {error}; correct or remove the row") from error
    notes = [f"{cut:,} completions were cut at their longest, and are left out"] if cut else []
    return Chosen(found, notes)


def _of_row(place: str, row: Row, config: SftConfig) -> list[Demonstration]:
    reward = _reward(place, row, config)
    conversation = next((name for name in CONVERSATIONS if name in row), None)
    if conversation is not None:
        return _answers(place, read_turns(row[conversation], conversation), 0, conversation, reward)
    pair = next((pair for pair in PAIRS if all(name in row for name in pair)), None)
    if pair is None:
        raise BadRowError(
            f"it has neither messages nor prompt and completion; it has {', '.join(map(str, row)) or 'nothing'}"
        )
    (prompt_name, name), prompt, answer = pair, row[pair[0]], row[pair[1]]
    if not (isinstance(answer, str) or is_conversation(answer)):
        raise BadRowError(f"{name} is no text but {shorten(answer)}")
    if isinstance(prompt, str) and not prompt.lstrip().startswith("[{"):
        said = answer if isinstance(answer, str) else read_turns(answer, name)[-1]["content"]
        if not prompt.strip():
            raise BadRowError(f"{prompt_name} is empty")
        if config.prompt_texts == "rendered" or (config.prompt_texts == "auto" and RECORDED in row):
            return [Demonstration(place, (), prompt, said, reward)]
        return [Demonstration(place, ({"role": "user", "content": prompt},), "", _said(said, name), reward)]
    turns = read_turns(prompt, prompt_name)
    spoken = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else read_turns(answer, name)
    return _answers(place, [*turns, *spoken], len(turns), name, reward)


def _answers(
    place: str, turns: Sequence[dict[str, str]], first: int, column: str, reward: float | None
) -> list[Demonstration]:
    """Returns the assistant's turns from `first` on, each behind all that was said before it."""
    spoken = [at for at, turn in enumerate(turns) if at >= first and turn["role"] == "assistant"]
    if not spoken:
        raise BadRowError(f"{column} has no turn of the assistant, which is what is learned")
    for at in spoken:
        if at == 0 or turns[at - 1]["role"] != "user":
            raise BadRowError(f"{column} has a turn of the assistant behind none of the user")
    return [Demonstration(place, tuple(turns[:at]), "", _said(turns[at]["content"], column), reward) for at in spoken]


def _said(text: str, column: str) -> str:
    if not text.strip():
        raise BadRowError(f"{column} has an empty answer")
    return text


def _reward(place: str, row: Mapping[str, Any], config: SftConfig) -> float | None:
    """Returns the reward of a sample; None where demonstrations have none.

    Raises:
        UserError: rewards are asked for and not there, or there and not asked for.
    """
    value = row.get(config.reward_column)
    if config.min_reward is None:
        if isinstance(value, int | float):
            raise UserError(
                f"{place}: it is a sample with a reward, perhaps a bad one; give min_reward=NUMBER, the lowest that is "
                "to be learned from"
            )
        return None
    if config.reward_column not in row:
        near = did_you_mean(config.reward_column, list(row))
        raise UserError(f"{place}: it has no column {config.reward_column}{near}; give reward_column=NAME")
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        what = f"its {config.reward_column} is no number but {shorten(value)}"
        raise UserError(f"{place}: {what}; give reward_column=NAME")
    return float("-inf") if value is None else float(value)


# --- the best of samples ---


def best_samples(found: Chosen, min_reward: float) -> Chosen:
    """Returns the samples with at least so high a reward; equal ones count once."""
    good = [each for each in found.demonstrations if each.reward is not None and each.reward >= min_reward]
    by_content: dict[tuple[str, str], Demonstration] = {}
    for each in good:
        by_content.setdefault((each.asked(), each.answer), each)
    different = list(by_content.values())
    note = (
        f"{len(good):,} of {len(found.demonstrations):,} samples have a reward of at least {min_reward:g}, "
        f"{len(different):,} of them different"
    )
    return Chosen(different, [*found.notes, note])


def at_most(found: Chosen, limit: int) -> Chosen:
    """Returns at most so many demonstrations of a question: those with the highest reward, of equals the first."""
    by_question: dict[str, list[int]] = {}
    for index, each in enumerate(found.demonstrations):
        by_question.setdefault(each.asked(), []).append(index)
    kept: set[int] = set()
    for indices in by_question.values():
        kept.update(sorted(indices, key=lambda index: -(found.demonstrations[index].reward or 0.0))[:limit])
    taken = [each for index, each in enumerate(found.demonstrations) if index in kept]
    note = f"{len(taken):,} demonstrations of {len(by_question):,} questions are taken, at most {limit} of each"
    return Chosen(taken, [*found.notes, note])
