"""Prints how long a step's matrix products alone take: what no other order of the work would go below on this machine.

python tools/product_rates.py DIR

DIR is a Hugging Face directory, such as SmolLM2's. The work is that of scripts/benchmark.py on a CPU: 4 prompts x 4
completions of 64 + 64 tokens, LoRA rank 32. The products are read out of the compiled programs. Each is timed alone, as
often as its program has it; those of a decode step also in NumPy, and in PyTorch where that is installed, which makes
those of transformers and TRL.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from technique_table import LENGTH, PROMPTS, ROWS, batch, in_turns

from tunix_grpo.decoder import generation
from tunix_grpo.decoder.forward import choose_remat, next_logits
from tunix_grpo.decoder.joined import joined
from tunix_grpo.grpo.loss import completion_logprobs
from tunix_grpo.preflight.compiled_text import instructions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.models import load  # noqa: E402

TOKEN = "a token of all rows"
# Of the matrices that a product is timed with, in turns, and how many these are at most. A decode step reads the whole
# model: no weight is in a cache when its turn comes again. What the passes over whole rows multiply has just been made.
COLD, WARM = (2**29, 500), (2**26, 10)
_DOT = re.compile(r" = \S+ dot\((.*?)\), (.*)")
_DIMENSIONS = (("lhs_contracting_dims", "rhs_contracting_dims"), ("lhs_batch_dims", "rhs_batch_dims"))


class Product(NamedTuple):
    """Of float32 arrays; `contracted` and `batched` name dimensions of the left one and of the right one."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batched: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def num_bytes(self) -> int:
        """Of what it reads."""
        return 4 * (math.prod(self.left) + math.prod(self.right))

    @property
    def is_of_weights(self) -> bool:
        """A matrix with a few rows of activations, which the program has on the right."""
        return not self.batched[0] and ROWS in self.right and len(self.left) == 2


def products(text: str) -> Counter[Product]:
    """Returns the products of an optimised HLO module, and how often each runs."""
    bodies = dict(re.findall(r"^%([\w.\-]+) \(.*?\) -> .*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    found: Counter[Product] = Counter()
    for each in instructions(text):
        called = re.search(r"calls=%([\w.\-]+)", each.line) if each.operation == "fusion" else None
        body = bodies[called[1]] if called else each.line if each.operation == "dot" else ""
        shapes = dict(zip(re.findall(r"%[\w.\-]+", each.line.partition("(")[2]), each.operands, strict=False))
        shapes |= dict(re.findall(r"(%[\w.\-]+) = (\S+) ", body))
        for dot in _DOT.finditer(body):
            found[_product([shapes[name] for name in re.findall(r"%[\w.\-]+", dot[1])], dot[2])] += each.times
    return found


def _product(operands: list[str], attributes: str) -> Product:
    left, right = (_numbers(shape.partition("[")[2].partition("]")[0]) for shape in operands)
    named = dict(re.findall(r"(\w+)=\{([\d,]*)\}", attributes))
    contracted, batched = ((_numbers(named.get(a, "")), _numbers(named.get(b, ""))) for a, b in _DIMENSIONS)
    return Product(left, right, contracted, batched)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def number_in_turns(product: Product, times: int, most: tuple[int, int]) -> int:
    """Returns how many pairs of matrices take turns: of small ones not as many as there is room for."""
    return max(1, min(most[0] // product.num_bytes, most[1], 16 * times))


def seconds_in_xla(product: Product, times: int, most: tuple[int, int]) -> float:
    """Returns what so many of a product take, one behind the other.

    Args:
        most: COLD or WARM.
    """
    count = number_in_turns(product, times, most)
    keys = jax.random.split(jax.random.key(0), 2 * count)
    lefts = [jax.random.normal(key, product.left) for key in keys[:count]]
    rights = [jax.random.normal(key, product.right) for key in keys[count:]]

    @jax.jit
    def run(lefts: list[jax.Array], rights: list[jax.Array]) -> jax.Array:
        total = jnp.float32(0)
        for left, right in zip(lefts, rights, strict=True):
            # The next product waits for this one; adding a number that is 0 would cost the reading of `left`.
            left, total = jax.lax.optimization_barrier((left, total))
            total += jax.lax.dot_general(left, right, (product.contracted, product.batched)).reshape(-1)[0]
        return total

    return in_turns(lambda: run(lefts, rights).block_until_ready())[0] * times / count


def seconds_in(library: str, product: Product, times: int) -> float:
    """Returns what so many of a product of weights take in NumPy or in PyTorch."""
    count = number_in_turns(product, times, COLD)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal(product.right, np.float32)
    weights: list[Any] = [rng.standard_normal(product.left, np.float32) for _ in range(count)]
    if library == "torch":
        import torch

        rows, weights = torch.from_numpy(rows), [torch.from_numpy(weight) for weight in weights]
    if product.contracted[1] == (0,):
        rows = rows.T
    return in_turns(lambda: [rows @ weight.T for weight in weights])[0] * times / count


def programs(model: Any) -> dict[str, Counter[Product]]:
    """Returns the products of a decode step, of the reference and of an update."""
    asked, weights = batch(PROMPTS), model.decoder_weights()
    prefill = jax.jit(functools.partial(generation.prefill, model.spec, attention_form="plain"))
    _, seen = prefill(weights, asked.prompt_tokens, asked.prompt_valid)
    cache = generation.empty_cache(model.spec, ROWS, LENGTH - 1, jnp.float32)
    by_layer = jax.jit(joined, static_argnums=0)(model.spec, weights)
    tokens = PROMPTS * LENGTH + ROWS * LENGTH
    remat = choose_remat("auto", model.spec, tokens, model.dtype)

    def token(weights: Any, tokens: jax.Array, cache: Any, seen: Any) -> Any:
        hidden, cache = generation.decode_step(model.spec, weights, tokens, LENGTH - 2, cache, seen)
        return next_logits(weights, hidden), cache

    def logps(weights: Any, remat: str = "none") -> jax.Array:
        return completion_logprobs(model.spec, weights, asked, 1.0, remat=remat)[0]

    def update(trained: Any, frozen: Any) -> Any:
        return jax.grad(lambda trained: jnp.mean(logps(model.decoder_weights(trained, frozen), remat)))(trained)

    compiled = {
        TOKEN: jax.jit(token).lower(by_layer, asked.tokens[:, 0], cache, seen),
        "reference": jax.jit(logps).lower(model.reference),
        "update": jax.jit(update).lower(model.trained, model.frozen),
    }
    return {name: products(lowered.compile().as_text() or "") for name, lowered in compiled.items()}


def main(directory: str) -> None:
    libraries = ["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]
    alone = {}
    for name, found in programs(load(Path(directory), lora_rank=32)).items():
        decoding = name == TOKEN
        seconds = {each: seconds_in_xla(each, times, COLD if decoding else WARM) for each, times in found.items()}
        alone[name] = sum(seconds.values())
        if not decoding:
            continue
        print(f"| a decode step's products | times | {' | '.join(['XLA', *libraries])} |")
        print(f"|---|---|{'---|' * (1 + len(libraries))}")
        for product, times in found.most_common():
            if product.is_of_weights:
                each = [seconds[product], *(seconds_in(library, product, times) for library in libraries)]
                rates = " | ".join(f"{product.num_bytes * times / value / 1e9:.1f} GB/s" for value in each)
                print(f"| {product.left} x {product.right} | {times} | {rates} |", flush=True)
    rollout = alone[TOKEN] * (LENGTH - 1)
    print(f"\n{TOKEN}: {1000 * alone[TOKEN]:.3g} ms, {LENGTH - 1} of them: {rollout:.3g} s")
    print(f"reference: {alone['reference']:.3g} s\nupdate: {alone['update']:.3g} s")
    print(f"a step's products alone: {rollout + alone['reference'] + alone['update']:.3g} s")


if __name__ == "__main__":
    main(sys.argv[1])
