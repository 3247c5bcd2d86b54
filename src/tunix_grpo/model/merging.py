"""The weights of a trained model as another one starts from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tunix_grpo.model.layout import Array, Leaf, flattened, leaves
from tunix_grpo.model.model import Model


def merged_leaves(model: Model) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    """Yields every leaf with the decoder's arrays that it is made of, in float32, what was trained included.

    Adapters are added to what the model computed with: W + alpha / rank x A B. Of a quantized base that is what its
    numbers stand for.
    """
    trained = flattened(model.trained)
    for leaf in leaves(model.spec):
        arrays = [np.asarray(array, np.float32) for array in leaf.decoder_arrays(np.asarray(model.array(leaf)))]
        a, b = leaf.adapter_paths
        if a in trained:
            pairs = leaf.adapters(*(np.asarray(trained[path], np.float32) for path in (a, b)))
            arrays = [
                array + np.float32(model.lora_scale) * (left @ right)
                for array, (left, right) in zip(arrays, pairs, strict=True)
            ]
        yield leaf, arrays
