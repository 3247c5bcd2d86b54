"""The local record, one JSON object per line: what a start has logged, and what a run has over all its starts."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import parse_json_line, whole_file
from tunix_grpo.record.tracker import CompletionRecord

logger = logging.getLogger(__name__)


class JsonlTracker:
    """Appends to `metrics.jsonl` and `completions.jsonl`; a line is on disk when a call returns.

    Floats are written in their shortest exact form, so reading them back loses nothing. A file that cannot be
    written stops the run with a UserError, because all other trackers only hold copies of these files.
    """

    def __init__(self, output_dir: Path, *, resume_step: int, completions: bool = True) -> None:
        """Opens both files, which keep only lines of steps up to `resume_step` (0: none).

        Args:
            completions: False where the run samples none; then there is no file of them.
        """
        with disk_errors(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
        self._metrics = continued(output_dir / "metrics.jsonl", resume_step)
        self._completions = continued(output_dir / "completions.jsonl", resume_step) if completions else None

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line: `step` first, then the metrics in the order given."""
        append(self._metrics, to_line({"step": step, **metrics}))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Writes one line per completion."""
        assert self._completions is not None or not records
        if self._completions is not None:
            append(self._completions, "".join(to_line(dataclasses.asdict(r)) for r in records))

    def close(self, *, failed: bool = False) -> None:
        """Closes both files."""
        self._metrics.close()
        if self._completions is not None:
            self._completions.close()


class HistoryTracker:
    """Appends the metrics to a file beside the checkpoints, so that a restart in a new run folder knows what was."""

    def __init__(self, history: Path, output_dir: Path, *, resume_step: int) -> None:
        """Opens the file, which keeps only lines of steps up to `resume_step` (0: none).

        Args:
            history: the file. Checkpoints of versions up to 0.1 have none: then it begins with the lines of the run
                folder, where the run goes on in the one that it had.
            output_dir: the run folder, which holds no record of another run.
        """
        own = output_dir / "metrics.jsonl"
        with disk_errors(history):
            history.parent.mkdir(parents=True, exist_ok=True)
            if resume_step > 0 and own.is_file() and not history.exists():
                with whole_file(history) as written:
                    shutil.copyfile(own, written)
        self._file = continued(history, resume_step)

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line, as in `metrics.jsonl`."""
        append(self._file, to_line({"step": step, **metrics}))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Keeps none: they belong to the run folder."""

    def close(self, *, failed: bool = False) -> None:
        """Closes the file."""
        self._file.close()


def continued(path: Path, resume_step: int) -> FileIO:
    """Opens a file to append to it, without the lines of steps after `resume_step`; 0 empties it."""
    with disk_errors(path):
        if resume_step == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            drop_lines_after(path, resume_step)
        return path.open("ab", buffering=0)


def append(file: FileIO, lines: str) -> None:
    """Writes all of the lines or none of them, so that a step's are there as a whole."""
    # A lone surrogate in a completion has no UTF-8 form; its \udcxx escape is valid JSON.
    content = lines.encode("utf-8", "backslashreplace")
    with disk_errors(file.name):
        size = os.fstat(file.fileno()).st_size
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns an error of the disk into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{path}: cannot be written ({reason}); make room and start the same command again") from error


def to_line(content: dict) -> str:
    """Returns an object as a line."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def drop_lines_after(path: Path, step: int) -> None:
    """Rewrites a file of JSON lines, whole or not at all, without the lines of later steps.

    A line that a killed process left unfinished is dropped too, with a warning.
    """
    num_broken = 0
    with whole_file(path) as written, path.open("rb") as old, written.open("wb") as new:
        for line in old:
            line_step = _step_of(line)
            if line_step is None:
                num_broken += 1
            elif line_step <= step:
                new.write(line)
    if num_broken:
        logger.warning("dropped %d unreadable line(s) from %s", num_broken, path)


def drop_evaluation(path: Path, step: int) -> None:
    """Rewrites a file of metrics, whole or not at all, without what an evaluation of a step has shown."""
    if not path.is_file():
        return
    with disk_errors(path), whole_file(path) as written, path.open("rb") as old, written.open("wb") as new:
        new.writelines(line for line in old if not (_step_of(line) == step and b'"timing/eval"' in line))


def _step_of(line: bytes) -> int | None:
    """Reads the step of a line; None if the line is not a whole JSON object with a step."""
    try:
        step = parse_json_line(line).get("step")
    except ValueError:
        return None
    return step if isinstance(step, int) else None
