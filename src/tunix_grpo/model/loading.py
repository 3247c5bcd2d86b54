"""Reads the weights of a Hugging Face directory, and makes random ones.

Only safetensors files are read: pickled weights can run code. Every tensor is checked against the shapes that
config.json promises before anything is placed on a device, and what is missing, extra, truncated or misshapen is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from tunix_grpo import seeds
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json
from tunix_grpo.model.layout import Array, Leaf, leaves

# The text model's tensors, wherever a multimodal file keeps them.
_TEXT_PREFIX = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
_NOT_TEXT = re.compile(r"(?:^|\.)(?:vision_tower|multi_modal_projector|vision_model)\.|rotary_emb\.inv_freq$")


class _Stored(NamedTuple):
    """A tensor in a file: the file, its name there, its shape, and its type in safetensors' words, such as BF16."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        # The file is closed again, so that the pages of it that were read do not stay in this process's memory.
        with _open(self.file) as opened:
            return opened.get_tensor(self.name)


def stored_weights(spec: DecoderSpec, directory: Path) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    """Yields every leaf with the decoder's arrays that it is made of, read from the directory as they are wanted.

    Raises:
        UserError: the directory's files are not those of such a model.
    """
    stored = _checked(spec, leaves(spec), _index(directory), directory)
    for leaf in leaves(spec):
        yield leaf, leaf.files_to_decoder([stored[name].read() for name in leaf.names])


def stored_types(spec: DecoderSpec, directory: Path) -> dict[str, str]:
    """Returns the type of every tensor of the table in the directory's files, in safetensors' words, such as BF16."""
    stored = _checked(spec, leaves(spec), _index(directory), directory)
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


def _index(directory: Path) -> list[_Stored]:
    """Returns the tensors of the files that the index names, of model.safetensors, or of all there are."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise UserError(f"{index}: it has no weight_map; download it again")
        shards = sorted({directory / str(name) for name in files.values()})
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise UserError(f"{directory}: {', '.join(missing)} named by {index.name} is missing; download it again")
    elif (directory / "model.safetensors").is_file():
        shards = [directory / "model.safetensors"]
    else:
        shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in directory.glob(pattern)]
        if pickled:
            raise UserError(
                f"{directory}: {pickled[0]} is a pickle, which can run code, and is not read; "
                "convert the model to safetensors"
            )
        raise UserError(f"{directory}: no *.safetensors file; model.path wants a Hugging Face model directory")
    return [tensor for shard in shards for tensor in _tensors_of(shard)]


def _tensors_of(file: Path) -> list[_Stored]:
    with _open(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        return [_Stored(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()]


def _open(file: Path):
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); download it again") from error


def _checked(spec: DecoderSpec, table: list[Leaf], found: list[_Stored], directory: Path) -> dict[str, _Stored]:
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
        file, name, stored_shape, _ = stored[plain]
        if stored_shape != shape:
            raise UserError(f"{file}: {name} has shape {list(stored_shape)}, but config.json promises {list(shape)}")
    return stored


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{rest}"
