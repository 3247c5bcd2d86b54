"""The settings of an algorithm: its three switches, what bounds them, and how it is said in words."""

from __future__ import annotations

from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic.dataclasses import dataclass

from tunix_grpo.config import plugins, rules
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.rules import GROUP, Count, Flag, Number, Text, Whole, named_or_reference

Advantage = Annotated[Text, named_or_reference(*plugins.ADVANTAGES)]
Ratio = Annotated[Text, named_or_reference(*plugins.RATIOS)]


@dataclass(kw_only=True, slots=True, config=GROUP)
class GrpoConfig:
    """Group relative policy optimization (arXiv 2402.03300) and its relatives."""

    num_generations: Whole = rules.number(
        minimum=2, hint="an advantage is relative to the other completions of the same prompt"
    )
    """Completions per prompt (G), 2 or more; multiplies memory and time of a step."""
    num_iterations: Count
    """Passes over one batch of completions, 1 or more; each makes num_minibatches updates."""
    num_minibatches: Count
    """Updates per pass, each from its own part of the step's groups, 1 or more. A step draws so many times the prompts
    of an update."""
    advantage: Advantage
    """How much better a completion is than the others: group_std, center, batch_std, rloo, max_rl, or FILE.py:NAME."""
    ratio: Ratio
    """What a token costs whose probability has changed since it was drawn: token, sequence, trajectory, cispo, sapo,
    gmpo, none, or FILE.py:NAME."""
    aggregation: Literal["sequence_mean", "token_mean", "constant_length"]
    """What the sum over tokens is divided by: the length of each completion (sequence_mean), all tokens of the update
    (token_mean), or completions x max_generation_steps (constant_length)."""
    epsilon: Number = rules.number(above=0, below=1)
    """Clip range of the probability ratio on either side, in (0, 1); of its logarithm with the ratio gmpo. The ratios
    cispo, sapo and none, and one of your own, read none of the three epsilons."""
    epsilon_low: Number | None = rules.number(above=0, below=1, hint="null takes grpo.epsilon")
    """Clip range below 1, in (0, 1); null is epsilon."""
    epsilon_high: Number | None = rules.number(above=0, hint="null takes grpo.epsilon")
    """Clip range above 1, above 0; null is epsilon."""
    delta: Number | None = rules.number(above=1, hint="null leaves the ratio free where the clip does")
    """Bound of the ratio where the clip has none (negative advantages), above 1 + epsilon_high; null is none. Read by
    the ratios token, sequence and trajectory."""
    cap: Number = rules.number(above=0)
    """Largest weight of a token, absolute, above 0. Read by the ratio cispo."""
    sapo_temperature_pos: Number = rules.number(above=0)
    """Steepness of the gate where the advantage is above 0, above 0. Read by the ratio sapo."""
    sapo_temperature_neg: Number = rules.number(above=0)
    """Steepness of the gate elsewhere, above 0. Read by the ratio sapo."""
    beta: Number = rules.number(minimum=0)
    """Weight of the KL term that holds the model near its start, 0 or more; 0 leaves it out."""
    kl_estimator: Literal["low_var_kl", "mse_kl", "unbiased"]
    """low_var_kl (k3), mse_kl (k2), or unbiased (k3 times the probability ratio)."""
    mask_truncated: Flag
    """Completions that ran into max_generation_steps get no loss, and leave the numbers that it is divided by."""
    replace_equal_groups: Flag
    """Groups of equal rewards teach nothing: true replaces them by those of fresh prompts."""
    max_extra_rounds: Count
    """Further batches of prompts that replace_equal_groups may sample in a step, 1 or more."""
    importance: Literal["none", "tis", "icepop"]
    """Makes up for a sampler whose probabilities differ from the trainer's: tis cuts the weight of a token off at
    importance_high, icepop leaves out tokens outside [importance_low, importance_high]."""
    importance_low: Number = rules.number(minimum=0, maximum=1)
    """Smallest ratio of trainer to sampler that icepop keeps, in [0, 1]."""
    importance_high: Number = rules.number(minimum=1)
    """Largest ratio of trainer to sampler, 1 or more. Read by tis and icepop."""

    @property
    def low(self) -> float:
        """The clip range below 1."""
        return self.epsilon if self.epsilon_low is None else self.epsilon_low

    @property
    def high(self) -> float:
        """The clip range above 1."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of a step."""
        return self.num_iterations * self.num_minibatches


def with_epsilon_as_given(cfg: DictConfig) -> DictConfig:
    """Returns the composed config in which a grpo.epsilon of the command line sets both sides.

    The files of algorithms set the sides themselves, where their papers have two.
    """
    given = given_keys()
    if "grpo.epsilon" not in given or not isinstance(OmegaConf.select(cfg, "grpo"), DictConfig):
        return cfg
    cfg = cfg.copy()
    for side in ("grpo.epsilon_low", "grpo.epsilon_high"):
        if side not in given:
            OmegaConf.update(cfg, side, None, force_add=True)
    return cfg


_ADVANTAGES = {
    "group_std": "(r - mean) / std of the group",
    "center": "r - mean of the group",
    "batch_std": "(r - mean of the group) / std of the step",
    "rloo": "r - mean of the others",
    "max_rl": "(r - mean) / mean of the group",
}
_AGGREGATIONS = {
    "sequence_mean": "mean over each completion",
    "token_mean": "mean over all tokens",
    "constant_length": "sum over tokens / max_generation_steps",
}


def in_words(grpo: GrpoConfig, normalisation: str = "sum") -> str:
    """Returns what an algorithm does, in one line: its three switches and what stands beside them.

    Args:
        normalisation: reward.normalisation.
    """
    words = [_ADVANTAGES.get(grpo.advantage, f"advantage {grpo.advantage}")]
    if normalisation == "per_reward":
        words.append("of each reward by itself, their sum standardised over the step")
    words += [_ratio_in_words(grpo), _AGGREGATIONS[grpo.aggregation]]
    words.append(f"KL {grpo.beta:g} ({grpo.kl_estimator})" if grpo.beta else "no KL term")
    if grpo.mask_truncated:
        words.append("truncated completions masked")
    if grpo.replace_equal_groups:
        words.append("equal groups replaced")
    if grpo.importance != "none":
        words.append(f"importance {grpo.importance}")
    return ", ".join(words)


def _ratio_in_words(grpo: GrpoConfig) -> str:
    bound = "" if grpo.delta is None else f", at most {grpo.delta:g}"
    clip = f"clipped to [{1 - grpo.low:g}, {1 + grpo.high:g}]{bound}"
    return {
        "token": f"token ratio {clip}",
        "sequence": f"ratio of the sequence (geometric mean) {clip}",
        "trajectory": f"ratio of the sequence (product) {clip}",
        "cispo": f"token weight capped at {grpo.cap:g}",
        "sapo": f"soft gate {grpo.sapo_temperature_pos:g}/{grpo.sapo_temperature_neg:g}",
        "gmpo": f"geometric mean of log-ratios clipped to [{-grpo.low:g}, {grpo.high:g}]",
        "none": "ratio not clipped",
    }.get(grpo.ratio, f"ratio {grpo.ratio}")
