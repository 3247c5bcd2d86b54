"""Every metric by name, and how a step's result becomes metrics and records of completions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from tunix_grpo.record.tracker import CompletionRecord
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.run.devices import peak_memory_bytes

if TYPE_CHECKING:  # whoever wants the names of the metrics is not to load jax
    from tunix_grpo.grpo.step import StepResult


METRICS: dict[str, str] = {
    "reward": "mean total reward of the step's completions",
    "reward_std": "standard deviation of the total reward within a group, mean over the groups",
    "frac_reward_zero_std": "share of groups whose rewards are all equal: they teach nothing; with "
    "reward.normalisation=per_reward those in which every reward is",
    "rewards/<name>/mean": "mean of one reward part, before its weight",
    "rewards/<name>/std": "standard deviation of one reward part over the step's completions",
    "rewards/<name>/errors": "completions that the reward failed on since the start; where it may go on",
    "rewards/<name>/timeouts": "completions that it had no time for since the start; where it may go on",
    "rewards/skipped_groups": "groups of the step that a failed reward left out of the update",
    "rewards/<name>/<extra>": "mean of a number that the reward gives beside its value, over the rows that have it",
    "completions/mean_length": "mean completion length in tokens, end-of-turn token included",
    "completions/min_length": "length of the shortest completion, in tokens",
    "completions/max_length": "length of the longest completion, in tokens",
    "completions/mean_terminated_length": "mean length of the completions that ended by "
    "themselves; absent when none did",
    "completions/clipped_ratio": "share of completions cut at max_generation_steps",
    "completions/masked_ratio": "share of completions that got no loss because they were cut; absent unless "
    "grpo.mask_truncated is on",
    "kl": "mean KL divergence from the reference model per token; absent when grpo.beta is 0",
    "entropy": "mean entropy of the next-token distribution, in nats",
    "clip_ratio/region_mean": "share of tokens whose probability ratio was clipped on either side",
    "clip_ratio/low_mean": "share of tokens clipped at the lower end, in the last pass",
    "clip_ratio/high_mean": "share of tokens clipped at the upper end, in the last pass",
    "ratio/mean": "mean probability ratio of trained to sampling policy, in the last pass over the completions",
    "sampling/sampling_logp_difference/mean": "mean over the tokens of |log-probability of the sampler - that of the "
    "trainer| under the same weights",
    "sampling/sampling_logp_difference/max": "the largest of these differences",
    "groups/kept": "groups of the step's own prompts that teach something; like the next three absent unless "
    "grpo.replace_equal_groups is on",
    "groups/replaced": "groups of equal rewards whose place those of fresh prompts took",
    "groups/given_up": "groups of equal rewards that are left after grpo.max_extra_rounds",
    "groups/extra_rounds": "further batches of prompts that were sampled in the step",
    "task/level": "level of the questions that the step asked; absent where questions have none",
    "loss": "GRPO loss; near 0 is normal, the reward is what to watch. Of scripts/sft.py: mean negative log-likelihood "
    "of the step's completion tokens, in nats",
    "mean_token_accuracy": "share of the completion tokens that are the likeliest at their place; of scripts/sft.py",
    "grad_norm": "global norm of the gradient before clipping",
    "updates/left_out": "updates of the step that were left out, for a loss or gradient that is not finite or a spike; "
    "absent without one",
    "learning_rate": "learning rate of the step's last update",
    "num_tokens": "prompt and completion tokens processed since step 1",
    "step_time": "seconds that the step took, without evaluation and saving",
    "timing/rollout": "seconds spent generating completions",
    "timing/replacement": "seconds spent on the completions of further prompts, see groups/replaced",
    "timing/reward": "seconds spent scoring completions",
    "timing/reference": "seconds spent on log-probabilities of the reference model",
    "timing/update": "seconds spent on loss, gradient and update",
    "timing/eval": "seconds spent on the last evaluation",
    "timing/save": "seconds that saving the last checkpoint held training up: a copy of what is saved",
    "saves/failed": "checkpoints that could not be written since the start; absent without one",
    "perf/tokens_per_second": "completion tokens generated per second of the whole step, those given back too",
    "perf/peak_memory_gb": "highest device memory use so far, in units of 10^9 bytes",
    "memory/micro_batch_size": "prompts per device that pass through the model at once, since memory ran out with "
    "training.micro_batch_size of them; absent where it did not",
    "memory/max_rows": "completions that are drawn at once, since memory ran out with more; absent where it did not",
    "perf/compilations": "programs compiled since the start; it should stop growing",
    "perf/worker_restarts": "processes of rewards that were replaced since they had grown; absent without one",
    "grader/unanswered": "judgements of math-verify that took too long or crashed since the start; they count as wrong",
    "json_schema/unanswered": "checks of JSON that took too long or crashed since the start; they count as not valid",
    "eval/accuracy": "share of held-out questions answered right, greedy decoding",
    "eval/reward": "mean total reward on the held-out questions, greedy decoding; absent where no reward could be had",
    "eval/truncated": "share of held-out completions cut at max_generation_steps",
    "eval/<task>/accuracy": "eval/accuracy on a task of evaluation.tasks; likewise the next two",
    "eval/<task>/reward": "absent where the rewards cannot score the task, too",
    "eval/<task>/truncated": "as eval/truncated",
}
"""Every metric that a run may log, and what it means. `<name>` stands for a reward's name, `<extra>` for its own,
`<task>` for a name in evaluation.tasks."""


_PATTERNS = {re.sub("<[^>]+>", "[^/]+", re.escape(name)): meaning for name, meaning in METRICS.items()}
_METRIC_PATTERN = re.compile("|".join(_PATTERNS))


def is_metric(name: str) -> bool:
    """Says whether a name is listed in `METRICS`."""
    return _METRIC_PATTERN.fullmatch(name) is not None


def meaning_of(name: str) -> str:
    """Returns what a metric means; nothing of a name that is not listed."""
    return next((meaning for pattern, meaning in _PATTERNS.items() if re.fullmatch(pattern, name)), "")


def step_metrics(done: StepResult) -> dict[str, float]:
    """Returns the metrics that follow from a step's result alone, named as in `METRICS`.

    Rewards and lengths are those of the step's own prompts: of groups that were chosen for their differing rewards, the
    mean reward says nothing of how good the model is.
    """
    rollout, rewards = done.sampled.rollout, done.sampled.rewards
    return {
        **reward_metrics(rewards, done.batch.num_generations, done.sampled.equal),
        **length_metrics(rollout.lengths, rollout.truncated),
        **done.metrics,
        "perf/tokens_per_second": done.num_drawn / done.metrics["step_time"],
        "perf/peak_memory_gb": peak_memory_bytes() / 1e9,
    }


def completion_records(step: int, done: StepResult) -> list[CompletionRecord]:
    """Returns one record per completion of a step."""
    batch, rollout, rewards = done.batch, done.rollout, done.rewards
    return [
        CompletionRecord(
            step=step,
            prompt=prompt,
            completion=rollout.texts[index],
            answer=question.answer,
            rewards={name: values[index] for name, values in rewards.parts.items()},
            reward=float(rewards.total[index]),
            advantage=float(done.advantages[index]),
            length=int(rollout.lengths[index]),
            truncated=bool(rollout.truncated[index]),
        )
        for index, (prompt, question) in enumerate(
            zip(batch.per_completion(batch.texts), batch.per_completion(batch.questions), strict=True)
        )
    ]


def reward_metrics(rewards: RewardTable, num_generations: int, equal: np.ndarray | None = None) -> dict[str, float]:
    """Returns the reward metrics of a step.

    `reward_std` is the mean over groups of the sample standard deviation within a group, as TRL logs it;
    `frac_reward_zero_std` the share of groups whose completions all got the same reward and have no advantage.
    Groups that are left out of the update are left out of these.
    A part's mean and deviation, and the mean of an extra, are over the rows that have it; without such a row they are
    left out.

    Args:
        equal: bool[P], the groups that teach nothing; None: those of equal totals, as without reward.normalisation.
    """
    counted = [value for row, value in enumerate(rewards.total) if row not in rewards.skipped]
    groups = np.asarray(counted, np.float64).reshape(-1, num_generations)
    metrics: dict[str, float] = {f"rewards/{name}": count for name, count in rewards.events.items()}
    if rewards.events:
        metrics["rewards/skipped_groups"] = len(rewards.skipped) // num_generations
    if groups.size:
        useless = groups.max(axis=1) == groups.min(axis=1)
        if equal is not None:
            useless = np.delete(equal, [row // num_generations for row in rewards.skipped])
        metrics |= {
            "reward": float(groups.mean()),
            "reward_std": float(groups.std(axis=1, ddof=1).mean()),
            "frac_reward_zero_std": float(np.mean(useless)),
        }
    for name, column in rewards.parts.items():
        if values := [value for value in column if value is not None]:
            metrics[f"rewards/{name}/mean"] = float(np.mean(values))
            metrics[f"rewards/{name}/std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    for name, column in rewards.extras.items():
        metrics[f"rewards/{name}"] = float(np.mean([value for value in column if value is not None]))
    return metrics


def length_metrics(lengths: np.ndarray, truncated: np.ndarray) -> dict[str, float]:
    """Returns the length metrics of a step; mean_terminated_length is left out where every completion was cut."""
    finished = lengths[~truncated]
    metrics = {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(truncated.mean()),
    }
    if finished.size:
        metrics["completions/mean_terminated_length"] = float(finished.mean())
    return metrics
