"""Small base weights for QLoRA (arXiv:2305.14314): the frozen projections in 4 or 8 bits, through qwix.

Each projection is cut into blocks along its input; a block shares one scale. The adapters stay float32 and see the
quantized base in every pass, rollout and reference included, so that what is trained is what is sampled. Embeddings,
norms and the head keep their dtype.
"""

from __future__ import annotations

import math
from typing import Any

import qwix
from flax import nnx

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.layout import leaves

_BLOCK = 64  # inputs that share a scale, as in the paper


def quantize_projections(module: nnx.Module, spec: DecoderSpec, qtype: str) -> None:
    """Replaces the attention and MLP weights of a module by quantized ones, leaf by leaf, in place.

    Args:
        module: one of Tunix's.
        qtype: `nf4` or `int8`.
    """
    variables = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    for leaf in leaves(spec):
        if leaf.is_projection:
            variable = variables[leaf.path]
            quantized = quantize_leaf(variable.get_value(), leaf.input_axis, qtype)
            nnx.update(module, nnx.from_flat_state([(leaf.path, variable.replace(quantized))]))


def quantize_leaf(leaf: Any, axis: int, qtype: str) -> qwix.QArray:
    """Returns a quantized array with one scale per block of at most 64 entries along `axis` and per other index."""
    block = math.gcd(leaf.shape[axis], _BLOCK)
    others = [other for other in range(leaf.ndim) if other != axis]
    return qwix.quantize(leaf, "nf4" if qtype == "nf4" else "int8", channelwise_axes=others, tiled_axes={axis: block})
