"""Rollouts: prompts in, completions out, on the decoder that also trains.

Short completions are drawn by one program (`at_once.py`), longer ones in stages (`stages.py`), and more than may be
drawn at once by an `Engine`. Row i of step s draws from key (seed, stream, s, i), so that two runs with one seed are
equal, a resumed run continues with the same numbers, and all ways give the same completions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.config import GenerationConfig, TrainerConfig
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.drawing import DrawRule, Sampling
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.grpo.answering import Answerer, SlotAnswerer
from tunix_grpo.grpo.at_once import completions_at_once
from tunix_grpo.grpo.engine import Asked, Completion, Engine
from tunix_grpo.grpo.needed import program_bytes
from tunix_grpo.grpo.stages import SHORT, Start, completions_in_stages
from tunix_grpo.model.gathering import Gathering
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.base import Samples
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch


def train_sampling(config: TrainerConfig) -> Sampling:
    """Returns how training completions are drawn."""
    return sampling_of(config.generation, config.grpo.num_generations)


def sampling_of(generation: GenerationConfig, num_generations: int) -> Sampling:
    """Returns how completions are drawn by the settings of the group `generation`."""
    return Sampling(
        num_generations=num_generations,
        max_tokens=generation.max_generation_steps,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
    )


def greedy_sampling(max_tokens: int) -> Sampling:
    """Returns how evaluation answers of at most so many tokens are drawn."""
    return Sampling(num_generations=1, max_tokens=max_tokens, temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Completions of P prompts, G of each.

    Attributes:
        batch: token ids and lengths, on the host.
        truncated: bool[B], max_tokens without a stop token.
        texts: the completions without special tokens.
        token_ids: the completions, the stop token included.
        logps: float32[B, T] on the host, the log-probability of each token when it was drawn.
    """

    batch: Completions[np.ndarray]
    truncated: np.ndarray
    texts: list[str]
    token_ids: list[list[int]]
    logps: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int32[B], tokens of each completion, the stop token included."""
        return self.batch.lengths


def samples_of(
    batch: Batch, drawn: Sequence[tuple[int, str, list[int]]], task: Task, step: int, max_tokens: int
) -> Samples:
    """Returns completions of a batch as rewards take them: all of it, or some, each a group of its own.

    Args:
        drawn: row, text and tokens of each.
        step: that they belong to.
        max_tokens: that a completion may have.
    """
    places = [row // batch.num_generations for row, _, _ in drawn]
    return Samples(
        prompts=[batch.texts[place] for place in places],
        completions=[text for _, text, _ in drawn],
        questions=[batch.questions[place] for place in places],
        task=task,
        token_lengths=[len(ids) for _, _, ids in drawn],
        step=step,
        num_generations=batch.num_generations if len(drawn) == len(batch) * batch.num_generations else 1,
        max_tokens=max_tokens,
        token_ids=[ids for _, _, ids in drawn],
    )


def row_keys(seed: int, step: int, rows: int, extra_round: int = 0) -> jax.Array:
    """Returns key[rows]: what row i of a step draws its tokens from, or of an extra round of the step, from 1."""
    if extra_round == 0:
        key = jax.random.fold_in(seeds.key("rollout", seed), step)
    else:
        key = jax.random.fold_in(jax.random.fold_in(seeds.key("extra rollout", seed), step), extra_round)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


class RowTokenizer(Protocol):
    """What a sampler asks of a tokenizer."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion."""
        ...

    def pad_id(self) -> int:
        """Returns the id that fills rows."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion."""
        ...


class StoppedError(Exception):
    """A rollout was left before its end, as it was asked to."""


class Ended(Protocol):
    """What is told of completions while others are still drawn."""

    def __call__(self, row: int, text: str, token_ids: list[int]) -> object: ...


def _until_stopped(
    looks: Iterator[list[Completion]], count: int, stop: Callable[[], bool] | None
) -> Iterator[Completion]:
    """Yields `count` completions; raises StoppedError after the first look that leaves some and `stop` is true at."""
    for ended in looks:
        yield from ended
        count -= len(ended)
        if count and stop is not None and stop():
            raise StoppedError


class Sampler:
    """Draws completions with whatever weights it is given."""

    def __init__(
        self,
        model: Model,
        tokenizer: RowTokenizer,
        mesh: jax.sharding.Mesh,
        *,
        prompt_width: int,
        seed: int,
        max_rows: int | None = None,
    ):
        """
        Args:
            prompt_width: prompts are padded to this many tokens, so that one program serves all.
            seed: of the run.
            max_rows: completions of a rollout that are drawn at once; None: all of them.
        """
        self._tokenizer = tokenizer
        self._gathering = Gathering(model, mesh)
        self._form, self._mesh = self._gathering.form, self._gathering.mesh
        self._width = prompt_width
        self._seed = seed
        self._max_rows = max_rows

    def sample(
        self,
        weights: tuple[LeafTree, Weights],
        prompts: Sequence[Sequence[int]],
        config: Sampling,
        step: int,
        extra_round: int = 0,
        ended: Ended | None = None,
        limits: np.ndarray | None = None,
        max_rows: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Rollout:
        """Draws completions.

        Args:
            weights: the trained leaves and what stays, as `Model` holds them.
            prompts: token ids, each at most `prompt_width` long.
            step: the step that the random numbers belong to.
            extra_round: which further batch of the step it is, from 1; 0 is its own.
            ended: is told of each completion as soon as it has ended; the device draws on in the meantime.
            limits: int[B], tokens of each completion, 1 to config.max_tokens, unless a stop token ends it before; None:
                config.max_tokens. What is ended by a lower limit counts as ended by itself.
            max_rows: in the place of the sampler's own; None: that.
            stop: is asked between stages whether to leave the rest undrawn.

        Raises:
            StoppedError: `stop` has said so.
        """
        asked = left_padded(prompts, self._width, self._tokenizer.pad_id())
        rows = len(prompts) * config.num_generations
        keys = row_keys(self._seed, step, rows, extra_round)
        weights = self._gathering.weights(weights)
        most = max_rows or self._max_rows
        if most is not None and rows > most:
            of_rows = [prompt for prompt in prompts for _ in range(config.num_generations)]
            again = Asked(of_rows, np.asarray(jax.random.key_data(keys)), limits)
            looks = self._engine(most).completions(weights, again, config)
        else:
            by_rows = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec("fsdp"))
            ends = None if limits is None else np.asarray(limits, np.int32)
            start = Start(weights, *layouts.put((*asked, keys, ends), by_rows))
            rule = DrawRule(config, tuple(self._tokenizer.stop_ids), self._tokenizer.pad_id())
            drawing = completions_in_stages if config.max_tokens > SHORT else completions_at_once
            looks = drawing(self._form, self._mesh, start, rule)
        return self._collected(asked, _until_stopped(looks, rows, stop), rows, config.max_tokens, ended)

    def _collected(
        self,
        asked: tuple[np.ndarray, np.ndarray],
        completions: Iterator[Completion],
        count: int,
        width: int,
        ended: Ended | None,
    ) -> Rollout:
        """Returns `count` completions of up to `width` tokens, when they are drawn."""
        tokens = np.full((count, width), self._tokenizer.pad_id(), np.int32)
        logps = np.zeros((count, width), np.float32)
        lengths, truncated = np.zeros(count, np.int32), np.ones(count, bool)
        texts, token_ids = [""] * count, [[] for _ in range(count)]
        for done in completions:
            row, length = done.place, len(done.tokens)
            tokens[row, :length], logps[row, :length] = done.tokens, done.logps
            lengths[row], truncated[row] = length, not done.stopped and length == width
            # The stop token is trained, but it is not text.
            texts[row] = self._tokenizer.decode(done.tokens[: length - done.stopped].tolist())
            token_ids[row] = done.tokens.tolist()
            if ended is not None:
                ended(row, texts[row], token_ids[row])
        return Rollout(Completions(*asked, tokens, lengths), truncated, texts, token_ids, logps)

    def answerer(self, weights: tuple[LeafTree, Weights], rows: int, width: int | None = None) -> Answerer:
        """Returns what answers questions with these weights.

        Args:
            rows: questions that are answered at once.
            width: tokens that their prompts are padded to; None is the sampler's own width.
        """
        engine, weights = self._engine(rows, width), self._gathering.weights(weights)
        return SlotAnswerer(engine, weights, self._tokenizer, self._seed)

    def needed_bytes(self, weights: tuple[LeafTree, Weights], config: Sampling, rows: int) -> int | None:
        """Returns what drawing in so many rows at once needs on a device, as the compiler says it."""
        program, arguments = self._engine(rows).largest_program(self._gathering.weights(weights), config)
        with layouts.on(self._mesh):
            return program_bytes(program.lower(*arguments).compile())

    def _engine(self, rows: int, width: int | None = None) -> Engine:
        devices = self._mesh.shape["fsdp"]
        return Engine(
            form=self._form,
            mesh=self._mesh,
            stop_ids=tuple(self._tokenizer.stop_ids),
            pad_id=self._tokenizer.pad_id(),
            rows=math.ceil(rows / devices) * devices,
            prompt_width=width or self._width,
        )
