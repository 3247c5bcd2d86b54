"""The answers of an evaluation on disk, a line each, so that it can stop anywhere and go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import Json, read_json, read_json_lines, whole_file
from tunix_grpo.run.identity import content_digest, differences

FOLDER = "answers"
EVALUATION, QUESTIONS, PICTURE = "evaluation.json", "questions.jsonl", "evaluation.png"
_LOCK = ".lock"
_WAY_OUT = "give another folder with to=DIR, or overwrite=true"
_MOST_SHOWN = 6  # differences of settings
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="ignore"))
class Line:
    """One answer, and what it is worth.

    Attributes:
        question: its place among the questions, from 0.
        question_id: as `asked.question_ids` has it.
        sample: which sampled answer it is, from 0; None is the greedy one.
        prompt: digest of the prompt's tokens.
        completion: without the stop token.
        answer: what the completion gives as its answer, None where it gives none; majorities vote on it.
        length: in tokens, the stop token included.
        truncated: it ran into the token limit.
        score: of the task, in [0, 1].
        right: the score is 1, whatever the form.
        in_form: it has the form that was asked for; None where none is.
        rewards: name -> value, unweighted; None where it does not apply or could not be had.
        reward: the weighted sum; None where a reward could not be had.
    """

    question: int
    question_id: str
    sample: int | None
    prompt: str
    completion: str
    answer: str | None
    length: int
    truncated: bool
    score: float
    right: bool
    in_form: bool | None
    rewards: Mapping[str, float | None]
    reward: float | None

    @property
    def strictly_right(self) -> bool:
        """Whether it is right and in the form that was asked for."""
        return self.right and bool(self.in_form)


_LINE = TypeAdapter(Line)


def prompt_digest(ids: Iterable[int]) -> str:
    """Returns what tells a prompt from another one."""
    return content_digest(",".join(map(str, ids)).encode())


class Answers:
    """The answers of one model to the questions of one task; only one process may hold a folder."""

    def __init__(self, file: Path, settings: Mapping[str, Json], prompts: Mapping[str, str]) -> None:
        """Opens the file, without a last line that was not written whole.

        Args:
            file: one answer a line; `file.settings.json` beside it says what the answers belong to.
            settings: that they are to belong to.
            prompts: id of a question -> digest of its prompt.

        Raises:
            UserError: the file is of other settings or prompts, or damaged.
        """
        self.file = file
        try:
            self._require(settings)
            self._stream = file.open("ab", buffering=0)
            self._drop_torn_line()
            self.lines = self._read(prompts)
        except OSError as error:
            raise not_written(file, error) from error

    def add(self, lines: Iterable[Line]) -> None:
        """Writes answers, each by one call of the system, which a killed process has made or not."""
        try:
            for line in lines:
                content = json.dumps(_LINE.dump_python(line), allow_nan=False).encode() + b"\n"
                while content:
                    content = content[self._stream.write(content) :]
                self.lines[line.question_id, line.sample] = line
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise not_written(self.file, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _require(self, settings: Mapping[str, Json]) -> None:
        place = self.file.with_suffix(".settings.json")
        if self.file.exists() and not place.exists():
            raise UserError(f"{self.file}: {place.name} is missing, which says what they answer; {_WAY_OUT}")
        if place.exists():
            # As JSON holds it: tuples become lists.
            other = list(differences(read_json(place), json.loads(json.dumps(settings))).values())
            if other:
                more = f" and {len(other) - _MOST_SHOWN} more" if len(other) > _MOST_SHOWN else ""
                raise UserError(
                    f"{self.file.parent.parent}: it holds the answers of another evaluation "
                    f"({'; '.join(other[:_MOST_SHOWN])}{more}); {_WAY_OUT}"
                )
            return
        with whole_file(place) as written:
            written.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", "utf-8")

    def _drop_torn_line(self) -> None:
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s: its last line was not written whole and is dropped", self.file)
            self._stream.truncate(whole)

    def _read(self, prompts: Mapping[str, str]) -> dict[tuple[str, int | None], Line]:
        lines: dict[tuple[str, int | None], Line] = {}
        for number, content in enumerate(read_json_lines(self.file), 1):
            try:
                line = _LINE.validate_python(content)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise UserError(
                    f"{self.file}:{number}: {where} is not what it was ({first['msg']}); {_WAY_OUT}"
                ) from error
            if prompts.get(line.question_id, line.prompt) != line.prompt:
                raise UserError(
                    f"{self.file}:{number}: the model was given another prompt for this question, as by a chat "
                    f"template that writes the day; give that day as task.date=YYYY-MM-DD, or {_WAY_OUT}"
                )
            lines.setdefault((line.question_id, line.sample), line)
        return lines


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes out of it until the block or the process ends.

    Raises:
        UserError: it cannot be written to, or another process holds it.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a")
    except OSError as error:
        raise not_written(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"to={folder}: another evaluation is writing there; wait for it, or give to=DIR") from error
        except OSError as error:  # some network file systems
            _log.warning("%s cannot be locked (%s): do not start another evaluation in it", folder, error.strerror)
        yield


def clear(folder: Path) -> None:
    """Deletes the answers and results that an evaluation has left in a folder, and nothing else."""
    results = [folder / name for name in (EVALUATION, QUESTIONS, PICTURE)]
    for file in [*(folder / FOLDER).glob("*.jsonl"), *(folder / FOLDER).glob("*.settings.json"), *results]:
        file.unlink(missing_ok=True)


def not_written(place: Path, error: OSError) -> UserError:
    """Returns the sentence for an error of the disk."""
    reason = error.strerror or one_line(error)
    return UserError(f"{place}: cannot be written ({reason}); make room, or give another folder with to=DIR")
