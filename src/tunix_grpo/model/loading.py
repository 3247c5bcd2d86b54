"""Reads the weights of a Hugging Face directory, and makes random ones.

Only safetensors files are read: pickled weights can run code. Every tensor is checked against the shapes that
config.json promises before anything is placed on a device, and what is missing, extra, truncated or misshapen is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tunix_grpo import seeds
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.model.files import FLOATS, Stored, stored_tensors, warn_of_stale_files
from tunix_grpo.model.layout import Array, Leaf, leaves

# The text model's tensors, wherever a multimodal file keeps them.
_TEXT_PREFIX = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
_NOT_TEXT = re.compile(r"(?:^|\.)(?:vision_tower|multi_modal_projector|vision_model)\.|rotary_emb\.inv_freq$")


def stored_weights(spec: DecoderSpec, directory: Path) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    """Yields every leaf with the decoder's arrays that it is made of, read from the directory as they are wanted.

    Raises:
        UserError: the directory's files are not those of such a model.
    """
    tensors = stored_tensors(directory)
    warn_of_stale_files(directory, tensors)
    stored = _checked(spec, leaves(spec), tensors, directory)
    for leaf in leaves(spec):
        yield leaf, leaf.files_to_decoder([stored[name].read() for name in leaf.names])


def stored_types(spec: DecoderSpec, directory: Path) -> dict[str, str]:
    """Returns the type of every tensor of the table in the directory's files, in safetensors' words, such as BF16."""
    stored = _checked(spec, leaves(spec), stored_tensors(directory), directory)
    return {plain: tensor.dtype for plain, tensor in stored.items()}


def random_weights(spec: DecoderSpec, seed: int) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    """Yields random weights in float32: normal with deviation 0.02, norms as the identity, biases zero."""
    for index, leaf in enumerate(leaves(spec)):
        if len(leaf.shape) > 1:
            draw = seeds.generator("random weights", seed, index).standard_normal
            array = draw(leaf.shape, np.float32) * np.float32(0.02)
        else:
            is_scale = leaf.roles[0].endswith("norm") and not spec.norm_plus_one
            array = np.full(leaf.shape, 1.0 if is_scale else 0.0, np.float32)
        yield leaf, leaf.decoder_arrays(array)


def _checked(spec: DecoderSpec, table: list[Leaf], found: list[Stored], directory: Path) -> dict[str, Stored]:
    """Returns, per name in the table, the tensor that is stored for it.

    Raises:
        UserError: naming tensors that are missing, extra or of another shape than config.json promises.
    """
    stored = {}
    for tensor in found:
        plain = _TEXT_PREFIX.sub("model.", tensor.name).removeprefix("language_model.")
        if not _NOT_TEXT.search(tensor.name) and not (plain == "lm_head.weight" and spec.tied_head):
            stored[plain] = tensor
    wanted = {name: leaf.file_shape for leaf in table for name in leaf.names}
    if missing := sorted(set(wanted) - set(stored)):
        raise UserError(f"{directory}: {_some(missing)} missing from the weights")
    if extra := sorted(set(stored) - set(wanted)):
        raise UserError(f"{directory}: {_some(extra)} not part of a {spec.family} model")
    for plain, shape in wanted.items():
        file, name, stored_shape, dtype = stored[plain]
        if dtype not in FLOATS:
            raise UserError(f"{file}: {name} is stored as {dtype}, which is not read; read are {', '.join(FLOATS)}")
        if stored_shape != shape:
            raise UserError(f"{file}: {name} has shape {list(stored_shape)}, but config.json promises {list(shape)}")
    return stored


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{rest}"
