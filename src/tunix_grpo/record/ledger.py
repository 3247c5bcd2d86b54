"""The ledger as a file for people: `ledger.jsonl`, a line for every question that was asked."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from tunix_grpo.errors import one_line
from tunix_grpo.files import whole_file
from tunix_grpo.text.ledger import Ledger
from tunix_grpo.text.prompt_set import PromptSet

_log = logging.getLogger(__name__)


def write_ledger(ledger: Ledger, prompts: PromptSet, output_dir: Path, *, writes: bool = True) -> None:
    """Writes the file, whole: what all starts of the run have shown; none where nothing was counted.

    The checkpoints hold the same, so that a disk that refuses it is only a warning.
    """
    rows = np.flatnonzero(ledger.asked)
    if not (rows.size and writes):
        return
    file = output_dir / "ledger.jsonl"
    try:
        with whole_file(file) as written:
            _write_rows(ledger, prompts, rows, written)
    except OSError as error:
        _log.warning("%s could not be written (%s); training goes on", file, error.strerror or one_line(error))


def _write_rows(ledger: Ledger, prompts: PromptSet, rows: np.ndarray, file: Path) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for row in rows:
            question = prompts.questions[row]
            line = {
                "question": question.whole(),
                "answer": question.answer,
                "tries": int(ledger.tries[row]),
                "successes": int(ledger.successes[row]),
                "last_step": int(ledger.last_step[row]),
            }
            if question.level is not None:
                line["level"] = question.level
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
