"""Which level is asked, of questions that have levels: up when it has become easy, down when it is too hard.

The bounds are those of reasoning-gym's own trainer (github.com/open-thought/reasoning-gym, training/).
"""

from __future__ import annotations

import numpy as np

from tunix_grpo.text.ledger import Ledger, Outcomes
from tunix_grpo.text.prompt_set import PromptSet

UP, DOWN = 0.70, 0.10
"""Success rates above and below which the level changes."""
WINDOW = 20
"""Groups of completions that are looked at; all of them of the level that is asked."""


def start_levels(ledger: Ledger, training: PromptSet, heldout: PromptSet) -> np.ndarray | None:
    """Returns int[N], the level of each training question; None where not all have one.

    The ledger gets a level where it has none: that of the held-out questions, or the nearest that there is.
    """
    given = [question.level for question in training.questions]
    if None in given:
        return None
    levels = np.array(given, int)
    if ledger.level is None or ledger.level not in levels:
        there, wanted = np.unique(levels), heldout.questions[0].level
        ledger.level = int(there[0] if wanted is None else there[np.argmin(np.abs(there - wanted))])
    return levels


def note_level(ledger: Ledger, levels: np.ndarray, outcomes: Outcomes) -> None:
    """Adds a step's groups to the recent ones of the ledger's level, and changes the level where that is due.

    Args:
        levels: int[N], the level of each question.
    """
    assert ledger.level is not None
    judged = outcomes.tries > 0
    ledger.recent += (outcomes.successes[judged] / outcomes.tries[judged]).tolist()
    ledger.recent = ledger.recent[-WINDOW:]
    if len(ledger.recent) < WINDOW:
        return
    rate = sum(ledger.recent) / WINDOW
    others = np.unique(levels)
    above, below = others[others > ledger.level], others[others < ledger.level]
    if rate > UP and above.size:
        ledger.level, ledger.recent = int(above[0]), []
    elif rate < DOWN and below.size:
        ledger.level, ledger.recent = int(below[-1]), []
