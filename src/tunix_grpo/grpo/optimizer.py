"""The optimizer and its learning rate over the run, as optax builds them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from tunix_grpo.config import OptimizerConfig, SchedulerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each update. Equal for equal settings, which then share what is compiled.

    The rate rises in a straight line over the warm-up, the first update included (an update at rate 0 would be lost),
    then falls from its peak towards final_ratio of it, which it would reach one update after the last: along a half
    cosine (`warmup_cosine`), in a straight line (`linear`) or not at all (`constant`).

    Attributes:
        warmup: updates.
        rest: updates behind the warm-up, at least 1.
    """

    name: str
    peak: float
    warmup: int
    rest: int
    final_ratio: float

    def __call__(self, update: jax.typing.ArrayLike) -> jax.Array:
        """Returns the learning rate of an update, from 0."""
        progress = jnp.clip((update - self.warmup) / self.rest, 0.0, 1.0)
        if self.name == "constant":
            fallen = jnp.ones_like(progress)
        else:
            is_cosine = self.name == "warmup_cosine"
            shape = 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) if is_cosine else 1.0 - progress
            fallen = self.final_ratio + (1.0 - self.final_ratio) * shape
        rising = (update + 1) / max(self.warmup, 1)
        return self.peak * jnp.where(jnp.less(update, self.warmup), rising, fallen)


def build_schedule(optimizer: OptimizerConfig, scheduler: SchedulerConfig, total_updates: int) -> Schedule:
    """Returns the schedule of a run, whose warm-up is the first warmup_ratio of the updates."""
    warmup = int(scheduler.warmup_ratio * total_updates)
    return Schedule(
        name=scheduler.name,
        peak=optimizer.learning_rate,
        warmup=warmup,
        rest=max(total_updates - warmup, 1),
        final_ratio=scheduler.final_ratio,
    )


def build_optimizer(optimizer: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW (arXiv:1711.05101) behind clipping by the global norm. Vectors (norms, biases) do not decay."""
    betas = optimizer.beta1, optimizer.beta2
    return _clipped_adamw(schedule, *betas, optimizer.eps, optimizer.weight_decay, optimizer.max_grad_norm)


@functools.cache  # one object for equal settings, so that trainers of one process share what is compiled
def _clipped_adamw(
    schedule: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float, max_grad_norm: float
) -> optax.GradientTransformation:
    adamw = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=_is_matrix)
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), adamw)


def _is_matrix(params: optax.Params) -> optax.Params:
    """Says for each leaf whether it decays."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
