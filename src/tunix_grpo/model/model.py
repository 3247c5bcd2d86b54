"""A loaded model: Tunix modules that hold and adapt the weights of a Hugging Face directory.

`load_model` reads the shapes from config.json, loads the weights onto the mesh and adds LoRA; what comes out knows how
to hand its parameters to the decoder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tunix_grpo.config import ModelConfig
from tunix_grpo.decoder.attention import FUSED, PLAIN, usable_form
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.layout import decoder_weights
from tunix_grpo.model.loading import load_module, random_module
from tunix_grpo.model.lora import add_lora
from tunix_grpo.model.quantization import quantize_projections


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        spec: shapes and choices of the arithmetic.
        directory: where config.json and the tokenizer came from.
        actor: the module that is trained (with LoRA: adapters beside the base's arrays).
        reference: the module that stays: the same arrays with LoRA, a copy in `dtype` without.
        trainable: nnx filter of the trained leaves.
        lora_scale: alpha / rank, 0 without LoRA.
        dtype: of the computation.
    """

    spec: DecoderSpec
    directory: Path
    actor: nnx.Module
    reference: nnx.Module
    trainable: Any
    lora_scale: float
    dtype: jnp.dtype

    @property
    def attention_form(self) -> str:
        """How `attention.attend` computes the passes over whole rows on this device."""
        shapes = (self.spec.num_heads, self.spec.num_kv_heads, self.spec.head_dim)
        forms = {usable_form(*shapes, window, self.dtype) for window in set(self.spec.windows)}
        return FUSED if forms == {FUSED} else PLAIN

    def decoder_weights(self, params: nnx.State) -> dict[str, Any]:
        """Returns the decoder's dictionary of weights for a state of the actor or the reference; differentiable."""
        return decoder_weights(self.spec, nnx.to_pure_dict(params), self.lora_scale, self.dtype)


def load_model(config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int) -> Model:
    """Loads the weights of a resolved model directory and makes them trainable.

    Trained parameters are float32 whatever the dtype of the computation: at RL learning rates a bfloat16 parameter
    does not move.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    spec = read_spec(directory, config.family)
    dtype = _dtype(config.dtype)
    full = config.lora_rank is None
    base = _load_base(config, spec, directory, mesh, seed, jnp.dtype(jnp.float32) if full else dtype)
    if full:
        reference = nnx.clone(base)
        nnx.update(reference, jax.tree.map(lambda leaf: jnp.array(leaf, dtype, copy=True), nnx.state(base)))
        return Model(spec, directory, base, reference, nnx.Param, 0.0, dtype)
    actor = add_lora(
        base,
        spec,
        rank=config.lora_rank,
        targets=config.lora_target_modules,
        seed=seed,
        mesh=mesh,
    )
    return Model(spec, directory, actor, base, nnx.LoRAParam, config.lora_alpha / config.lora_rank, dtype)


def load_frozen(config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int) -> Model:
    """Loads the weights as they are, in the dtype of the computation, with nothing to train: to answer questions.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    spec = read_spec(directory, config.family)
    dtype = _dtype(config.dtype)
    base = _load_base(config, spec, directory, mesh, seed, dtype)
    return Model(spec, directory, base, base, nnx.Param, 0.0, dtype)


def _load_base(
    config: ModelConfig, spec: DecoderSpec, directory: Path, mesh: jax.sharding.Mesh, seed: int, stored: jnp.dtype
) -> nnx.Module:
    """Returns Tunix's module with the weights in `stored`, or with random ones, quantized if that is asked for."""
    if config.random_weights:
        base = random_module(spec, seed, mesh, stored)
    else:
        base = load_module(spec, directory, mesh, stored)
    if config.quantization is not None:
        quantize_projections(base, spec, config.quantization)
    return base


def _dtype(name: str) -> jnp.dtype:
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(name)
