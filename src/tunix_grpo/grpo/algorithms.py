"""The three switches of an algorithm, each a table of small pure functions: advantage, ratio, aggregation.

`conf/algorithm/` sets them by name; docs/algorithms.md says which paper sets which. An advantage says how much better a
completion is than the others; a ratio says what a token costs that the trained policy would now draw more or less often
than the one that sampled; an aggregation says what the sum over tokens is divided by.

Letters: P prompts, G completions of each, B = P * G rows, T completion tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.config import GrpoConfig, plugins
from tunix_grpo.errors import UserError

STD_EPS = 1e-6
_SETTINGS_OF_RATIO = ("delta", "cap", "sapo_temperature_pos", "sapo_temperature_neg")
Array = TypeVar("Array", np.ndarray, jax.Array)

# float64[P, G] rewards -> float64[P, G]. What it gives for a group of equal rewards is replaced by zero.
Advantage: TypeAlias = Callable[[np.ndarray], np.ndarray]


def group_std(rewards: np.ndarray) -> np.ndarray:
    """Returns (r - mean) / (std + 1e-6) within each group (GRPO, arXiv:2402.03300, section 4.1.2).

    std is the sample standard deviation (divided by G - 1), as in Tunix and TRL.
    """
    return center(rewards) / (rewards.std(axis=1, ddof=1, keepdims=True) + STD_EPS)


def center(rewards: np.ndarray) -> np.ndarray:
    """Returns r - mean within each group (Dr.GRPO, arXiv:2503.20783, section 3.2)."""
    return rewards - rewards.mean(axis=1, keepdims=True)


def batch_std(rewards: np.ndarray) -> np.ndarray:
    """Returns (r - mean of the group) / (std over the whole step + 1e-6) (Lite PPO, arXiv:2508.08221).

    std is the sample standard deviation of the step's P * G rewards.
    """
    return center(rewards) / (rewards.std(ddof=1) + STD_EPS)


def rloo(rewards: np.ndarray) -> np.ndarray:
    """Returns r minus the mean of the others of its group (RLOO, arXiv:2402.14740, section 2)."""
    size = rewards.shape[1]
    return size / (size - 1) * center(rewards)


def max_rl(rewards: np.ndarray) -> np.ndarray:
    """Returns (r - mean) / mean within each group, 0 where the mean is not above 0 (MaxRL, arXiv:2602.02710)."""
    mean = rewards.mean(axis=1, keepdims=True)
    return np.divide(center(rewards), mean, out=np.zeros_like(rewards), where=mean > 0)


class Tokens(NamedTuple):
    """The tokens of completions, as a ratio sees them.

    Attributes:
        logps: float32[B, T], log-probabilities under the trained weights.
        log_ratios: float32[B, T], logps minus those under the weights that sampled; 0 behind a completion's end.
        advantages: float32[B, 1].
        mask: bool[B, T], True for the tokens of the completions.
    """

    logps: jax.Array
    log_ratios: jax.Array
    advantages: jax.Array
    mask: jax.Array


class Surrogate(NamedTuple):
    """What tokens cost.

    Attributes:
        loss: float32[B, T], to be minimised; meaningless behind a completion's end.
        clipped_low: bool[B, T], the clip below took the gradient away.
        clipped_high: bool[B, T], likewise above.
    """

    loss: jax.Array
    clipped_low: jax.Array
    clipped_high: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What a token's loss is made of.

    Attributes:
        ratio: of `RATIOS`, or a user's own.
        epsilon_low: the ratio is clipped to [1 - epsilon_low, 1 + epsilon_high].
        delta: bound of the ratio where the clip has none, above 1 + epsilon_high; None for no bound.
        cap: largest weight of a token (cispo).
        sapo_temperature_pos: steepness of the gate where the advantage is above 0 (sapo).
        sapo_temperature_neg: likewise elsewhere.
        beta: weight of the KL term.
        kl_estimator: low_var_kl (k3), mse_kl (k2), http://joschu.net/blog/kl-approx.html, or unbiased (k3 times the
            ratio, arXiv:2512.02556, section 3.1).
        importance: none, tis or icepop: see `importance_weights`.
        importance_low: icepop leaves out tokens whose trainer is below this share of the sampler.
        importance_high: icepop leaves out tokens above; tis cuts the weight off here.
    """

    ratio: Ratio
    epsilon_low: float
    epsilon_high: float
    delta: float | None = None
    cap: float = 5.0
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    beta: float = 0.0
    kl_estimator: str = "low_var_kl"
    importance: str = "none"
    importance_low: float = 0.5
    importance_high: float = 2.0


Ratio: TypeAlias = Callable[[Tokens, Objective], Surrogate]


def _clipped(ratio: jax.Array, tokens: Tokens, objective: Objective) -> Surrogate:
    """Returns PPO's pessimistic minimum (arXiv:1707.06347, equation 7) of a ratio, with both sides told apart."""
    gain = tokens.advantages
    low, high = 1.0 - objective.epsilon_low, 1.0 + objective.epsilon_high
    free = ratio if objective.delta is None else jnp.minimum(ratio, objective.delta)
    loss = -jnp.minimum(free * gain, jnp.clip(ratio, low, high) * gain)
    return Surrogate(loss, (ratio < low) & (gain < 0), (ratio > high) & (gain > 0))


def token(tokens: Tokens, objective: Objective) -> Surrogate:
    """Clips each token's ratio (arXiv:2402.03300, equation 3; delta: arXiv:2505.07291, section 3.4)."""
    return _clipped(jnp.exp(tokens.log_ratios), tokens, objective)


def sequence(tokens: Tokens, objective: Objective) -> Surrogate:
    """Clips one ratio per completion, the geometric mean of its tokens' (GSPO, arXiv:2507.18071, equation 7)."""
    return _clipped(_per_token(jnp.exp(_mean(tokens.log_ratios, tokens.mask)), tokens), tokens, objective)


def trajectory(tokens: Tokens, objective: Objective) -> Surrogate:
    """Clips one ratio per completion, the product of its tokens' (RLOO as PPO, arXiv:2402.14740, section 3)."""
    return _clipped(_per_token(jnp.exp(jnp.sum(tokens.log_ratios, axis=1)), tokens), tokens, objective)


def cispo(tokens: Tokens, objective: Objective) -> Surrogate:
    """Weights log-probabilities by a capped, constant ratio (CISPO, arXiv:2506.13585, equation 4)."""
    ratio = jax.lax.stop_gradient(jnp.exp(tokens.log_ratios))
    over = ratio > objective.cap
    loss = -jnp.minimum(ratio, objective.cap) * tokens.advantages * tokens.logps
    return Surrogate(loss, jnp.zeros_like(over), over & (tokens.advantages > 0))


def sapo(tokens: Tokens, objective: Objective) -> Surrogate:
    """Gates each token softly instead of clipping it (SAPO, arXiv:2511.20347, section 3)."""
    positive, negative = objective.sapo_temperature_pos, objective.sapo_temperature_neg
    tau = jnp.where(tokens.advantages > 0, positive, negative)
    gate = 4.0 / tau * jax.nn.sigmoid(tau * (jnp.exp(tokens.log_ratios) - 1.0))
    never = jnp.zeros_like(tokens.mask)
    return Surrogate(-gate * tokens.advantages, never, never)


def gmpo(tokens: Tokens, objective: Objective) -> Surrogate:
    """Clips each token's log-ratio, then takes their geometric mean (GMPO, arXiv:2507.20673, equation 4).

    The range is of the logarithm: [-epsilon_low, epsilon_high].
    """
    sign, d = jnp.sign(tokens.advantages), tokens.log_ratios
    kept = sign * jnp.minimum(sign * d, sign * jnp.clip(d, -objective.epsilon_low, objective.epsilon_high))
    loss = -tokens.advantages * _per_token(jnp.exp(_mean(kept, tokens.mask)), tokens)
    below, above = d < -objective.epsilon_low, d > objective.epsilon_high
    return Surrogate(loss, below & (sign < 0), above & (sign > 0))


def unclipped(tokens: Tokens, objective: Objective) -> Surrogate:
    """Weights each token by its ratio and clips nothing (REINFORCE with importance sampling)."""
    never = jnp.zeros_like(tokens.mask)
    return Surrogate(-jnp.exp(tokens.log_ratios) * tokens.advantages, never, never)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns float32[B], the mean over the tokens of each completion."""
    return jnp.sum(values * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)


def _per_token(values: jax.Array, tokens: Tokens) -> jax.Array:
    """Returns [B, T], each of B values at every token of its completion."""
    return jnp.broadcast_to(values[:, None], tokens.mask.shape)


class Divisors(NamedTuple):
    """What an aggregation divides by: loss = sum over rows of (sum over its tokens / per_row) / whole.

    Attributes:
        per_row: [B].
        whole: a number.
    """

    per_row: np.ndarray | jax.Array
    whole: np.ndarray | jax.Array


# (int[B] lengths, [B] 1 for a completion that has a loss, else 0; max_generation_steps) -> Divisors. NumPy and jax.
Aggregation: TypeAlias = Callable[[Array, Array, int], Divisors]


def sequence_mean(lengths: Array, kept: Array, max_tokens: int) -> Divisors:
    """Averages each completion's tokens, then the completions (GRPO, arXiv:2402.03300, equation 3)."""
    return Divisors(lengths.clip(1), kept.sum().clip(1))


def token_mean(lengths: Array, kept: Array, max_tokens: int) -> Divisors:
    """Averages all tokens of an update, so that long completions count more (DAPO, arXiv:2503.14476, equation 8)."""
    return Divisors(lengths * 0 + 1, (lengths * kept).sum().clip(1))


def constant_length(lengths: Array, kept: Array, max_tokens: int) -> Divisors:
    """Divides by completions x max_generation_steps, whatever was generated (Dr.GRPO, arXiv:2503.20783)."""
    return Divisors(lengths * 0 + max_tokens, kept.sum().clip(1))


AGGREGATIONS: dict[str, Aggregation] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant_length": constant_length,
}


def importance_weights(trainer: jax.Array, sampler: jax.Array, objective: Objective) -> jax.Array:
    """Returns float32[B, T], factors that make up for a sampler whose probabilities differ from the trainer's.

    With w the trainer's probability over the sampler's: tis is min(w, importance_high) ("Your efficient RL framework
    secretly brings you off-policy RL training", fengyao.notion.site/off-policy-rl); icepop is w where it lies in
    [importance_low, importance_high], else 0 (arXiv:2510.18855, section 2.3.2).

    Args:
        trainer: float32[B, T] log-probabilities under the weights that sampled, as the trainer computes them.
        sampler: likewise as the sampler computed them.
    """
    weight = jax.lax.stop_gradient(jnp.exp(trainer - sampler))
    if objective.importance == "tis":
        return jnp.minimum(weight, objective.importance_high)
    inside = (weight >= objective.importance_low) & (weight <= objective.importance_high)
    return jnp.where(inside, weight, 0.0)


def objective_of(grpo: GrpoConfig) -> Objective:
    """Returns the objective that the settings describe."""
    return Objective(
        ratio=_ratio(grpo.ratio),
        epsilon_low=grpo.low,
        epsilon_high=grpo.high,
        beta=grpo.beta,
        kl_estimator=grpo.kl_estimator,
        importance=grpo.importance,
        importance_low=grpo.importance_low,
        importance_high=grpo.importance_high,
        **{name: getattr(grpo, name) for name in _SETTINGS_OF_RATIO},
    )


def _ratio(name: str) -> Ratio:
    """Returns a ratio of the package, or a user's: function(logps, old_logps, advantages, mask) -> float[B, T] loss."""
    function = plugins.resolve(plugins.RATIOS.get(name, name), "grpo.ratio")
    if not plugins.is_outside(name):
        return function

    def own(tokens: Tokens, objective: Objective) -> Surrogate:
        old = jax.lax.stop_gradient(tokens.logps - tokens.log_ratios)
        never = jnp.zeros_like(tokens.mask)
        with plugins.Reporting(lambda what: UserError(f"grpo.ratio={name} raised {what}")):
            loss = jnp.asarray(function(tokens.logps, old, tokens.advantages[:, 0], tokens.mask))
        if loss.shape != tokens.mask.shape:
            raise UserError(
                f"grpo.ratio={name} returned an array of shape {list(loss.shape)} for log-probabilities of shape "
                f"{list(tokens.mask.shape)}; it must return a number for each, in the same shape"
            )
        return Surrogate(loss, never, never)

    return own
