"""Rows of token ids as the model sees them: padded, with what is padding known from lengths.

Letters: P prompts, G completions of each, B = P * G rows (row i belongs to prompt i // G), S prompt tokens, T
completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)  # on the device or on the host


class Completions(NamedTuple, Generic[Array]):
    """Prompts with their completions, as the model sees them.

    Attributes:
        prompt_tokens: int32[P, S], padded on the left.
        prompt_valid: bool[P, S].
        tokens: int32[B, T], padded on the right.
        lengths: int32[B], the end-of-turn token included.
        prompt: int32[B], which of its device's prompts each row has; None: row i has prompt i // G.
    """

    prompt_tokens: Array
    prompt_valid: Array
    tokens: Array
    lengths: Array
    prompt: Array | None = None

    def mask(self) -> jax.Array:
        """Returns bool[B, T], True for the tokens that belong to the completion."""
        return jnp.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def rows(self, prompts: np.ndarray, rows: np.ndarray) -> Completions[Array]:
        """Returns the prompts at the indices int[p], and the completions at int[b]."""
        of_prompts = self.prompt_tokens[prompts], self.prompt_valid[prompts]
        return Completions(*of_prompts, self.tokens[rows], self.lengths[rows])


def rows_of(prompts: np.ndarray, group: int) -> np.ndarray:
    """Returns int[p * G], the completions of the prompts int[p], G = `group` of each."""
    return (prompts[:, None] * group + np.arange(group)).reshape(-1)


def left_padded(rows: Sequence[Sequence[int]], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int32[P, width] token ids and bool[P, width], True where a token is real."""
    tokens = np.full((len(rows), width), pad_id, np.int32)
    valid = np.zeros((len(rows), width), bool)
    for row, ids in enumerate(rows):
        tokens[row, width - len(ids) :] = ids
        valid[row, width - len(ids) :] = True
    return tokens, valid
