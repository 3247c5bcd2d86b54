"""Answers to many questions, in the order in which they are ready.

An answer is a function of (seed, question, sample) and of the weights: neither of the order in which questions are
asked nor of how many are answered at once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.grpo.engine import Asked, Engine
from tunix_grpo.model.layout import LeafTree

_LEAST = 64  # keys are made for so many answers or more


@dataclasses.dataclass(frozen=True)
class Request:
    """A question that is to be answered once.

    Attributes:
        question: its number.
        sample: which of its answers, from 0.
        prompt: token ids.
    """

    question: int
    sample: int
    prompt: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer.

    Attributes:
        text: without the stop token.
        token_ids: the stop token included.
        truncated: no stop token within the limit.
    """

    request: Request
    text: str
    token_ids: list[int]
    truncated: bool


class Answerer(Protocol):
    """What answers."""

    def answers(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answered]:
        """Yields an answer to each request, in the order in which they are ready."""
        ...


class Decoding(Protocol):
    """What an answerer asks of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion."""
        ...


@dataclasses.dataclass(frozen=True)
class SlotAnswerer:
    """Answers with the weights that it holds.

    Attributes:
        weights: the trained leaves and what stays, as `Model` holds them.
        seed: of the run.
    """

    engine: Engine
    weights: tuple[LeafTree, Weights]
    tokenizer: Decoding
    seed: int

    def answers(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answered]:
        """Yields an answer to each request, in the order in which they are ready.

        Args:
            sampling: `num_generations` is not read.
        """
        if not requests:
            return
        asked = Asked([request.prompt for request in requests], answer_keys(self.seed, requests))
        for done in itertools.chain.from_iterable(self.engine.completions(self.weights, asked, sampling)):
            ids = done.tokens.tolist()
            text = self.tokenizer.decode(ids[: len(ids) - done.stopped])
            yield Answered(requests[done.place], text, ids, not done.stopped)


def answer_keys(seed: int, requests: Sequence[Request]) -> np.ndarray:
    """Returns uint32[N, ...], the data of the keys that the answers' tokens are drawn from."""
    count = max(_LEAST, 1 << (len(requests) - 1).bit_length())  # so that lists of any length share few programs
    places = np.zeros((count, 2), np.uint32)
    places[: len(requests)] = [(request.question, request.sample) for request in requests]
    return np.asarray(_key_data(seeds.key("evaluation", seed), places))[: len(requests)]


@jax.jit
def _key_data(key: jax.Array, places: jax.Array) -> jax.Array:
    def of_answer(place: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])

    return jax.random.key_data(jax.vmap(of_answer)(places))
