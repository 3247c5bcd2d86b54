"""Every random number comes from a named stream, and every stream gives the numbers that it always gave."""

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_grpo import seeds

PACKAGE = Path(seeds.__file__).parent
# Functions that make a generator or a key, by themselves or from their module.
SOURCES = {"default_rng", "Generator", "RandomState", "SeedSequence", "Random", "SystemRandom", "PRNGKey"}
# Another program's trainer, seeded as that program does it.
FOREIGN = {"benchmark/peer_tunix.py"}


def drawn_numpy(stream: str, *place: int) -> list[int]:
    return seeds.generator(stream, 42, *place).integers(0, 1000, 4).tolist()


@pytest.mark.parametrize(
    ("stream", "place", "values"),
    [
        ("training order", (0,), [637, 793, 449, 245]),
        ("training order", (3,), [747, 492, 22, 586]),
        ("benchmark questions", (), [678, 388, 695, 249]),
        ("random weights", (7,), [480, 519, 332, 208]),
        ("tiny weights", (), [89, 773, 654, 438]),
        ("tiny demonstrations", (), [637, 793, 449, 245]),
    ],
)
def test_numpy_streams_give_the_numbers_that_they_always_gave(stream: str, place: tuple[int, ...], values: list[int]):
    assert drawn_numpy(stream, *place) == values


def test_the_kernel_trial_always_has_the_same_inputs():
    assert seeds.generator("kernel trial", 0).integers(0, 1000, 4).tolist() == [850, 636, 511, 269]


@pytest.mark.parametrize("stream", ["split order", "arithmetic", "reasoning_gym"])
def test_python_streams_give_the_numbers_that_they_always_gave(stream: str):
    drawn = seeds.python_random(stream, 42)
    assert [drawn.randrange(1000) for _ in range(4)] == [654, 114, 25, 759]


@pytest.mark.parametrize(
    ("stream", "bits"),
    [
        ("rollout", [2865777128, 3098761794, 544579079, 1521607940]),
        ("lora", [3194337308, 2443200557, 4060481970, 3351187795]),
        ("evaluation", [2223616219, 4196938313, 1000291739, 2705728932]),
    ],
)
def test_jax_streams_give_the_numbers_that_they_always_gave(stream: str, bits: list[int]):
    assert jax.random.bits(seeds.key(stream, 42), (4,)).tolist() == bits


def test_the_global_state_gives_the_numbers_that_it_always_gave():
    before = random.getstate(), np.random.get_state()
    seeds.seed_globally(42)
    drawn = random.randrange(1000), np.random.randint(1000)
    random.setstate(before[0])
    np.random.set_state(before[1])
    assert drawn == (654, 102)


def test_numbered_streams_of_a_run_do_not_share_a_number():
    numbers = [stream.number for name, stream in seeds.STREAMS.items() if stream.number and "tiny" not in name]
    assert len(numbers) == len(set(numbers))


def unnamed_draws(program: str) -> Iterator[str]:
    """Yields the calls of a program that make random numbers by themselves, not from what they were given."""
    for node in ast.walk(ast.parse(program)):
        if not isinstance(node, ast.Call):
            continue
        module, _, name = ast.unparse(node.func).rpartition(".")
        draws = name in SOURCES or module in ("random", "np.random", "numpy.random")
        makes_key = (module, name) == ("jax.random", "key")
        # Rngs(0) stands where only shapes are asked for.
        makes_stream = name == "Rngs" and [ast.unparse(argument) for argument in node.args] != ["0"]
        if draws or makes_key or makes_stream:
            yield ast.unparse(node)


@pytest.mark.parametrize(
    ("program", "draws"),
    [
        ("np.random.default_rng([seed, 1])", True),
        ("default_rng(3)", True),
        ("np.random.shuffle(rows)", True),
        ("random.random()", True),
        ("random.Random(seed).shuffle(rows)", True),
        ("jax.random.key(seed)", True),
        ("jax.random.PRNGKey(0)", True),
        ("nnx.Rngs(seed)", True),
        ("nnx.Rngs(0)", False),
        ("jax.random.uniform(key, (3,))", False),
        ("jax.random.fold_in(key, step)", False),
        ("seeds.key('rollout', seed)", False),
        ("rng.permutation(3)", False),
    ],
)
def test_unnamed_draws_are_found(program: str, draws: bool):
    assert bool(list(unnamed_draws(program))) is draws


def test_random_numbers_are_drawn_through_the_table_of_streams():
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    found = {name: list(unnamed_draws(text)) for name, text in files.items()}
    assert {name for name, calls in found.items() if calls} == {"seeds.py", *FOREIGN}


def test_every_stream_is_drawn_from():
    text = "".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    drawn = {name for name in seeds.STREAMS if re.search(f'"{name}"[,)\n]', text)}
    assert drawn == set(seeds.STREAMS) - {"global state"}
    assert "seeds.seed_globally(" in text
