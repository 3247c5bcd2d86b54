"""A rollout in stages: between them the host takes out what has ended, and the rest goes on in fewer rows.

Whoever scores completions gets them while the device draws the next stage, and may leave the rest undrawn. All rows
are at the same token and keep their keys, so a rollout in stages is the rollout that one program draws
(`decoder.generation.generate`).

The programs of a run are few: one for the first tokens, and one for each size of the cache (`cache_sizes`) with all
rows, with half of them and with a quarter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.cache import cache_sizes
from tunix_grpo.decoder.drawing import DrawRule
from tunix_grpo.decoder.generation import (
    Growing,
    block_of_device,
    drawn_until,
    first_tokens,
    padded_steps,
    with_room,
    with_rows,
)
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.grpo.engine import Completion, taken_out
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import ModelForm

# Tokens of a stage. A look at the rows costs a fraction of a token's time.
STAGE = 32
# Completions of at most so many tokens are drawn by one program: two stages have little to give.
SHORT = 2 * STAGE
# The rows that a rollout goes on in, as parts of all; fewer rows than these would save no time.
_PARTS, _MANY_ROWS = (1, 2, 4), 16


class Start(NamedTuple):
    """What completions are drawn from.

    Attributes:
        weights: the trained leaves and what stays, as `Model` holds them.
        prompt_tokens: int32[P, S], padded on the left.
        prompt_valid: bool[P, S].
        keys: key[B].
        limits: int32[B], tokens of each row; None: as many as the rule allows.
    """

    weights: tuple[LeafTree, Weights]
    prompt_tokens: jax.Array
    prompt_valid: jax.Array
    keys: jax.Array
    limits: jax.Array | None = None


def completions_in_stages(
    form: ModelForm, mesh: jax.sharding.Mesh, start: Start, rule: DrawRule
) -> Iterator[list[Completion]]:
    """Yields at the end of each stage the completions that have ended in it, each by its row."""
    with layouts.on(mesh):
        staged = _Staged(form, mesh, start, rule)
    return staged.completions()


class _Staged:
    """A rollout on its way."""

    def __init__(self, form: ModelForm, mesh: jax.sharding.Mesh, start: Start, rule: DrawRule):
        self._form, self._mesh, self._rule = form, mesh, rule
        rows, most, devices = len(start.keys), rule.config.max_tokens, mesh.shape["fsdp"]
        self._block = block_of_device()
        self._steps, self._reached = padded_steps(most, self._block), 0  # tokens behind the first, in all and so far
        self._sizes = cache_sizes(self._steps)  # from the present one on
        made, growing = _started(form, *start, rule, self._steps)
        self._weights = form.token_weights(made, start.weights[1])
        self._growing = _with_room(form, growing, self._sizes[0])
        self._owner = np.arange(rows)  # the place of what each row draws; -1 where that has ended
        self._limits = np.full(rows, most) if start.limits is None else np.asarray(layouts.fetched(start.limits))
        parts = _PARTS if rows >= _MANY_ROWS else _PARTS[:1]
        self._row_counts = [math.ceil(rows / part / devices) * devices for part in parts]

    def completions(self) -> Iterator[list[Completion]]:
        """Yields what has ended, stage by stage; each is on its way before the completions of the last are yielded."""
        ended: list[Completion] = []
        while True:
            if going_on := bool((self._owner >= 0).any()):
                with layouts.on(self._mesh):
                    self._drop_rows()
                    self._draw()
            yield ended
            if not going_on:
                return
            _, ended = taken_out(self._growing.drawn, self._owner, self._limits)

    def _drop_rows(self) -> None:
        """Goes on in the fewest rows that hold what is left, where that takes no more memory."""
        busy = self._owner >= 0
        count = min(count for count in self._row_counts if count >= busy.sum())
        if count < len(busy) and self._slots(count, count) <= self._slots(len(busy), len(self._growing.prompts.valid)):
            kept = np.argsort(~busy, kind="stable")[:count]
            self._growing = _with_rows(self._growing, kept)
            self._owner, self._limits = self._owner[kept], self._limits[kept]

    def _slots(self, rows: int, prompts: int) -> int:
        """Returns for how many tokens keys and values are held."""
        return rows * self._sizes[0] + prompts * self._growing.prompts.valid.shape[1]

    def _draw(self) -> None:
        """Sets the next stage going, in a cache that has room for it."""
        self._reached = min(self._reached + STAGE, self._steps)
        while self._sizes[0] < self._reached:
            self._sizes.pop(0)
            self._growing = _with_room(self._form, self._growing, self._sizes[0])
        self._growing = _continued(self._form, self._weights, self._growing, self._rule, self._reached, self._block)


# Of the module, not of a rollout, so that all rollouts of a process share what is compiled.
@functools.partial(jax.jit, static_argnames=("form", "rule", "steps"))
def _started(
    form: ModelForm,
    weights: tuple[LeafTree, Weights],
    prompt_tokens: jax.Array,
    prompt_valid: jax.Array,
    keys: jax.Array,
    limits: jax.Array | None,
    rule: DrawRule,
    steps: int,
) -> tuple[Weights, Growing]:
    asked = form.decoder_weights(*weights), prompt_tokens, prompt_valid, keys
    attention_form, copies = form.attention_form, form.copies
    token_weights, growing = first_tokens(
        form.spec, *asked, rule, steps, attention_form=attention_form, limits=limits, copies=copies
    )
    return form.made_for_tokens(token_weights), growing


@functools.partial(jax.jit, static_argnames=("form", "rule", "block"), donate_argnames="growing")
def _continued(
    form: ModelForm, weights: Weights, growing: Growing, rule: DrawRule, last: jax.Array | int, block: int
) -> Growing:
    return drawn_until(form.spec, weights, growing, rule, last, block)


@functools.partial(jax.jit, static_argnames=("form", "slots"))
def _with_room(form: ModelForm, growing: Growing, slots: int) -> Growing:
    return with_room(form.spec, growing, slots)


_with_rows = jax.jit(with_rows)
