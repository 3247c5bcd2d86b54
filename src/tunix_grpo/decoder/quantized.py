"""Weights in few bits, as the decoder meets them.

Only a model with such weights loads qwix, which brings all of flax.nnx: a quarter of a second of every start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import jax

if TYPE_CHECKING:
    import qwix
    from typing_extensions import TypeIs

Plain = TypeVar("Plain")


def is_quantized(weight: object) -> TypeIs[qwix.QArray]:
    """Says whether a weight is held in few bits, in qwix's form: it alone has quantized values and their scales."""
    return hasattr(weight, "qvalue")


def whole_weight(weight: Plain | qwix.QArray) -> Plain | jax.Array:
    """Returns a weight as it is; of a quantized one the numbers that it stands for."""
    if not is_quantized(weight):
        return weight
    import qwix

    return qwix.dequantize(weight)
