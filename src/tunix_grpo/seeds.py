"""Every random number of this program is a function of (seed, stream, place): nothing random is saved or replayed.

A place is where in its stream a number is drawn: a step, a pass, a row. All generators and keys are made here.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # whoever asks for a key has imported jax already
    import jax


class Stream(NamedTuple):
    """One use of the seed.

    Attributes:
        number: what is mixed into the seed; None where the seed alone, or with the place, makes the numbers.
        use: what draws from it, and what its places are.
    """

    number: int | None
    use: str


# numpy fills up what it is given with zeros, so (seed, 1) and (seed, 1, 0) give the same numbers: random weights and
# the tiny model share some with numbered streams. That harms nobody, and another number would change what runs compute.
STREAMS = {
    "training order": Stream(1, "numpy: the order of the training questions, anew for every pass"),
    "rollout": Stream(2, "jax: the tokens of completions, by step, row and token"),
    "lora": Stream(4, "jax: the matrices A of adapters, by the adapted weight"),
    "benchmark questions": Stream(
        6, "numpy: the prompts that a benchmark asks, at 1 the order of answers' lengths, at 2 of completions'"
    ),
    "minibatches": Stream(7, "numpy: which groups of a step make which minibatch, by step"),
    "extra prompts": Stream(8, "numpy: the prompts that may replace groups that teach nothing, by step"),
    "extra rollout": Stream(9, "jax: the tokens of their completions, by step, round, row and token"),
    "question order": Stream(10, "numpy: the order of training questions that the ledger holds equal, by step"),
    "evaluation": Stream(11, "jax: the tokens of sampled answers to held-out questions, by question, sample and token"),
    "bootstrap": Stream(12, "numpy: which questions an interval is resampled from, by the part of the resamples"),
    "demonstration order": Stream(13, "numpy: the order of demonstrations, anew for every pass"),
    "random weights": Stream(None, "numpy: the weights of a model that no file gives, by tensor"),
    "kernel trial": Stream(None, "numpy: inputs that two forms of attention are compared on; the seed is always 0"),
    "tiny weights": Stream(0, "numpy: what the bundled model starts from"),
    "tiny demonstrations": Stream(1, "numpy: the completions that the bundled model imitates"),
    "split order": Stream(None, "Python: the order of a task's training questions"),
    "arithmetic": Stream(None, "Python: which sums of all possible ones are asked"),
    "reasoning_gym": Stream(None, "Python: the seed that reasoning_gym makes questions from"),
    "interruptions": Stream(None, "Python: when a proof of resume stops its trainings"),
    "global state": Stream(None, "Python and numpy: the state that reasoning_gym's data sets draw from unasked"),
}
"""Every stream by name. A new one takes the next free number, from 14 on: a number stays with its use for ever."""


def generator(stream: str, seed: int, *place: int) -> np.random.Generator:
    """Returns numpy's generator for a place of a stream."""
    number = STREAMS[stream].number
    return np.random.default_rng([seed, *([] if number is None else [number]), *place])


def python_random(stream: str, seed: int) -> random.Random:
    """Returns Python's generator for a stream without a number."""
    assert STREAMS[stream].number is None, stream
    return random.Random(seed)


def key(stream: str, seed: int) -> jax.Array:
    """Returns jax's key of a stream with a number; the places are folded into it."""
    import jax

    number = STREAMS[stream].number
    assert number is not None, stream
    return jax.random.fold_in(jax.random.key(seed), number)


def seed_globally(seed: int) -> None:
    """Sets the state that Python's and numpy's own functions draw from, in a process that serves one library."""
    random.seed(seed)
    np.random.seed(seed)
