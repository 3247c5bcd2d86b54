"""The words of the record: metric names, the completion row, and what a tracker is."""

import re
from dataclasses import dataclass
from typing import Protocol

METRICS: dict[str, str] = {
    "reward": "mean total reward of the step's completions",
    "reward_std": "standard deviation of the total reward within a group, mean over the groups",
    "frac_reward_zero_std": "share of groups whose rewards are all equal: they teach nothing",
    "rewards/<name>/mean": "mean of one reward part, before its weight",
    "rewards/<name>/std": "standard deviation of one reward part over the step's completions",
    "completions/mean_length": "mean completion length in tokens, end-of-turn token included",
    "completions/min_length": "length of the shortest completion, in tokens",
    "completions/max_length": "length of the longest completion, in tokens",
    "completions/mean_terminated_length": "mean length of the completions that ended by "
    "themselves; absent when none did",
    "completions/clipped_ratio": "share of completions cut at max_generation_steps",
    "kl": "mean KL divergence from the reference model per token; absent when grpo.beta is 0",
    "entropy": "mean entropy of the next-token distribution, in nats",
    "clip_ratio/region_mean": "share of tokens whose probability ratio was clipped on either side",
    "clip_ratio/low_mean": "share of tokens clipped at 1 - epsilon",
    "clip_ratio/high_mean": "share of tokens clipped at 1 + epsilon",
    "loss": "GRPO loss; near 0 is normal, the reward is what to watch",
    "grad_norm": "global norm of the gradient before clipping",
    "learning_rate": "learning rate of the step's last update",
    "num_tokens": "prompt and completion tokens processed since step 1",
    "step_time": "seconds that the step took, without evaluation and saving",
    "timing/rollout": "seconds spent generating completions",
    "timing/reward": "seconds spent scoring completions",
    "timing/reference": "seconds spent on log-probabilities of the reference model",
    "timing/update": "seconds spent on loss, gradient and update",
    "timing/eval": "seconds spent on the last evaluation",
    "timing/save": "seconds that saving the last checkpoint held training up",
    "perf/tokens_per_second": "completion tokens generated per second of the whole step",
    "perf/peak_memory_gb": "highest device memory use so far, in units of 10^9 bytes",
    "perf/compilations": "programs compiled since the start; it should stop growing",
    "eval/accuracy": "share of held-out questions answered right, greedy decoding",
    "eval/reward": "mean total reward on the held-out questions, greedy decoding",
    "eval/truncated": "share of held-out completions cut at max_generation_steps",
}
"""Every metric that a run may log, and what it means. `<name>` stands for a reward's name."""

_METRIC_PATTERN = re.compile("|".join(re.escape(n).replace("<name>", "[^/]+") for n in METRICS))


def is_metric(name: str) -> bool:
    """Says whether a name is listed in `METRICS`."""
    return _METRIC_PATTERN.fullmatch(name) is not None


@dataclass(slots=True)
class CompletionRecord:
    """One completion of a logged step, with everything that decided its advantage."""

    step: int
    prompt: str
    completion: str
    answer: str
    """The gold answer."""
    rewards: dict[str, float]
    """Each reward part by name, before its weight."""
    reward: float
    """Weighted sum of the parts."""
    advantage: float
    length: int
    """In tokens, end-of-turn token included."""
    truncated: bool
    """True when it ran into the generation limit."""


class Tracker(Protocol):
    """A place that the numbers of a run go to."""

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one set of numbers for a step."""

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Writes the completions of a logged step."""

    def close(self, *, failed: bool = False) -> None:
        """Writes out what is pending; `failed` says that the run ended in an error."""


class TrackerError(RuntimeError):
    """A copy of the record (TensorBoard, W&B) cannot be written any more."""


def spread(records: list[CompletionRecord], count: int) -> list[CompletionRecord]:
    """Picks up to `count` records, evenly spread, so that they show different prompts."""
    count = min(count, len(records))
    return [records[index * len(records) // count] for index in range(count)]
