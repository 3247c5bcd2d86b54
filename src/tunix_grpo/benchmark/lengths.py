"""How long real answers and completions are, as `tools/record_lengths.py` has recorded it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tunix_grpo import seeds

_FOLDER = Path(__file__).parent.parent / "assets" / "benchmark"
SHORTEST = 5  # tokens; a recorded answer that is shorter counts as one of so many
_LONGEST = 256  # tokens at which the recorded completions were cut


def answer_lengths(count: int, longest: int, seed: int) -> np.ndarray:
    """Returns int[count], the tokens of answers: the recorded ones, again and again, in an order of the seed."""
    recorded = np.clip(_recorded("answer_lengths.json"), SHORTEST, None)
    lengths = np.minimum(np.resize(recorded, count), longest)
    return seeds.generator("benchmark questions", seed, 1).permutation(lengths)


def completion_lengths(count: int, longest: int, seed: int) -> np.ndarray:
    """Returns int[count], the tokens of a step's completions, 1 to `longest`, in an order of the seed.

    They are spread over the recorded ones from the shortest to the longest, so that few have the same mix as many, and
    are scaled so that what was cut when it was recorded has `longest` tokens.
    """
    recorded = np.sort(_recorded("completion_lengths.json"))
    places = (2 * np.arange(count) + 1) * len(recorded) // (2 * count)
    lengths = np.maximum(np.rint(recorded[places] * longest / _LONGEST).astype(int), 1)
    return seeds.generator("benchmark questions", seed, 2).permutation(lengths)


def _recorded(name: str) -> np.ndarray:
    return np.array(json.loads((_FOLDER / name).read_text()))
