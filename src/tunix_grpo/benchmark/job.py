"""The work that a peer is given, the same as our own program's, and the reward that all programs share."""

from __future__ import annotations

import dataclasses
from typing import TypedDict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The work of a peer.

    Attributes:
        directory: Hugging Face directory of the model.
        tokenizer: directory of the tokenizer.
        device: cpu, cuda or tpu.
        dtype: float32 or bfloat16.
        lora_rank: of adapters on all linear layers; None trains all weights.
        prompts: P per step.
        generations: G per prompt.
        prompt_width: tokens that a prompt may have.
        completion_tokens: T, the most of a completion.
        lengths: tokens of each completion of a step, prompt by prompt; None: T, since no token ends one.
        micro_batch_size: prompts that pass through the model at once.
        total_steps: to be made.
        texts: total_steps x P prompts, with their chat template.
        answers: to the questions in them.
    """

    directory: str
    tokenizer: str
    device: str
    dtype: str
    lora_rank: int | None
    lora_alpha: float
    prompts: int
    generations: int
    prompt_width: int
    completion_tokens: int
    lengths: list[int] | None
    micro_batch_size: int
    beta: float
    learning_rate: float
    temperature: float
    seed: int
    total_steps: int
    texts: list[str]
    answers: list[str]


class About(TypedDict):
    """What our own program says of itself before its first step: JSON, from one process to another.

    Attributes:
        platform: what JAX calls the device: cpu, gpu or tpu.
        device: what the hardware calls itself.
        weights: of the model, adapters not counted.
        work: the sizes of `limits.Work`, and prompt_width.
        lengths: as `Job` has them.
        ceilings: the fields of `limits.Ceilings`.
        limits: the fields of `limits.Limits`, and step: seconds.
        total_steps: as `Job` has them; so are texts and answers.
    """

    model: str
    directory: str
    platform: str
    device: str
    num_devices: int
    dtype: str
    remat: str
    weights: int
    work: dict[str, int]
    lengths: list[int] | None
    ceilings: dict[str, float]
    limits: dict[str, float]
    total_steps: int
    texts: list[str]
    answers: list[str]


def worth(completion: str, answer: str) -> float:
    """Returns a reward that costs next to nothing and differs between completions."""
    return float(answer in completion) + 1e-4 * len(completion)
