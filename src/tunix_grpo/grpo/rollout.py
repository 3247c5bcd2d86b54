"""Rollouts: prompts in, completions out, on the decoder that also trains.

`decoder.generation.generate` draws all rows at once, in one compiled program; an `Engine` where there are more than
may be drawn at once. Row i of step s draws from key (seed, stream, s, i), so that two runs with one seed are equal, a
resumed run continues with the same numbers, and both ways give the same completions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.config import GenerationConfig, TrainerConfig
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.drawing import Drawn, Sampling
from tunix_grpo.decoder.generation import generate
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.grpo.answering import Answerer, SlotAnswerer
from tunix_grpo.grpo.engine import Asked, Completion, Engine
from tunix_grpo.model.gathering import Gathering
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model, ModelForm


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
        batch: token ids and lengths, on the device.
        lengths: int[B] on the host, the stop token included.
        truncated: bool[B], no stop token within max_tokens.
        texts: the completions without special tokens.
        token_ids: the completions, the stop token included.
        logps: float32[B, T] on the device, the log-probability of each token when it was drawn.
    """

    batch: Completions
    lengths: np.ndarray
    truncated: np.ndarray
    texts: list[str]
    token_ids: list[list[int]]
    logps: jax.Array


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


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Completions that the device draws."""

    prompt_tokens: jax.Array
    prompt_valid: jax.Array
    drawn: Drawn
    tokenizer: RowTokenizer

    def rollout(self) -> Rollout:
        """Returns the completions when they are drawn."""
        drawn = self.drawn
        tokens, lengths, stopped = jax.device_get((drawn.tokens, drawn.lengths, drawn.stopped))
        # The stop token is trained, but it is not text.
        ends = lengths - stopped
        texts = [self.tokenizer.decode(row[:end]) for row, end in zip(tokens, ends, strict=True)]
        token_ids = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
        batch = Completions(self.prompt_tokens, self.prompt_valid, drawn.tokens, drawn.lengths)
        return Rollout(batch, lengths, ~stopped, texts, token_ids, drawn.logps)


@dataclasses.dataclass(frozen=True)
class SlotDrawing:
    """Completions that are drawn in fewer rows than there are of them.

    Attributes:
        completions: as they end.
        count: how many.
        width: tokens of the longest that there may be.
        sharding: of a rollout's rows.
    """

    prompt_tokens: jax.Array
    prompt_valid: jax.Array
    completions: Iterator[Completion]
    count: int
    width: int
    tokenizer: RowTokenizer
    sharding: jax.sharding.NamedSharding

    def rollout(self) -> Rollout:
        """Draws the completions; their texts are read while the device draws the next ones."""
        tokens = np.full((self.count, self.width), self.tokenizer.pad_id(), np.int32)
        logps = np.zeros((self.count, self.width), np.float32)
        lengths, truncated = np.zeros(self.count, np.int32), np.ones(self.count, bool)
        texts, token_ids = [""] * self.count, [[] for _ in range(self.count)]
        for done in self.completions:
            row, length = done.place, len(done.tokens)
            tokens[row, :length], logps[row, :length] = done.tokens, done.logps
            lengths[row], truncated[row] = length, not done.stopped
            texts[row] = self.tokenizer.decode(done.tokens[: length - done.stopped].tolist())
            token_ids[row] = done.tokens.tolist()
        on_device = jax.device_put((tokens, lengths, logps), self.sharding)
        batch = Completions(self.prompt_tokens, self.prompt_valid, *on_device[:2])
        return Rollout(batch, lengths, truncated, texts, token_ids, on_device[2])


# Of the module, not of a sampler, so that the jobs of a sweep in one process share what is compiled.
@functools.partial(jax.jit, static_argnames=("form", "config", "stop_ids", "pad_id"))
def completions_drawn(
    form: ModelForm,
    trained: LeafTree,
    frozen: Weights,
    tokens: jax.Array,
    valid: jax.Array,
    keys: jax.Array,
    config: Sampling,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
    limits: jax.Array | None = None,
) -> Drawn:
    """Draws the completions of prompts; see `generate`."""
    return generate(
        form.spec,
        form.decoder_weights(trained, frozen),
        tokens,
        valid,
        keys,
        config,
        stop_ids=stop_ids,
        pad_id=pad_id,
        attention_form=form.attention_form,
        limits=limits,
    )


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
        self._form = model.form
        self._tokenizer = tokenizer
        self._gathering = Gathering(model, mesh)
        self._mesh, self._home = self._gathering.mesh, mesh
        self._width = prompt_width
        self._seed = seed
        self._max_rows = max_rows

    def sample(
        self, weights: tuple[LeafTree, Weights], prompts: Sequence[Sequence[int]], config: Sampling, step: int
    ) -> Rollout:
        """Draws completions; see `start`."""
        return self.start(weights, prompts, config, step).rollout()

    def start(
        self,
        weights: tuple[LeafTree, Weights],
        prompts: Sequence[Sequence[int]],
        config: Sampling,
        step: int,
        extra_round: int = 0,
    ) -> Drawing | SlotDrawing:
        """Sets the drawing of completions going, which the host need not wait for where all fit.

        Args:
            weights: the trained leaves and what stays, as `Model` holds them.
            prompts: token ids, each at most `prompt_width` long.
            step: the step that the random numbers belong to.
            extra_round: which further batch of the step it is, from 1; 0 is its own.
        """
        tokens, valid = left_padded(prompts, self._width, self._tokenizer.pad_id())
        by_rows = jax.sharding.PartitionSpec("fsdp")
        sharding, home = (jax.sharding.NamedSharding(mesh, by_rows) for mesh in (self._mesh, self._home))
        rows = len(prompts) * config.num_generations
        keys = row_keys(self._seed, step, rows, extra_round)
        weights = self._gathering.weights(weights)
        if self._max_rows is not None and rows > self._max_rows:
            of_rows = [prompt for prompt in prompts for _ in range(config.num_generations)]
            completions = self._engine(self._max_rows).completions(
                weights, Asked(of_rows, np.asarray(jax.random.key_data(keys))), config
            )
            tokens, valid = jax.device_put((tokens, valid), home)
            return SlotDrawing(tokens, valid, completions, rows, config.max_tokens, self._tokenizer, home)
        tokens, valid, keys = jax.device_put((tokens, valid, keys), sharding)
        stops, pad_id = tuple(self._tokenizer.stop_ids), self._tokenizer.pad_id()
        with layouts.on(self._mesh):
            drawn = completions_drawn(self._form, *weights, tokens, valid, keys, config, stop_ids=stops, pad_id=pad_id)
        if self._mesh != self._home:
            tokens, valid, drawn = jax.device_put((tokens, valid, drawn), home)
        return Drawing(tokens, valid, drawn, self._tokenizer)

    def answerer(self, weights: tuple[LeafTree, Weights], rows: int, width: int | None = None) -> Answerer:
        """Returns what answers questions with these weights.

        Args:
            rows: questions that are answered at once.
            width: tokens that their prompts are padded to; None is the sampler's own width.
        """
        engine, weights = self._engine(rows, width), self._gathering.weights(weights)
        return SlotAnswerer(engine, weights, self._tokenizer, self._seed)

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
