"""Times the programs of a step on the device that is here, one variant after another.

    python tools/timed_programs.py --size 270m update update:chunk=29 update:chunk=29:remat=block reference rollout

A variant is a program of tools/step_programs.py, and what it has of its own: chunk=N, 2**N bytes of logits at once;
remat=full, block or none of an update's; form=plain or fused attention. The work is that of tools/compiled_memory.py
with adapters of rank 32; the weights are random numbers. Printed are the median, the fastest and the slowest run, and
what the program is compiled to need. Flags of XLA are given as XLA_FLAGS.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from step_programs import COMPLETION_TOKENS, PROGRAMS, SHAPES, described_model

from tunix_grpo.decoder.attention import FUSED, PLAIN
from tunix_grpo.grpo import head_chunks
from tunix_grpo.model.model import Model

_HEAD = f"{'program':<36}{'median':>10}{'fastest':>10}{'slowest':>10}{'peak':>12}   (ms, MB; compiled in)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="270m", help="of Gemma 3: 270m, 1b, 4b, 12b or 27b")
    parser.add_argument("--runs", type=int, default=6, help="of each variant, after one that is not timed")
    parser.add_argument("variants", nargs="+")
    asked = parser.parse_args()
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    model = described_model(SHAPES / f"google--gemma-3-{asked.size}-it", 32, mesh)
    print(_HEAD)
    held: dict[tuple, jax.Array] = {}
    for variant in asked.variants:
        start = time.perf_counter()
        compiled, like = compiled_variant(variant, model, mesh)
        compiled_in = time.perf_counter() - start
        inputs = jax.tree.map(lambda each: random_array(each, held), like)
        seconds = run_times(compiled, inputs, asked.runs)
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        times = "".join(f"{1e3 * each:>10.1f}" for each in figures)
        memory = compiled.memory_analysis()
        peak = "not told" if memory is None else f"{memory.peak_memory_in_bytes / 1e6:,.0f}"
        print(f"{variant:<36}{times}{peak:>12}   ({compiled_in:.0f} s)")


def compiled_variant(variant: str, model: Model, mesh: Mesh) -> tuple[jax.stages.Compiled, Any]:
    """Returns a program, and the shapes of its inputs."""
    name, *own = variant.split(":")
    words = dict(word.split("=") for word in own)
    form = words.get("form", FUSED if jax.default_backend() == "gpu" else PLAIN)
    remat = {"remat": words["remat"]} if "remat" in words else {}
    with chunks_of(words.get("chunk")):
        program, like = PROGRAMS[name](model, mesh, form, **remat)
        return jax.jit(program).lower(*like).compile(), like


@contextlib.contextmanager
def chunks_of(exponent: str | None) -> Iterator[None]:
    """Has programs traced with so many bytes of logits at once, 2 to this power; None: as a training would."""
    usual = head_chunks._chunk_bytes
    if exponent is not None:
        head_chunks._chunk_bytes = lambda: 2 ** int(exponent)
    try:
        yield
    finally:
        head_chunks._chunk_bytes = usual


def random_array(like: jax.ShapeDtypeStruct, held: dict[tuple, jax.Array]) -> jax.Array:
    """Returns an array of these shapes; those of one shape and type are one array, so that 4B fits too."""
    kind = (like.shape, like.dtype)
    if kind not in held:
        held[kind] = jax.jit(lambda key: _numbers(key, like), out_shardings=like.sharding)(jax.random.key(len(held)))
    return held[kind]


def _numbers(key: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.split(key, like.shape)
    if like.dtype == bool:
        return jnp.ones(like.shape, bool)
    if jnp.issubdtype(like.dtype, jnp.integer):  # token ids, or the lengths of completions
        tokens = jax.random.randint(key, like.shape, 200, 1000, like.dtype)
        return tokens if len(like.shape) > 1 else jnp.full(like.shape, COMPLETION_TOKENS, like.dtype)
    return 0.02 * jax.random.normal(key, like.shape, like.dtype)


def run_times(program: jax.stages.Compiled, inputs: Any, runs: int) -> list[float]:
    """Returns the seconds of each run."""
    jax.block_until_ready(program(*inputs))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(program(*inputs))
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
