"""The arithmetic of an optimizer update, and its numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tunix_grpo.decoder.layouts import put
from tunix_grpo.grpo.loss import LossSums
from tunix_grpo.grpo.spikes import Limits, Spikes
from tunix_grpo.grpo.step import UpdateHealth
from tunix_grpo.model.layout import LeafTree

Tree = TypeVar("Tree")


class Update(NamedTuple):
    """The numbers of one optimizer update.

    Attributes:
        norm: float32[], of its gradient before clipping.
        made: bool[], False where it was left out.
    """

    sums: LossSums
    norm: jax.Array
    made: jax.Array

    def is_finite(self) -> bool:
        """Says whether all its numbers are; they must be on the host."""
        return bool(np.isfinite([*self.sums, self.norm]).all())


def apply_gradient(
    tx: optax.GradientTransformation,
    params: optax.Params,
    state: optax.OptState,
    gradient: optax.Updates,
    loss: jax.Array,
    limits: Limits,
) -> tuple[optax.Params, optax.OptState, jax.Array, jax.Array]:
    """Returns new parameters, new optimizer state, the gradient's norm before clipping, and whether they are new.

    A loss or a gradient that is not finite, or above the limits, changes no bit of either.
    """
    norm = optax.global_norm(gradient)
    made = jnp.isfinite(norm) & jnp.isfinite(loss) & (norm <= limits.norm) & (loss <= limits.loss)
    updates, new_state = tx.update(gradient, state, params)
    new = (optax.apply_updates(params, updates), new_state)
    params, state = jax.tree.map(functools.partial(jnp.where, made), new, (params, state))
    return params, state, norm, made


def applying(params_layout: object, state_layout: object) -> Callable[..., Any]:
    """Returns `apply_gradient` for parameters and state that lie so; the new ones take the memory of the old."""
    layouts = (params_layout, state_layout, None, None)
    return jax.jit(apply_gradient, static_argnums=0, donate_argnums=(1, 2), out_shardings=layouts)


def laid_out(tree: Tree, mesh: jax.sharding.Mesh) -> tuple[Tree, object]:
    """Returns a tree placed on the mesh, each leaf where it is or replicated, and the shardings."""

    def layout(leaf: jax.Array) -> jax.sharding.NamedSharding:
        if isinstance(leaf.sharding, jax.sharding.NamedSharding):
            return leaf.sharding
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    layouts = jax.tree.map(layout, tree)
    return put(tree, layouts), layouts


def no_gradient(params: LeafTree, mesh: jax.sharding.Mesh) -> tuple[LeafTree, LossSums]:
    """Returns zeros that lie as the programs of an update leave their sums, so that none is compiled twice."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), params)
    return zeros, LossSums(*(jnp.zeros((), device=replicated) for _ in LossSums._fields))


def update_health(passes: Sequence[Sequence[Update]], spikes: Spikes) -> UpdateHealth:
    """Returns which of a step's updates were no good, and adds them to those that later ones are compared with.

    Args:
        passes: as `update_metrics` takes them.
    """
    updates = [update for updates in passes for update in updates]
    return UpdateHealth(
        not_finite=sum(not np.isfinite([update.sums.loss, update.norm]).all() for update in updates),
        left_out=sum(not update.made for update in updates),
        spikes=spikes.note((float(update.sums.loss), float(update.norm)) for update in updates),
    )


def update_metrics(
    passes: Sequence[Sequence[Update]], differences: Sequence[tuple[jax.Array, ...]], *, with_kl: bool
) -> dict[str, float]:
    """Returns the numbers of a step's updates, by the names of `record.metrics.METRICS`.

    Clip ratios and the mean ratio are of the last pass, in which they are largest; all others of the first. What is not
    finite is left out: an update is, and what none has.

    Args:
        passes: of each pass over the completions the update from each minibatch, on the host.
        differences: of each micro batch, as `loss.sampling_difference` gives them, on the host.
        with_kl: the loss has a KL term.
    """
    metrics: dict[str, float] = {}
    kl: dict[str, float] = {}
    if first := [update for update in passes[0] if update.is_finite()]:
        sums = _added(first)
        metrics |= {
            "loss": sums["loss"] / len(first),
            "entropy": sums["entropy"] / sums["tokens"],
            "grad_norm": sum(float(update.norm) for update in first) / len(first),
        }
        kl = {"kl": sums["kl"] / sums["tokens"]} if with_kl else {}
    if last := [update for update in passes[-1] if update.is_finite()]:
        sums = _added(last)
        low, high = sums["clipped_low"] / sums["tokens"], sums["clipped_high"] / sums["tokens"]
        metrics |= {
            "ratio/mean": sums["ratio"] / sums["tokens"],
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low + high,
        }
    return metrics | kl | _sampling_metrics(differences)


def _sampling_metrics(differences: Sequence[tuple[jax.Array, ...]]) -> dict[str, float]:
    """Returns how far the sampler's log-probabilities are from the trainer's, as far as that is finite."""
    total, largest, tokens = (np.asarray(column, np.float64) for column in zip(*differences, strict=True))
    metrics = {
        "sampling/sampling_logp_difference/mean": float(total.sum() / tokens.sum()),
        "sampling/sampling_logp_difference/max": float(largest.max()),
    }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _added(updates: Sequence[Update]) -> dict[str, float]:
    """Returns the sums of several updates by name; at least one token, so that they can be divided by it."""
    columns = zip(*(update.sums for update in updates), strict=True)
    sums = [float(np.sum(column, dtype=np.float64)) for column in columns]
    named = dict(zip(LossSums._fields, sums, strict=True))
    return named | {"tokens": max(named["tokens"], 1.0)}
