"""Small base weights for QLoRA (arXiv:2305.14314): the frozen projections in 4 or 8 bits, through qwix.

Each projection is cut into blocks along its input; a block shares one scale. The adapters stay float32 and see the
quantized base in every pass, rollout and reference included, so that what is trained is what is sampled. Embeddings,
norms and the head keep their dtype.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax

from tunix_grpo.model.layout import Leaf

if TYPE_CHECKING:
    import qwix

_BLOCK = 64  # inputs that share a scale, as in the paper


def quantize_projection(leaf: Leaf, matrix: jax.Array, qtype: str) -> qwix.QArray:
    """Returns a projection's matrix [in, out] quantized; a block does not reach from one head into the next.

    Args:
        qtype: `nf4` or `int8`.
    """
    return quantize(matrix, math.gcd(leaf.inputs[-1], _BLOCK), qtype)


def quantize(matrix: jax.Array, block: int, qtype: str) -> qwix.QArray:
    """Returns a quantized matrix [in, out] with one scale per `block` inputs and per output."""
    import qwix  # see `decoder/quantized.py`

    return qwix.quantize(matrix, "nf4" if qtype == "nf4" else "int8", channelwise_axes=[1], tiled_axes={0: block})
