"""Completions from a file, as rewards are given them, and what they gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunix_grpo.config.score import ScoreConfig
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Failure, Reward, Samples, Scored
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.tasks.columns import Asked, Row, last_text, read_asked
from tunix_grpo.tasks.files import gold_answer, rows_of_file
from tunix_grpo.tasks.graders import build_grade
from tunix_grpo.tasks.text_rows import BadRowError

OF_A_RUN = "completions.jsonl"
# What a run and `scripts/generate.py` write beside a completion, which no data has as a column.
_RECORDED = ("step", "prompt", "rewards", "reward", "advantage", "length", "truncated")
# A guess where a file says no length: what tokenizers of English make of a text.
LETTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file holds.

    Attributes:
        places: where each row is, such as `answers.jsonl:3`.
        samples: of all rows; the steps of a run's rows are in `steps`.
        steps: of each row; 0 where the file has none.
        guessed_lengths: rows whose lengths are guessed from their letters.
    """

    places: list[str]
    samples: Samples
    steps: list[int]
    guessed_lengths: int

    def batches(self, questions: int) -> list[list[int]]:
        """Returns the rows of each call: up to so many questions of one step."""
        size = self.samples.num_generations
        found: list[list[int]] = []
        for first in range(0, len(self.samples), size):
            rows = list(range(first, first + size))
            if found and len(found[-1]) < questions * size and self.steps[found[-1][0]] == self.steps[first]:
                found[-1] += rows
            else:
                found.append(rows)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What rewards gave for the rows of a file.

    Attributes:
        places: where each row is.
        samples: all rows.
        rewards: the rewards, in order.
        parts: name of a reward -> what it gave for each row.
        seconds: name of a reward -> how long the call took that a row was in.
    """

    places: list[str]
    samples: Samples
    rewards: list[Reward]
    parts: dict[str, list[Scored | Failure]]
    seconds: dict[str, list[float]]

    def totals(self) -> list[float | None]:
        """Returns the weighted sum of each row's parts; None where a part that counts could not be had."""
        return [self._total(row) for row in range(len(self.samples))]

    def _total(self, row: int) -> float | None:
        total = 0.0
        for reward in self.rewards:
            value = self.parts[reward.name][row]
            if isinstance(value, Failure) and reward.weight != 0:
                return None
            if isinstance(value, Scored) and value.value is not None:
                total += reward.weight * value.value
        return total


def read_rows(config: ScoreConfig) -> Rows:
    """Reads the completions that are to be scored.

    Raises:
        UserError: a row has no completion, or the file cannot be read.
    """
    file = Path(config.run or "", OF_A_RUN) if config.run is not None else Path(config.file or "")
    if not file.is_file():
        raise UserError(f"{'run' if config.run else 'file'}={config.run or config.file}: there is no file {file}")
    rows = list(rows_of_file(file))
    if config.run is not None and rows and isinstance(rows[-1][1], BadRowError) and _lacks_its_end(file):
        rows.pop()
        rows = rows[: len(rows) - len(rows) % (config.num_generations or 1)]
    read = [_read(place, row, config) for place, row in rows]
    if not read:
        raise UserError(f"{file}: it holds no completions; give another file")
    questions = [each.question for each in read]
    lengths = [each.length for each in read]
    guessed = [max(1, -(-len(each.completion) // LETTERS_PER_TOKEN)) for each in read]
    known = [length or guess for length, guess in zip(lengths, guessed, strict=True)]
    group = config.num_generations or _group_size([(each.step, each.question.question) for each in read])
    if len(read) % group:
        raise UserError(
            f"num_generations={group}: {file} has {len(read)} completions, which is no multiple of it; "
            "give the number of completions that each question has"
        )
    samples = Samples(
        prompts=[each.prompt for each in read],
        completions=[each.completion for each in read],
        questions=questions,
        task=ExactTask("file", questions, questions, build_grade(config.grader, config.grader_timeout_s)),
        token_lengths=known,
        step=0,
        num_generations=group,
        max_tokens=config.max_tokens or max(known),
    )
    return Rows([each.place for each in read], samples, [each.step for each in read], lengths.count(None))


def _lacks_its_end(file: Path) -> bool:
    """Says whether the last line of a run's record is still being written, or was when the run was killed."""
    return not file.read_bytes().endswith(b"\n")


def _group_size(keys: Sequence[tuple[int, str]]) -> int:
    """Returns the completions that each question has, which stand in a row; 1 where they differ in number."""
    sizes = [1]
    for before, key in zip(keys, keys[1:], strict=False):
        if key == before:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes[0] if len(set(sizes)) == 1 else 1


@dataclass(frozen=True, slots=True)
class _Read:
    """A row of the file."""

    place: str
    prompt: str
    completion: str
    question: Question
    length: int | None
    step: int

    @classmethod
    def of(cls, place: str, row: Row | BadRowError, config: ScoreConfig) -> _Read:
        if isinstance(row, BadRowError):
            raise row
        if config.completion_column not in row:
            near = did_you_mean(config.completion_column, list(row))
            raise UserError(
                f"{place}: it has no column {config.completion_column}{near}; it has {', '.join(row)}; "
                "give completion_column=NAME"
            )
        completion = last_text(row[config.completion_column])
        if not isinstance(completion, str):
            raise BadRowError(f"{config.completion_column} is no text")
        question = _question(row, config)
        prompt = row.get("prompt")
        return cls(
            Path(place).name,
            prompt if isinstance(prompt, str) else question.question,
            completion,
            question,
            _whole(row.get("length")),
            _whole(row.get("step")) or 0,
        )


def _read(place: str, row: Row | BadRowError, config: ScoreConfig) -> _Read:
    try:
        return _Read.of(place, row, config)
    except BadRowError as error:
        raise UserError(f"{place}: {error}; correct or remove the row") from error


def _question(row: Mapping[str, object], config: ScoreConfig) -> Question:
    column = config.question_column if config.question_column in row else "prompt"
    asked = read_asked(row[column], column) if column in row else Asked("", None, None)
    answer = last_text(row.get(config.answer_column))
    gold = gold_answer("" if answer is None else str(answer))
    own = (config.completion_column, config.question_column, config.answer_column)
    recorded = _RECORDED if "rewards" in row or "truncated" in row else ()
    extra = {name: value for name, value in row.items() if name not in (*own, *recorded)}
    return Question(asked.question, gold, extra or None, asked.turns)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
