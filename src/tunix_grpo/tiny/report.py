"""How well a tiny model calculates: greedily and sampled, for each kind of question."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tunix_grpo.config import ModelConfig
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.model.model import load_model
from tunix_grpo.rewards.format import format_score
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.text.prompts import chat_messages
from tunix_grpo.text.tokenizer import load_tokenizer
from tunix_grpo.tiny.demonstrations import Sum, heldout_questions

BATCH_SIZE = 256
MAX_PROMPT_TOKENS = 24
MAX_COMPLETION_TOKENS = 24
NUM_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Answers:
    """Completions of questions, judged.

    Attributes:
        texts: the completions, those of one question in a row.
        kinds: the kind of question of each.
        right: bool per completion.
        formatted: bool per completion, both blocks of tags are there.
    """

    texts: list[str]
    kinds: np.ndarray
    right: np.ndarray
    formatted: np.ndarray

    def accuracy(self, kind: str | None = None) -> float:
        """Returns the share of right answers, of one kind of question or of all."""
        return float(np.mean(self.right if kind is None else self.right[self.kinds == kind]))


def answer_questions(
    directory: Path, questions: Sequence[Question], *, temperature: float, num_samples: int = 1
) -> Answers:
    """Lets the model of a directory answer questions."""
    config = ModelConfig(
        name="tiny",
        path=str(directory),
        kaggle_id=None,
        hub_id=None,
        revision=None,
        tokenizer=None,
        random_weights=False,
        dtype="float32",
        lora_rank=None,
        lora_alpha=1.0,
        lora_target_modules="all",
        quantization=None,
        family=None,
        run=None,
        step="latest",
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    model = load_model(config, directory, mesh, seed=0)
    tokenizer = load_tokenizer(directory, model.spec.vocab_size)
    engine = Sampler(
        model,
        tokenizer,
        mesh,
        prompt_width=MAX_PROMPT_TOKENS,
        seed=0,
    )
    sampling = Sampling(num_generations=num_samples, max_tokens=MAX_COMPLETION_TOKENS, temperature=temperature)
    ids = [tokenizer.encode_prompt(chat_messages(q.question, None)) for q in questions]
    texts: list[str] = []
    for start in range(0, len(ids), BATCH_SIZE):
        batch = ids[start : start + BATCH_SIZE]
        filled = batch + batch[-1:] * (min(BATCH_SIZE, len(ids)) - len(batch))
        texts += engine.sample((model.trained, model.frozen), filled, sampling, start).texts[: len(batch) * num_samples]
    return _judge(texts, [q for q in questions for _ in range(num_samples)])


def report(directory: Path) -> str:
    """Returns a table of accuracies on the held-out questions."""
    questions = heldout_questions()
    greedy = answer_questions(directory, questions, temperature=0.0)
    sampled = answer_questions(directory, questions, temperature=1.0, num_samples=NUM_SAMPLES)
    rows = [f"{'held-out questions':<24}{'number':>8}{'greedy':>9}{'sampled':>9}"]
    for kind in sorted(set(greedy.kinds)):
        count = int(np.sum(greedy.kinds == kind))
        rows.append(_row(kind, count, greedy.accuracy(kind), sampled.accuracy(kind)))
    rows.append(_row("all", len(questions), greedy.accuracy(), sampled.accuracy()))
    formatted = float(np.mean(greedy.formatted)), float(np.mean(sampled.formatted))
    rows.append(_row("all: tags as asked for", len(questions), *formatted))
    return "\n".join(rows)


def _row(name: str, count: int, greedy: float, sampled: float) -> str:
    return f"{name:<24}{count:>8}{greedy:>9.1%}{sampled:>9.1%}"


def _judge(texts: list[str], questions: list[Question]) -> Answers:
    task = ExactTask("arithmetic", (), questions)
    pairs = list(zip(texts, questions, strict=True))
    return Answers(
        texts,
        np.array([Sum.of(question.question).kind() for question in questions]),
        np.array([task.score(text, question) == 1.0 for text, question in pairs]),
        np.array([format_score(text) == 1.0 for text in texts]),
    )
