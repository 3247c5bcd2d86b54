"""Where a row keeps its question and its answer: by column, by place inside a column, or as a conversation.

Data sets made for other trainers come with columns of their own. Where the usual names `question` and `answer` are not
there, those of TRL and verl are looked for, and what is found is said.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from tunix_grpo.tasks.text_rows import BadRowError, Row, shorten

QUESTION, ANSWER = "question", "answer"  # the usual names, which a user who gives none means
# The columns of TRL (prompt and completion or solution, messages), verl (prompt, reward_model), and common data sets.
OTHER_QUESTIONS = ("prompt", "messages", "conversations", "problem")
OTHER_ANSWERS = ("reward_model.ground_truth", "solution", "ground_truth", "completion")
LAST_TURN = "the last turn"  # in place of an answer's column: the conversation ends with the answer
# What the turns of a conversation are called, in OpenAI's form (role, content) and in ShareGPT's (from, value).
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model"), "assistant"),
}
_TURNS = re.compile(r"""\s*\[\s*\{\s*(["'])(?:role|content|from|value)["']\s*:""")
_ABSENT = object()
_log = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Where the question and the answer of a file's rows are: names of columns, dotted for a place inside one.

    Attributes:
        keeps_answer: the answer's column is another trainer's, and stays among the further columns.
    """

    question: str
    answer: str
    keeps_answer: bool = False


class Asked(NamedTuple):
    """What a row asks.

    Attributes:
        question: the text of the last turn of the user.
        turns: the whole conversation, `{"role": ..., "content": ...}` each; None where the question is all of it.
        answer: the turn of the assistant behind it, None where there is none.
    """

    question: str
    turns: tuple[dict[str, str], ...] | None
    answer: str | None


def find_columns(source: str, row: Row, question: str, answer: str) -> Columns:
    """Returns the columns to read, by the first row of a file.

    Args:
        source: what is read, for the message.
        question: the name that the settings give; dots lead into a column where no column has the name.
        answer: the same.
    """
    found_question, found_answer = question, answer
    if question == QUESTION and _look_up(row, question) is _ABSENT:
        found_question = next((name for name in OTHER_QUESTIONS if name in row), question)
    if answer == ANSWER and _look_up(row, answer) is _ABSENT:
        other = next((name for name in OTHER_ANSWERS if _look_up(row, name) is not _ABSENT), answer)
        value = row.get(found_question)
        found_answer = LAST_TURN if other == answer and _ends_with_answer(value) else other
    if (found_question, found_answer) == (question, answer):
        return Columns(question, answer)
    _log.info(
        "%s: the question is read from %s, the answer from %s; "
        "task.question_column= and task.answer_column= choose others",
        source,
        found_question,
        found_answer,
    )
    return Columns(found_question, found_answer, keeps_answer=found_answer != answer)


def value_at(row: Row, name: str, setting: str) -> Any:
    """Returns the value of a column, or of a place inside one such as `reward_model.ground_truth` or `choices.0`.

    Args:
        setting: that gives the name, for the error.

    Raises:
        BadRowError: there is no such place.
    """
    value = _look_up(row, name)
    if value is _ABSENT:
        there = ", ".join(map(repr, row)) or "none"
        way_out = f"give {setting}=COLUMN, or COLUMN.KEY for what is inside one"
        raise BadRowError(f"no column {name!r}; there are {there}", way_out=way_out)
    return value


def read_asked(value: object, column: str) -> Asked:
    """Returns what a text or a conversation asks.

    Raises:
        BadRowError: it is neither, or a conversation that does not end with a question.
    """
    value = _turns_of_text(value, column)
    if isinstance(value, str) and value.strip():
        return Asked(value.strip(), None, None)
    if not is_conversation(value):
        raise BadRowError(f"{column} is not a text but {shorten(value)}")
    turns = read_turns(value, column)
    answer = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise BadRowError(f"{column} does not end with a turn of the user (an answer may follow it)")
    question = turns[-1]["content"].strip()
    if not question:
        raise BadRowError(f"{column} ends with an empty turn of the user")
    return Asked(question, tuple(turns) if len(turns) > 1 else None, answer)


def is_conversation(value: object) -> TypeGuard[list[Mapping[str, Any]]]:
    """Says whether a value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def read_turns(value: object, column: str) -> list[dict[str, str]]:
    """Returns a conversation as turns of role and text; a text may hold it as JSON.

    Raises:
        BadRowError: it is none, or has a system message behind the first turn.
    """
    found = _turns_of_text(value, column)
    if not is_conversation(found):
        raise BadRowError(f"{column} is not a list of messages but {shorten(found)}")
    turns = [_turn(turn, column) for turn in found]
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise BadRowError(f"{column} has a system message behind the first turn")
    return turns


def last_text(value: object) -> Any:
    """Returns the text of the last turn of a conversation, as TRL's completions are; any other value as it is."""
    if is_conversation(value):
        return _turn(value[-1], "the answer")["content"]
    return value


def _look_up(row: Row, name: str) -> Any:
    """Returns the value of a column of this name, else what the dots of the name lead to."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return _ABSENT
    return value


def _turns_of_text(value: Any, column: str) -> Any:
    """Returns the conversation that a text is in JSON, as tables hold them; any other value as it is.

    Raises:
        BadRowError: it is a conversation as Python prints it.
    """
    turns = _TURNS.match(value) if isinstance(value, str) else None
    if turns is None:
        return value
    if turns.group(1) == "'":
        reason = f"{column} is a conversation as Python prints it, not JSON: {shorten(value)}"
        raise BadRowError(reason, way_out="save the data as JSON lines or parquet")
    with contextlib.suppress(ValueError):  # a question may begin so
        return json.loads(value)
    return value


def _ends_with_answer(value: object) -> bool:
    with contextlib.suppress(BadRowError):  # its row says so
        value = _turns_of_text(value, "")
    last = value[-1] if isinstance(value, list) and value else None
    return isinstance(last, Mapping) and ROLES.get(str(last.get("role", last.get("from")))) == "assistant"


def _turn(turn: Mapping[str, object], column: str) -> dict[str, str]:
    """Returns a turn as role and text; the text may be given in parts."""
    role, content = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadRowError(f"{column} has a turn of {shorten(role)}; known are {', '.join(ROLES)}")
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        words = [text for text in texts if isinstance(text, str)]
        content = "".join(words) if len(words) == len(texts) else None
    if not isinstance(content, str):
        raise BadRowError(f"{column} has a turn that is not text alone: {shorten(dict(turn))}")
    return {"role": ROLES[role.lower()], "content": content}
