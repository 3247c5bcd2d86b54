"""The ledger as a file for people: `ledger.jsonl`, a line for every question that was asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tunix_grpo.files import whole_file
from tunix_grpo.record.jsonl import disk_errors
from tunix_grpo.text.ledger import Ledger
from tunix_grpo.text.prompt_set import PromptSet


def write_ledger(ledger: Ledger, prompts: PromptSet, output_dir: Path) -> None:
    """Writes the file, whole: what all starts of the run have shown; none where nothing was counted.

    Raises:
        UserError: the disk is full, or fails otherwise.
    """
    rows = np.flatnonzero(ledger.asked)
    if not rows.size:
        return
    file = output_dir / "ledger.jsonl"
    with (
        disk_errors(file),
        whole_file(file) as written,
        written.open("w", encoding="utf-8", errors="backslashreplace") as lines,
    ):
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
