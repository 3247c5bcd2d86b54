"""Compares what was written with the model that was trained: by their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.errors import UserError
from tunix_grpo.model.model import Model

# Largest difference of a logit, as a part of the largest logit: what rounding a model's weights to this type makes of a
# deep model. A tensor that is missing, transposed or unscaled makes more.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 0.02, "bfloat16": 0.1}


class Check(NamedTuple):
    """What reading the files back has shown.

    Attributes:
        difference: largest, of a logit, from the trained model's.
        largest: largest absolute logit of the trained model.
        allowed: for `difference`.
    """

    difference: float
    largest: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"Read back, its logits differ from the trained model's by at most {self.difference:.2g} "
            f"(the largest logit is {self.largest:.3g})."
        )


def logits(model: Model, params: Weights, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns float32[tokens of all prompts, V]."""
    width = max(map(len, prompts))
    tokens = np.array([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], np.int32)
    valid = np.arange(width) < np.array([[len(prompt)] for prompt in prompts])
    with jax.default_matmul_precision("highest"):
        positions = text_positions(jnp.asarray(valid))
        hidden, _ = forward(model.spec, params, jnp.asarray(tokens), positions, jnp.asarray(valid))
        return np.asarray(head_logits(params, hidden))[valid]


def compare(trained: np.ndarray, written: np.ndarray, dtypes: set[str]) -> Check:
    """Compares two models' logits.

    Args:
        dtypes: that either was rounded to.

    Raises:
        UserError: they differ by more than rounding explains.
    """
    dtype = max(dtypes, key=lambda name: TOLERANCE[name])
    largest = float(np.max(np.abs(trained)))
    difference = float(np.max(np.abs(written - trained)))
    check = Check(difference, largest, TOLERANCE[dtype] * max(1.0, largest))
    if not check.difference <= check.allowed:  # a NaN is not
        raise UserError(
            f"the written files do not give the trained model: their logits differ by {difference:.3g}, rounding to "
            f"{dtype} explains at most {check.allowed:.3g}; nothing was kept"
        )
    return check
