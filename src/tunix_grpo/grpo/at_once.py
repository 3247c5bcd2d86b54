"""A rollout by one program: all completions are there when the last one has ended."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.drawing import Drawn, DrawRule, Sampling
from tunix_grpo.decoder.generation import generate
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.grpo.engine import Completion
from tunix_grpo.grpo.stages import Start
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import ModelForm


def completions_at_once(
    form: ModelForm, mesh: jax.sharding.Mesh, start: Start, rule: DrawRule
) -> Iterator[list[Completion]]:
    """Yields the completions, each by its row, when all are drawn."""
    (trained, frozen), *asked = start[:4]
    with layouts.on(mesh):
        drawn = completions_drawn(
            form, trained, frozen, *asked, rule.config, stop_ids=rule.stop_ids, pad_id=rule.pad_id, limits=start.limits
        )
    yield [
        Completion(row, tokens[:length], logps[:length], bool(stopped))
        for row, (tokens, logps, length, stopped) in enumerate(zip(*layouts.fetched(drawn), strict=True))
    ]


# Of the module, not of a sampler, so that the jobs of a sweep in one process share what is compiled.
@functools.partial(jax.jit, static_argnames=("form", "config", "stop_ids", "pad_id"))
def completions_drawn(
    form: ModelForm,
    trained: LeafTree,
    frozen: Weights,
    tokens: jax.Array,
    valid: jax.Array,
    keys: jax.Array,
    config: Sampling,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
    limits: jax.Array | None = None,
) -> Drawn:
    """Draws the completions of prompts; see `generate`."""
    return generate(
        form.spec,
        form.decoder_weights(trained, frozen),
        tokens,
        valid,
        keys,
        config,
        stop_ids=stop_ids,
        pad_id=pad_id,
        attention_form=form.attention_form,
        limits=limits,
        copies=form.copies,
    )
