"""Steps whose numbers are made up, and what our loss gives for them."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from helpers import float64
from tunix_grpo.config import GrpoConfig
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.advantages import advantage_of, group_advantages
from tunix_grpo.grpo.algorithms import AGGREGATIONS, objective_of
from tunix_grpo.grpo.loss import LossInputs, LossSums, grpo_loss
from tunix_grpo.grpo.minibatches import Part, cut_step, minibatch_order

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
DEFAULTS = yaml.safe_load((CONF / "grpo/default.yaml").read_text())
NAN = np.nan  # what is never to be read


def settings(**changes) -> GrpoConfig:
    return GrpoConfig(**DEFAULTS | {"beta": 0.0} | changes)


def one_group() -> float64.Step:
    """The fixture that TRL 1.16's own loss lines were run on: ratios beyond each side of the clip for both signs."""
    return float64.Step(
        size=4,
        rewards=np.array([1, 0, 0.5, 0]),
        lengths=np.array([3, 2, 1, 3]),
        logps=np.array([[-0.5, -1.2, -0.3], [-0.9, -0.4, NAN], [-2, NAN, NAN], [-0.7, -1.5, -0.2]]),
        old=np.array([[-0.7, -1.1, -0.9], [-0.6, -0.45, NAN], [-1.6, NAN, NAN], [-1, -1.2, -0.25]]),
        ref=np.array([[-0.6, -1.3, -0.4], [-0.8, -0.5, NAN], [-1.9, NAN, NAN], [-0.75, -1.4, -0.3]]),
        truncated=np.array([False, False, False, True]),
        max_tokens=5,
    )


def several_groups(groups: int = 4, size: int = 3, longest: int = 5) -> float64.Step:
    """Random groups of unequal lengths, one of them of equal rewards, some completions cut."""
    rng = np.random.default_rng(2)
    rows = groups * size
    lengths = rng.integers(1, longest + 1, rows)
    rewards = rng.choice([0.0, 0.5, 1.0, 1.5], rows)
    rewards[:size] = 0.5
    old = -rng.uniform(0.1, 2.0, (rows, longest))
    moved, ref = (old + rng.normal(0, 0.35, old.shape) for _ in range(2))
    return float64.Step(size, rewards, lengths, moved, old, ref, rng.random(rows) < 0.3, longest)


GRPO = {"advantage": "group_std", "ratio": "token", "aggregation": "sequence_mean"}
NAMES = {"low": "epsilon_low", "high": "epsilon_high", "pos": "sapo_temperature_pos", "neg": "sapo_temperature_neg"}


def algorithm(case: dict) -> GrpoConfig:
    return settings(**{NAMES.get(key, key): value for key, value in case.items()})


def gains_of(step: float64.Step, grpo: GrpoConfig) -> np.ndarray:
    return group_advantages(step.rewards, step.size, advantage_of(grpo.advantage))


def cut(step: float64.Step, grpo: GrpoConfig, num_minibatches: int, micro_prompts: int) -> list[list[Part]]:
    """Cuts a step as the trainer does, groups without a gradient left out."""
    kept = np.where(step.truncated & grpo.mask_truncated, np.float32(0), np.float32(1))
    has_gradient = None
    if grpo.beta == 0:
        has_gradient = ((gains_of(step, grpo) * kept) != 0).reshape(-1, step.size).any(axis=1)
    order = minibatch_order(len(kept) // step.size, num_minibatches, seed=3, step=7)
    aggregation = AGGREGATIONS[grpo.aggregation]
    return cut_step(order, micro_prompts, step.lengths, kept, aggregation, step.max_tokens, has_gradient)


def part_of_loss(step: float64.Step, part: Part, grpo: GrpoConfig) -> tuple[LossSums, np.ndarray]:
    """Returns the sums of a micro batch and its gradient by token."""
    rows, objective = part.rows, objective_of(grpo)
    shape = (len(rows), step.logps.shape[1])
    prompts = jnp.zeros((len(part.prompts), 1), jnp.int32)
    batch = Completions(prompts, prompts == 0, jnp.zeros(shape, jnp.int32), jnp.asarray(step.lengths[rows]))
    logps, old, ref = (np.nan_to_num(a[rows], nan=-3.0).astype(np.float32) for a in (step.logps, step.old, step.ref))
    inputs = LossInputs(batch, *part.loss_inputs(gains_of(step, grpo)), ref if objective.beta else None, old)

    def loss(logps: jax.Array) -> tuple[jax.Array, LossSums]:
        sums = grpo_loss(logps, logps, inputs, objective)
        return sums.loss, sums

    slope, sums = jax.grad(loss, has_aux=True)(jnp.asarray(logps))
    return sums, np.asarray(slope)


def our_losses(step, grpo, num_minibatches, micro_prompts) -> list[tuple[float, np.ndarray]]:
    """Returns loss and gradient float[B, T] of each minibatch."""
    found = []
    for minibatch in cut(step, grpo, num_minibatches, micro_prompts):
        loss, gradient = 0.0, np.zeros(step.logps.shape)
        for part in minibatch:
            sums, slope = part_of_loss(step, part, grpo)
            loss += float(sums.loss)
            gradient[part.rows] += slope
        found.append((loss, gradient))
    return found
