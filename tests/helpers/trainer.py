"""A trainer on a small random model, put together from the real parts; only tokenizer and task are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from helpers.models import load, one_device_mesh
from tunix_grpo.config import Config, DataConfig
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.text.ledger import Ledger
from tunix_grpo.text.order import PromptOrder
from tunix_grpo.text.prompt_set import PromptSet

PAD, STOPS = 0, (1, 2)
SGD = optax.sgd(0.1)  # one object, so that the trainers of a file share what is compiled


class NumberTokenizer:
    """Token 17 is the word "17"; stop tokens are no words."""

    stop_ids = STOPS

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids if i not in STOPS)

    def pad_id(self) -> int:
        return PAD

    def eos_id(self) -> int:
        return STOPS[0]

    def bos_id(self) -> None:
        return None


def arrays(tree) -> list[np.ndarray]:
    """Returns the leaves of a tree on the host."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def number_prompts(count: int = 8) -> PromptSet:
    rng = np.random.default_rng(0)
    ids = [[int(i) for i in rng.integers(3, 97, rng.integers(3, 9))] for _ in range(count)]
    texts = [" ".join(map(str, row)) for row in ids]
    return PromptSet([Question(text, "0") for text in texts], texts, ids, 0)


def uniform_order(prompts: PromptSet, prompts_per_step: int, num_generations: int) -> PromptOrder:
    """Returns the order in which a run of seed 0 asks its questions unless it is told otherwise."""
    return PromptOrder(
        prompts=prompts,
        prompts_per_step=prompts_per_step,
        num_generations=num_generations,
        seed=0,
        data=DataConfig(order="uniform", band=[0.0, 1.0]),
        ledger=Ledger(len(prompts)),
    )


def mean_token(samples: Samples) -> list[float]:
    """A reward that differs between completions: the mean of their tokens."""
    return [float(np.mean([int(word) for word in text.split()] or [0])) / 97 for text in samples.completions]


def small_trainer(
    compose: Callable,
    folder: Path,
    *overrides: str,
    reward: Callable = mean_token,
    tx: optax.GradientTransformation = SGD,
    **model_changes,
) -> Trainer:
    """Returns a trainer on the model in `folder`: 2 prompts, 4 completions of 6 tokens, unless overridden."""
    config = compose(
        "model=hf",
        f"model.path={folder}",
        "device=cpu",
        "grpo.num_generations=4",
        "training.micro_batch_size=2",
        "generation.max_generation_steps=6",
        *overrides,
    )
    return put_together(config, load(folder, **model_changes), reward, tx, prompt_width=8)


def put_together(
    config: Config, model: Model, reward: Callable, tx: optax.GradientTransformation, prompt_width: int
) -> Trainer:
    """Returns a trainer on one device with one reward and no task."""
    return Trainer(
        config,
        one_device_mesh(),
        model,
        NumberTokenizer(),
        ExactTask("numbers", [], []),
        [Reward("mean_token", 1.0, reward)],
        tx,
        prompt_width=prompt_width,
    )
