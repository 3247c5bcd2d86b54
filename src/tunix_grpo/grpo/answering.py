"""Answers to a list of requests, whichever are drawn at once: each from a key of its own.

An answer is a function of the weights, the seed, its question and its sample; neither the batch nor the order counts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.rollout import Drawing, RowTokenizer, Sampler
from tunix_grpo.model.model import Model


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    Attributes:
        question: its place in the set of questions, from 0.
        sample: which answer to it, from 0.
        prompt: token ids.
    """

    question: int
    sample: int
    prompt: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Answered:
    """One answer.

    Attributes:
        request: what it answers.
        text: without the stop token.
        token_ids: the stop token included.
        truncated: there was no stop token within max_tokens.
    """

    request: Request
    text: str
    token_ids: list[int]
    truncated: bool


class Answerer(Protocol):
    """What answers requests."""

    def answers(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answered]:
        """Yields an answer to each request, in the order in which they are finished."""
        ...


def answer_keys(seed: int, requests: Sequence[Request]) -> jax.Array:
    """Returns key[requests]: what the answer to each draws its tokens from."""
    places = np.array([(request.question, request.sample) for request in requests], np.uint32)
    return _folded(seeds.key("evaluation", seed), jnp.asarray(places))


@jax.jit
def _folded(key: jax.Array, places: jax.Array) -> jax.Array:
    fold = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1]))
    return fold(places)


class BatchAnswerer:
    """Answers batch by batch, each of the same number of rows; a batch takes as long as its longest answer."""

    def __init__(
        self,
        model: Model,
        tokenizer: RowTokenizer,
        mesh: jax.sharding.Mesh,
        *,
        prompt_width: int,
        rows: int,
        seed: int,
    ):
        """
        Args:
            prompt_width: prompts are padded to this many tokens.
            rows: requests at once, a multiple of the data-parallel devices.
            seed: of the answers.
        """
        self._weights = (model.trained, model.frozen)
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=seed)
        self._rows, self._seed = rows, seed

    def answers(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answered]:
        """Yields the answers in the order of the requests; while the caller uses a batch, the next one is drawn."""
        batches = [requests[start : start + self._rows] for start in range(0, len(requests), self._rows)]
        if not batches:
            return
        drawing = self._start(batches[0], sampling)
        for batch, following in itertools.zip_longest(batches, batches[1:]):
            current = drawing
            if following is not None:
                drawing = self._start(following, sampling)
            rollout = current.rollout()
            for row, request in enumerate(batch):
                yield Answered(request, rollout.texts[row], rollout.token_ids[row], bool(rollout.truncated[row]))

    def _start(self, batch: Sequence[Request], sampling: Sampling) -> Drawing:
        # The last batch is filled up, so that one program serves all.
        filled = [*batch, *itertools.repeat(batch[-1], self._rows - len(batch))]
        keys = answer_keys(self._seed, filled)
        one_each = dataclasses.replace(sampling, num_generations=1)
        return self._sampler.draw(self._weights, [request.prompt for request in filled], one_each, keys)
