"""The arithmetic of an optimizer update, and its numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tunix_grpo.errors import UserError
from tunix_grpo.grpo.loss import LossSums
from tunix_grpo.run.rescue import HalfStepError

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


def require_finite(metrics: Mapping[str, float], updates: int) -> None:
    """Checks the numbers of a step that made so many updates.

    Raises:
        UserError: some are not finite; `apply_gradient` has left that update out, the only one.
        HalfStepError: likewise, and other updates of the step have moved the weights.
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    what, way_out = f"{', '.join(bad)} is not a finite number", "lower optimizer.learning_rate, or raise optimizer.eps"
    if updates == 1:
        raise UserError(f"{what}; the update was left out and the run stops; {way_out}")
    raise HalfStepError(
        f"{what} in one of the {updates} updates; the run stops and saves nothing, since the others have moved the "
        f"weights; go on from the last checkpoint, and {way_out}"
    )


class Update(NamedTuple):
    """The numbers of one optimizer update.

    Attributes:
        norm: float32[], of its gradient before clipping.
    """

    sums: LossSums
    norm: jax.Array


def update_metrics(
    passes: Sequence[Sequence[Update]], differences: Sequence[tuple[jax.Array, ...]], *, with_kl: bool
) -> dict[str, float]:
    """Returns the numbers of a step's updates, by the names of `record.metrics.METRICS`.

    Clip ratios and the mean ratio are of the last pass, in which they are largest; all others of the first.

    Args:
        passes: of each pass over the completions the update from each minibatch, on the host.
        differences: of each micro batch, as `loss.sampling_difference` gives them, on the host.
        with_kl: the loss has a KL term.
    """
    first, last = _added(passes[0]), _added(passes[-1])
    low, high = last["clipped_low"] / last["tokens"], last["clipped_high"] / last["tokens"]
    norms = [[float(update.norm) for update in updates] for updates in passes]
    metrics = {
        "loss": first["loss"] / len(passes[0]),
        "entropy": first["entropy"] / first["tokens"],
        "grad_norm": sum(norms[0]) / len(norms[0]) if np.isfinite(norms).all() else math.nan,
        "ratio/mean": last["ratio"] / last["tokens"],
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
    }
    if with_kl:
        metrics["kl"] = first["kl"] / first["tokens"]
    return metrics | _sampling_metrics(differences)


def _sampling_metrics(differences: Sequence[tuple[jax.Array, ...]]) -> dict[str, float]:
    """Returns how far the sampler's log-probabilities are from the trainer's."""
    total, largest, tokens = (np.asarray(column, np.float64) for column in zip(*differences, strict=True))
    return {
        "sampling/sampling_logp_difference/mean": float(total.sum() / tokens.sum()),
        "sampling/sampling_logp_difference/max": float(largest.max()),
    }


def _added(updates: Sequence[Update]) -> dict[str, float]:
    """Returns the sums of several updates by name; at least one token, so that they can be divided by it."""
    columns = zip(*(update.sums for update in updates), strict=True)
    sums = [float(np.sum(column, dtype=np.float64)) for column in columns]
    named = dict(zip(LossSums._fields, sums, strict=True))
    return named | {"tokens": max(named["tokens"], 1.0)}
