"""A loaded model: the weights of a Hugging Face directory, those that stay and those that are trained.

What stays is held as the decoder computes with it: layers of one kind in one array, so that no program has to put them
together. What is trained is held leaf by leaf as Tunix's modules name them, which is how checkpoints name them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.config import ModelConfig
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.attention import FUSED, PLAIN, usable_form
from tunix_grpo.decoder.joined import beside_layers
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.platform import platform
from tunix_grpo.decoder.quantized import is_quantized, whole_weight
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.decoder_form import adapter_pairs, array_at, whole_weights, with_adapters
from tunix_grpo.model.layout import Array, Leaf, LeafTree, flattened, nested
from tunix_grpo.model.loading import random_weights, stored_weights
from tunix_grpo.model.lora import new_adapters
from tunix_grpo.model.placing import place_leaves, place_stacks, trained_specs, without_fsdp
from tunix_grpo.model.quantization import quantize_projection

Source: TypeAlias = Callable[[], Iterator[tuple[Leaf, Sequence[Array]]]]  # each leaf with the decoder's arrays


@dataclasses.dataclass(frozen=True)
class ModelForm:
    """What decides which program a model's arrays are given to. Hashable, to be a static argument of compiled programs.

    Attributes:
        spec: shapes and choices of the arithmetic.
        all_trained: all leaves are trained, not adapters or none.
        lora_scale: alpha / rank, 0 without LoRA.
        dtype: of the computation.
        attention_form: how `attention.attend` computes the passes over whole rows on this device.
        copies: tokens are drawn with joined copies of the weights, see `decoder/joined.py`.
    """

    spec: DecoderSpec
    all_trained: bool
    lora_scale: float
    dtype: jnp.dtype
    attention_form: str
    copies: bool = True

    def decoder_weights(self, trained: LeafTree, frozen: Weights) -> Weights:
        """Returns the decoder's weights; differentiable in `trained`.

        Args:
            trained: as `Model.trained` holds it.
            frozen: as `Model.frozen` gives it.
        """
        if self.all_trained:
            return whole_weights(self.spec, trained, self.dtype)
        pairs = adapter_pairs(self.spec, trained, self.lora_scale, self.dtype)
        return with_adapters(self.spec, frozen, pairs)

    def made_for_tokens(self, weights: Weights) -> Weights:
        """Returns of the weights of a token what a program hands out: of what stays that would be a copy.

        Args:
            weights: as `decoder.joined.for_tokens` gives them.
        """
        return weights if self.all_trained else {"layers": weights["layers"]}

    def token_weights(self, made: Weights, frozen: Weights) -> Weights:
        """Returns the weights of a token.

        Args:
            made: as `made_for_tokens` gives it.
            frozen: as `Model.frozen` gives it.
        """
        return {**beside_layers(frozen, self.copies), **made}

    def laid_out(self, trained: LeafTree) -> LeafTree:
        """Returns the trained leaves for a gradient, which on several devices then lies as the parameters do.

        Adapters, which are small, are sent to all that need them at once.
        """
        if jax.sharding.get_abstract_mesh().size <= 1:
            return trained
        axes = trained_specs(self.spec)
        leaves = {path: layouts.laid(leaf, *axes[path]) for path, leaf in flattened(trained).items()}
        if not self.all_trained:
            leaves = {path: layouts.laid(leaf, *without_fsdp(axes[path])) for path, leaf in leaves.items()}
        return nested(leaves)


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        spec: shapes and choices of the arithmetic.
        directory: where config.json and the tokenizer came from.
        trained: the leaves that are trained, a nested dictionary: adapters, or all leaves in float32; {} if none are.
        reference: the weights that stay: what adapters are added to, or those before the training of all.
        lora_scale: alpha / rank, 0 without LoRA.
        dtype: of the computation.
    """

    spec: DecoderSpec
    directory: Path
    trained: LeafTree
    reference: Weights
    lora_scale: float
    dtype: jnp.dtype

    @property
    def attention_form(self) -> str:
        """How `attention.attend` computes the passes over whole rows on this device."""
        shapes = (self.spec.num_heads, self.spec.num_kv_heads, self.spec.head_dim)
        forms = {usable_form(*shapes, window, self.dtype) for window in set(self.spec.windows)}
        return FUSED if forms == {FUSED} else PLAIN

    @property
    def form(self) -> ModelForm:
        """The model without its arrays."""
        return ModelForm(self.spec, self._all_trained, self.lora_scale, self.dtype, self.attention_form)

    @property
    def frozen(self) -> Weights:
        """What a program needs beside the trained leaves: nothing where all are trained."""
        return {} if self._all_trained else self.reference

    @property
    def is_quantized(self) -> bool:
        """Says whether weights that stay are held in few bits."""
        return any(map(is_quantized, jax.tree.leaves(self.reference, is_leaf=is_quantized)))

    @property
    def _all_trained(self) -> bool:
        return bool(self.trained) and self.lora_scale == 0

    def decoder_weights(self, trained: LeafTree | None = None, frozen: Weights | None = None) -> Weights:
        """Returns the decoder's weights; differentiable in `trained`.

        Args:
            trained: in place of `self.trained`.
            frozen: in place of `self.frozen`; a compiled program gives both, so that they are inputs, not constants.
        """
        trained = self.trained if trained is None else trained
        return self.form.decoder_weights(trained, self.frozen if frozen is None else frozen)

    def array(self, leaf: Leaf) -> Array:
        """Returns a leaf as Tunix's module holds it; of a quantized one the numbers that it stands for."""
        if self._all_trained:
            return flattened(self.trained)[leaf.path]
        arrays = [array_at(self.spec, self.reference, leaf.layer, role) for role in leaf.roles]
        return leaf.of_decoder([whole_weight(array) for array in arrays])


def load_model(
    config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int, source: Source | None = None
) -> Model:
    """Loads the weights of a resolved model directory and makes them trainable.

    Trained parameters are float32 whatever the dtype of the computation: at RL learning rates a bfloat16 parameter
    does not move.

    Args:
        source: gives the weights in place of the directory's files, each time that it is called.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    model = load_frozen(config, directory, mesh, seed, source)
    if config.lora_rank is None:
        weights = source() if source is not None else _source(config, model.spec, directory, seed)
        trained = place_leaves(model.spec, weights, mesh, jnp.dtype(jnp.float32))
        return dataclasses.replace(model, trained=trained)
    trained = new_adapters(model.spec, rank=config.lora_rank, targets=config.lora_target_modules, seed=seed, mesh=mesh)
    return dataclasses.replace(model, trained=trained, lora_scale=config.lora_alpha / config.lora_rank)


def load_frozen(
    config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int, source: Source | None = None
) -> Model:
    """Loads the weights as they are, in the dtype of the computation, with nothing to train: to answer questions.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    spec = read_spec(directory, config.family)
    dtype = computing_dtype(config.dtype)
    weights = source() if source is not None else _source(config, spec, directory, seed)
    quantize = (
        None if config.quantization is None else functools.partial(quantize_projection, qtype=config.quantization)
    )
    return Model(spec, directory, {}, place_stacks(spec, weights, mesh, dtype, quantize), 0.0, dtype)


def _source(
    config: ModelConfig, spec: DecoderSpec, directory: Path, seed: int
) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    return random_weights(spec, seed) if config.random_weights else stored_weights(spec, directory)


def computing_dtype(name: str) -> jnp.dtype:
    """Returns the dtype of the computation; auto is float32 on a CPU and bfloat16 elsewhere."""
    if name == "auto":
        return jnp.dtype(jnp.float32 if platform() == "cpu" else jnp.bfloat16)
    return jnp.dtype(name)
