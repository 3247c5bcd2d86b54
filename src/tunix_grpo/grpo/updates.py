"""The arithmetic of an optimizer update, and its numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from tunix_grpo.errors import UserError
from tunix_grpo.grpo.loss import LossSums

Tree = TypeVar("Tree")


def apply_gradient(
    tx: optax.GradientTransformation, params: optax.Params, state: optax.OptState, gradient: optax.Updates
) -> tuple[optax.Params, optax.OptState, jax.Array]:
    """Returns new parameters, new optimizer state and the gradient's norm before clipping.

    A gradient that is not finite changes nothing, so that the state of the last good step can still be saved.
    """
    norm = optax.global_norm(gradient)
    updates, new_state = tx.update(gradient, state, params)
    new = (optax.apply_updates(params, updates), new_state)
    params, state = jax.tree.map(functools.partial(jnp.where, jnp.isfinite(norm)), new, (params, state))
    return params, state, norm


def laid_out(tree: Tree, mesh: jax.sharding.Mesh) -> tuple[Tree, object]:
    """Returns a tree placed on the mesh, each leaf where it is or replicated, and the shardings."""

    def layout(leaf: jax.Array) -> jax.sharding.NamedSharding:
        if isinstance(leaf.sharding, jax.sharding.NamedSharding):
            return leaf.sharding
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    layouts = jax.tree.map(layout, tree)
    return jax.device_put(tree, layouts), layouts


def no_sums() -> LossSums:
    """Returns LossSums of zeros."""
    return LossSums(*(jnp.zeros(()) for _ in LossSums._fields))


def require_finite(metrics: Mapping[str, float]) -> None:
    """Raises UserError, naming the numbers of an update that are not finite; `apply_gradient` has left it out."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} is not a finite number; the update was left out and the run stops; "
            "lower optimizer.learning_rate, or raise optimizer.eps"
        )


def update_metrics(sums: LossSums, norm: jax.Array, last: LossSums, tokens: int, *, with_kl: bool) -> dict[str, float]:
    """Returns the numbers of a step's updates, by the names of `record.metrics.METRICS`.

    Args:
        sums: of the first update.
        norm: float32[], of the first update's gradient.
        last: the sums of the last update, which say how often it clipped.
        tokens: of the step's completions, to divide the sums by.
        with_kl: the loss has a KL term.
    """
    low, high = float(last.clipped_low) / tokens, float(last.clipped_high) / tokens
    metrics = {
        "loss": float(sums.loss),
        "entropy": float(sums.entropy) / tokens,
        "grad_norm": float(norm),
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
    }
    if with_kl:
        metrics["kl"] = float(sums.kl) / tokens
    return metrics
