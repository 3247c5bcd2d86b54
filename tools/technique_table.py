"""Prints the table of docs/performance.md that says what each technique gives: the same work without it and with it.

python tools/technique_table.py DIR

DIR is a Hugging Face directory, such as SmolLM2's. The work is that of scripts/benchmark.py on a CPU: 4 prompts x 4
completions of 64 + 64 tokens, LoRA rank 32. Times are medians, taken in turns.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder import generation, matmul
from tunix_grpo.decoder.generation import decode_step, empty_cache
from tunix_grpo.decoder.joined import apart, joined
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.decoder.sampling import sample
from tunix_grpo.grpo import head_chunks
from tunix_grpo.grpo.loss import completion_logprobs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.models import load  # noqa: E402

PROMPTS, GROUP, LENGTH = 4, 4, 64
ROWS = PROMPTS * GROUP
ROUNDS = 5


def compiled(function: Callable, *inputs: Any) -> Callable:
    """Returns the program of a function; its attribute `temporaries` says how many bytes it needs beside its inputs."""
    program = jax.jit(function).lower(*inputs).compile()

    def run() -> None:
        jax.block_until_ready(program(*inputs))

    run.temporaries = program.memory_analysis().temp_size_in_bytes
    return run


def in_turns(*programs: Callable, repeats: int = 1) -> list[float]:
    """Returns the median seconds of each."""
    seconds = [[] for _ in programs]
    for turn in range(ROUNDS + 1):
        for place, program in enumerate(programs):
            begun = time.perf_counter()
            for _ in range(repeats):
                program()
            if turn > 0:
                seconds[place].append((time.perf_counter() - begun) / repeats)
    return [statistics.median(values) for values in seconds]


def show(technique: str, what: str, without: float, with_it: float, unit: str) -> None:
    print(
        f"| {technique} | {what} | {without:.3g} {unit} | {with_it:.3g} {unit} | {with_it / without:.2f} |", flush=True
    )


def batch(prompts: int) -> Completions:
    """Returns the step's completions, of so many prompts that each row's prompt is the same."""
    rng = np.random.default_rng(0)
    asked = np.repeat(rng.integers(3, 4000, (PROMPTS, LENGTH)), prompts // PROMPTS, axis=0)
    drawn = rng.integers(3, 4000, (ROWS, LENGTH))
    asked, drawn = jnp.asarray(asked, jnp.int32), jnp.asarray(drawn, jnp.int32)
    return Completions(asked, jnp.ones(asked.shape, bool), drawn, jnp.full(ROWS, LENGTH, jnp.int32))


def main(directory: str) -> None:
    model = load(Path(directory), lora_rank=32)
    trained, frozen = model.trained, model.frozen
    base, weights = model.reference, model.decoder_weights()

    def logps(weights: Any, completions: Completions) -> jax.Array:
        return completion_logprobs(model.spec, weights, completions, 1.0)[0]

    def mean(trained: Any, embed: Any, frozen: Any, remat: str = "block") -> jax.Array:
        weights = model.decoder_weights(trained, {**frozen, "embed": embed})
        return jnp.mean(completion_logprobs(model.spec, weights, batch(PROMPTS), 1.0, remat=remat)[0])

    def gradient(remat: str) -> Callable:
        return compiled(jax.grad(functools.partial(mean, remat=remat)), trained, frozen["embed"], frozen)

    def gradient_as_if_trained(*inputs: Any) -> Any:
        """The head's own gradient is asked for and thrown away, so that the compiler leaves it out."""
        return jax.grad(mean, argnums=(0, 1))(*inputs)[0]

    def decode(layers: Any, prompts: int) -> Callable:
        asked = batch(prompts)
        prefill = jax.jit(functools.partial(generation.prefill, model.spec, attention_form="plain"))
        _, seen = prefill(weights, asked.prompt_tokens, asked.prompt_valid)
        cache = empty_cache(model.spec, ROWS, LENGTH, jnp.float32)
        step = functools.partial(decode_step, model.spec)
        return compiled(step, layers, asked.tokens[:, 0], jnp.int32(LENGTH - 1), cache, seen)

    print("| technique | measured | without | with | ratio |\n|---|---|---|---|---|")
    each, once = (compiled(logps, base, batch(prompts)) for prompts in (ROWS, PROMPTS))
    show("each prompt once per group", "reference", *in_turns(each, once), "s")
    single = jax.jit(apart, static_argnums=0)(model.spec, weights)
    ahead = jax.jit(joined, static_argnums=0)(model.spec, weights)
    alone, together, repeated = decode(single, PROMPTS), decode(ahead, PROMPTS), decode(ahead, ROWS)
    outputs_first, matmul.outputs_first = matmul.outputs_first, lambda _: False
    unturned = decode(jax.jit(functools.partial(joined, model.spec))(weights), PROMPTS)
    matmul.outputs_first = outputs_first
    milliseconds = [1000 * seconds for seconds in in_turns(alone, together, repeated, unturned, repeats=8)]
    show("projections joined, adapters merged", "a decode step", milliseconds[0], milliseconds[1], "ms")
    show("joined weights read row after row", "a decode step", milliseconds[3], milliseconds[1], "ms")
    show("a group shares its prompt's keys", "a decode step", milliseconds[2], milliseconds[1], "ms")

    logits = 2 * jax.random.normal(jax.random.key(0), (ROWS, model.spec.vocab_size))
    keys = jax.random.split(jax.random.key(1), ROWS)
    choices = {
        "one uniform number per row, not per token": (jax.vmap(jax.random.categorical), {}),
        "top_k=50 without sorting": (functools.partial(sorted_draw, top_k=50), {"top_k": 50}),
        "top_p=0.9 without sorting": (functools.partial(sorted_draw, top_p=0.9), {"top_p": 0.9}),
    }
    for technique, (plain, cut) in choices.items():
        ours = compiled(functools.partial(sample, temperature=1.0, **cut), logits, keys)
        theirs = compiled(plain, keys, logits)
        show(technique, "a token's draw", *(1000 * seconds for seconds in in_turns(theirs, ours, repeats=8)), "ms")

    none, block, full = gradient("none"), gradient("block"), gradient("full")
    seconds = in_turns(none, block, full)
    for name, program, value in (("block", block, seconds[1]), ("full", full, seconds[2])):
        show(f"training.remat={name}", "update, temporaries", none.temporaries / 1e9, program.temporaries / 1e9, "GB")
        show(f"training.remat={name}", "update", seconds[0], value, "s")
    chunk_bytes, head_chunks._chunk_bytes = head_chunks._chunk_bytes, lambda: 2**40
    whole = gradient("block")
    head_chunks._chunk_bytes = chunk_bytes
    show("the head in chunks", "update, temporaries", whole.temporaries / 1e9, block.temporaries / 1e9, "GB")
    show("the head in chunks", "update", *in_turns(whole, block), "s")
    later = compiled(gradient_as_if_trained, trained, frozen["embed"], frozen)
    show("a head that stays is multiplied twice", "update", *in_turns(later, block), "s")


def sorted_draw(keys: jax.Array, logits: jax.Array, top_k: int | None = None, top_p: float = 1.0) -> jax.Array:
    """Returns int32[B], drawn from the vocabulary in order."""
    ordered, tokens = jax.lax.top_k(logits, top_k or logits.shape[-1])
    held = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
    kept = held - jax.nn.softmax(ordered) < top_p
    places = jax.vmap(jax.random.categorical)(keys, jnp.where(kept, ordered, -jnp.inf))
    return jnp.take_along_axis(tokens, places[:, None], axis=1)[:, 0]


if __name__ == "__main__":
    main(*sys.argv[1:])
