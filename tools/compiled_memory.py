"""Compiles the programs of a step for an H100 that is not here, and prints the memory that each of them needs.

    python tools/compiled_memory.py [--size 4b] [--rank 32] [--programs update,rollout,reference]

Wants `pip install -e . "jax[cuda12]"`, and no GPU: nothing runs, all figures are the compiler's. The work is 4 prompts
x 4 completions of 256 + 512 tokens of a Gemma 3 in bfloat16; with --rank 0 all weights are trained. The h100.txtpb
beside this file is XLA's description of the device. There is no autotuning, and cuDNN's workspace is not counted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from tunix_grpo.decoder.attention import FUSED
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import Sampling, generate
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import Divisors, Objective, token
from tunix_grpo.grpo.loss import LossInputs, completion_logprobs, grpo_loss
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.decoder_form import whole_weights
from tunix_grpo.model.layout import leaves
from tunix_grpo.model.model import Model

HERE = Path(__file__).resolve().parent
SHAPES = HERE.parent / "src" / "tunix_grpo" / "assets" / "shapes"
PROMPTS, GROUP, PROMPT_TOKENS, COMPLETION_TOKENS = 4, 4, 256, 512
ROWS = PROMPTS * GROUP
STOPS, PAD = (1, 106), 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4b", help="of Gemma 3: 270m, 1b, 4b, 12b or 27b")
    parser.add_argument("--rank", type=int, default=32, help="of the adapters; 0 trains all weights")
    parser.add_argument("--programs", default="update,rollout,reference")
    asked = parser.parse_args()
    pretend_to_have_a_gpu()
    model = abstract_model(SHAPES / f"google--gemma-3-{asked.size}-it", asked.rank)
    print(f"{'program':<12}{'arguments':>12}{'temporaries':>13}{'peak':>11}   (MB; compiled in)")
    for name in asked.programs.split(","):
        program, inputs = PROGRAMS[name](model)
        start = time.perf_counter()
        compiled = jax.jit(program).trace(*placed(inputs)).lower(lowering_platforms=("cuda",)).compile()
        memory = compiled.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.peak_memory_in_bytes)
        arguments, temporaries, peak = (f"{size / 1e6:,.1f}" for size in sizes)
        print(
            f"{name:<12}{arguments:>12}{temporaries:>13}{peak:>11}   ({time.perf_counter() - start:.0f} s)", flush=True
        )


def pretend_to_have_a_gpu() -> None:
    """Answers what the package and JAX ask of a GPU as an H100 with cuDNN would."""
    jax.default_backend = lambda: "gpu"
    cudnn.check_cudnn_version = lambda: 91000
    cudnn.check_compute_capability = lambda capability: True
    cudnn.is_cuda_compute_capability_equal = lambda capability: False


def placed(tree: Any) -> Any:
    """Returns shapes that lie on the GPU."""
    described = topologies.get_topology_desc(
        platform="cuda", target_config=(HERE / "h100.txtpb").read_text(), topology="1x1x1"
    )
    where = SingleDeviceSharding(described.devices[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def abstract_model(directory: Path, rank: int) -> Model:
    """Returns a model with shapes in place of arrays."""
    spec = read_spec(directory)
    dtype = jnp.dtype(jnp.bfloat16)
    every = {leaf.path: shape_of(leaf.shape, jnp.float32) for leaf in leaves(spec)}
    whole = traverse_util.unflatten_dict(every)
    reference = jax.eval_shape(lambda trained: whole_weights(spec, trained, dtype), whole)
    adapters = {}
    for leaf in leaves(spec):
        if leaf.is_projection:
            (inputs, outputs), (path_a, path_b) = leaf.adapter_shapes, leaf.adapter_paths
            adapters |= {path_a: shape_of((*inputs, rank)), path_b: shape_of((rank, *outputs))}
    trained = traverse_util.unflatten_dict(adapters) if rank else whole
    return Model(spec, directory, trained, reference, 1.0 if rank else 0.0, dtype)


def shape_of(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def completions() -> Completions:
    prompts, rows = (PROMPTS, PROMPT_TOKENS), (ROWS, COMPLETION_TOKENS)
    return Completions(
        shape_of(prompts, jnp.int32), shape_of(prompts, bool), shape_of(rows, jnp.int32), shape_of((ROWS,), jnp.int32)
    )


def update(model: Model) -> tuple[Callable, tuple]:
    """The gradient of a step that is one micro batch, as `Trainer` computes it."""
    tokens = PROMPTS * (PROMPT_TOKENS + GROUP * COMPLETION_TOKENS)
    remat = choose_remat("auto", model.spec, tokens, model.dtype)

    def program(trained: Any, frozen: Any, batch: Completions, gains: jax.Array, reference: jax.Array) -> Any:
        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            weights = model.decoder_weights(trained, frozen)
            logps, entropies = completion_logprobs(model.spec, weights, batch, 1.0, attention_form=FUSED, remat=remat)
            divisors = Divisors(batch.lengths.clip(1), jnp.float32(ROWS))
            inputs = LossInputs(batch, gains, jnp.ones(ROWS), divisors, reference)
            objective = Objective(ratio=token, epsilon_low=0.2, epsilon_high=0.2, beta=0.08)
            sums = grpo_loss(logps, entropies, inputs, objective)
            return sums.loss, (sums, logps)

        return jax.grad(loss_of, has_aux=True)(trained)

    return program, (
        model.trained,
        model.frozen,
        completions(),
        shape_of((ROWS,)),
        shape_of((ROWS, COMPLETION_TOKENS)),
    )


def rollout(model: Model) -> tuple[Callable, tuple]:
    """All completions of a step."""
    sampling = Sampling(num_generations=GROUP, max_tokens=COMPLETION_TOKENS, temperature=1.0)

    def program(trained: Any, frozen: Any, tokens: jax.Array, valid: jax.Array, keys: jax.Array) -> Any:
        weights = model.decoder_weights(trained, frozen)
        return generate(
            model.spec, weights, tokens, valid, keys, sampling, stop_ids=STOPS, pad_id=PAD, attention_form=FUSED
        )

    batch = completions()
    keys = shape_of((ROWS,), jax.random.key(0).dtype)
    return program, (model.trained, model.frozen, batch.prompt_tokens, batch.prompt_valid, keys)


def reference(model: Model) -> tuple[Callable, tuple]:
    """The log-probabilities of the weights that stay."""

    def program(weights: Any, batch: Completions) -> jax.Array:
        return completion_logprobs(model.spec, weights, batch, 1.0, attention_form=FUSED)[0]

    return program, (model.reference, completions())


PROGRAMS = {"update": update, "rollout": rollout, "reference": reference}


if __name__ == "__main__":
    main()
