"""Which questions a step sees, and their prompts as rows of token ids.

The order is a function of (seed, pass, position): nothing is saved and nothing is replayed on resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tunix_grpo import seeds


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Questions with their prompts, none longer than allowed.

    Attributes:
        questions: what the task gave.
        texts: the prompts as text.
        ids: the prompts as token ids.
        dropped: how many questions were left out because their prompt is too long.
    """

    questions: list
    texts: list[str]
    ids: list[list[int]]
    dropped: int

    def __len__(self) -> int:
        return len(self.questions)

    def longest(self) -> int:
        """Returns the longest prompt's length in tokens."""
        return max(len(ids) for ids in self.ids)


def build_prompts(
    questions: Sequence, tokenizer, to_messages, max_prompt_length: int, limit: int | None = None
) -> PromptSet:
    """Renders and encodes the prompts, leaving out those over the limit.

    Args:
        tokenizer: has render_prompt and encode.
        to_messages: question -> chat messages.
        max_prompt_length: tokens, BOS included.
        limit: stop after so many questions have been kept.
    """
    kept: list[tuple] = []
    dropped = 0
    for question in questions:
        if limit is not None and len(kept) == limit:
            break
        text = tokenizer.render_prompt(to_messages(question))
        ids = tokenizer.encode(text)
        if len(ids) > max_prompt_length:
            dropped += 1
        else:
            kept.append((question, text, ids))
    return PromptSet([k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept], dropped)


def step_indices(step: int, size: int, prompts_per_step: int, seed: int) -> np.ndarray:
    """Returns int64[P], the indices of step `step` (from 1) into a set of `size`.

    Steps read one endless sequence: pass after pass over the set, each in an order of its own.
    """
    places = np.arange((step - 1) * prompts_per_step, step * prompts_per_step)
    passes, offsets = places // size, places % size
    orders = {p: seeds.generator("training order", seed, int(p)).permutation(size) for p in np.unique(passes)}
    return np.array([orders[p][offset] for p, offset in zip(passes, offsets, strict=True)])
