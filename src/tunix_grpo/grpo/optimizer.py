"""The optimizer and its learning rate over the run, as optax builds them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tunix_grpo.config import OptimizerConfig, SchedulerConfig


def build_schedule(
    optimizer: OptimizerConfig, scheduler: SchedulerConfig, total_updates: int
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Returns update index (from 0) -> learning rate.

    The rate rises in a straight line over the first warmup_ratio of the updates, the first update included (an update
    at rate 0 would be lost), then falls from its peak towards final_ratio of it, which it would reach one update after
    the last: along a half cosine (`warmup_cosine`), in a straight line (`linear`) or not at all (`constant`).
    """
    peak = optimizer.learning_rate
    warmup = int(scheduler.warmup_ratio * total_updates)
    rest = max(total_updates - warmup, 1)

    def schedule(update: jax.typing.ArrayLike) -> jax.Array:
        progress = jnp.clip((update - warmup) / rest, 0.0, 1.0)
        if scheduler.name == "constant":
            fallen = jnp.ones_like(progress)
        else:
            is_cosine = scheduler.name == "warmup_cosine"
            shape = 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) if is_cosine else 1.0 - progress
            fallen = scheduler.final_ratio + (1.0 - scheduler.final_ratio) * shape
        rising = (update + 1) / max(warmup, 1)
        return peak * jnp.where(jnp.less(update, warmup), rising, fallen)

    return schedule


def build_optimizer(optimizer: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW (arXiv:1711.05101) behind clipping by the global norm. Vectors (norms, biases) do not decay."""
    return optax.chain(
        optax.clip_by_global_norm(optimizer.max_grad_norm),
        optax.adamw(
            schedule,
            b1=optimizer.beta1,
            b2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
