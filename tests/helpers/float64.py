"""The algorithms once more, in float64 and token by token, straight from the papers' formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """The completions of a step: groups of `size` in a row; what lies behind a completion's end is never read."""

    size: int
    rewards: np.ndarray
    lengths: np.ndarray
    logps: np.ndarray
    old: np.ndarray
    ref: np.ndarray
    truncated: np.ndarray
    max_tokens: int


def advantages(name: str, step: Step) -> np.ndarray:
    """Returns float64[B]."""
    spread = np.sqrt(np.sum((step.rewards - step.rewards.mean()) ** 2) / (len(step.rewards) - 1))
    found = []
    for group in step.rewards.reshape(-1, step.size):
        mean = sum(group) / len(group)
        deviation = np.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        for place, r in enumerate(group):
            others = [other for index, other in enumerate(group) if index != place]
            by_name = {
                "group_std": (r - mean) / (deviation + 1e-6),
                "center": r - mean,
                "batch_std": (r - mean) / (spread + 1e-6),
                "rloo": r - sum(others) / len(others),
                "max_rl": (r - mean) / mean if mean > 0 else 0.0,
            }
            found.append(by_name[name])
    return np.array(found)


def _minimum(ratio: float, gain: float, settings: dict) -> float:
    bounded = min(max(ratio, 1 - settings["low"]), 1 + settings["high"])
    delta = settings.get("delta")
    return -min((ratio if delta is None else min(ratio, delta)) * gain, bounded * gain)


def _row_costs(name: str, logps: np.ndarray, fixed: np.ndarray, old: np.ndarray, gain: float, s: dict) -> list[float]:
    """Returns the cost of each token of one completion; `fixed` are the log-probabilities that no gradient sees."""
    d = logps - old
    if name == "token":
        return [_minimum(np.exp(x), gain, s) for x in d]
    if name == "sequence":
        return [_minimum(np.exp(np.mean(d)), gain, s)] * len(d)
    if name == "trajectory":
        return [_minimum(np.exp(np.sum(d)), gain, s)] * len(d)
    if name == "cispo":
        return [-min(np.exp(f - o), s["cap"]) * gain * x for x, f, o in zip(logps, fixed, old, strict=True)]
    if name == "sapo":
        tau = s["pos"] if gain > 0 else s["neg"]
        return [-4 / tau / (1 + np.exp(-tau * (np.exp(x) - 1))) * gain for x in d]
    if name == "gmpo":
        sign = np.sign(gain)
        kept = [sign * min(sign * x, sign * min(max(x, -s["low"]), s["high"])) for x in d]
        return [-gain * np.exp(np.mean(kept))] * len(d)
    assert name == "none"
    return [-np.exp(x) * gain for x in d]


def _kl(estimator: str, logp: float, old: float, ref: float) -> float:
    x = ref - logp
    if estimator == "mse_kl":
        return x * x / 2
    k3 = np.exp(x) - x - 1
    return k3 * np.exp(logp - old) if estimator == "unbiased" else k3


def minibatch_loss(case: dict, step: Step, rows: np.ndarray, logps: np.ndarray, gains: np.ndarray) -> float:
    """Returns the loss of the completions `rows` of a step, under other log-probabilities than the step's."""
    settings = {"low": 0.2, "high": 0.2} | case
    kept = [row for row in rows if not (case.get("mask_truncated") and step.truncated[row])]
    tokens = sum(step.lengths[row] for row in kept)
    total = 0.0
    for row in kept:
        n = step.lengths[row]
        mine, fixed, old, ref = (a[row, :n] for a in (logps, step.logps, step.old, step.ref))
        costs = _row_costs(case["ratio"], mine, fixed, old, gains[row], settings)
        if case.get("beta"):
            estimator = case.get("kl_estimator", "low_var_kl")
            kls = [_kl(estimator, x, o, r) for x, o, r in zip(mine, old, ref, strict=True)]
            costs = [cost + case["beta"] * kl for cost, kl in zip(costs, kls, strict=True)]
        divisor = {
            "sequence_mean": n * len(kept),
            "token_mean": tokens,
            "constant_length": step.max_tokens * len(kept),
        }[case["aggregation"]]
        total += sum(costs) / divisor
    return total


def slopes(function: Callable[[np.ndarray], float], at: np.ndarray, width: float = 1e-6) -> np.ndarray:
    """Returns the gradient of a function by central differences."""
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += width
        down[place] -= width
        found[place] = (function(up) - function(down)) / (2 * width)
    return found
