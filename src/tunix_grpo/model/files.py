"""Which safetensors files of a model directory hold its weights, and the tensors in them.

The order is that of transformers: model.safetensors, else what model.safetensors.index.json names, else all there are.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json

MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
# What the numpy side of safetensors has no type for.
FLOAT8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
FLOATS = ("F64", "F32", "F16", "BF16", *FLOAT8)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# Tensors that stand beside packed weights: of bitsandbytes, GPTQ, AWQ, fp8 with scales, compressed-tensors.
_OF_QUANTIZED = re.compile(
    r"\.(?:qweight|qzeros|scales|g_idx|SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map"
    r"|quant_state\.\w+|weight_scale\w*|input_scale|activation_scale|weight_packed|weight_shape|weight_zero_point"
    r"|weight_g_idx|\w+_blocks|\w+_scales)$"
)
_log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A tensor in a file: the file, its name there, its shape, and its type in safetensors' words, such as BF16."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        """Returns the tensor."""
        if self.dtype in FLOAT8:
            return self._read_float8()
        # The file is closed again, so that the pages of it that were read do not stay in this process's memory.
        with open_file(self.file) as opened:
            return opened.get_tensor(self.name)

    def _read_float8(self) -> np.ndarray:
        """Returns the tensor by the layout of the file: 8 bytes of length, that many of JSON, then the numbers."""
        with self.file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            start, end = json.loads(stream.read(size))[self.name]["data_offsets"]
            stream.seek(8 + size + start)
            return np.frombuffer(stream.read(end - start), FLOAT8[self.dtype]).reshape(self.shape)


def stored_tensors(directory: Path) -> list[Stored]:
    """Returns the tensors of a model directory.

    Raises:
        UserError: no file, a damaged one, the same tensor in two, or weights that are packed in another way.
    """
    if (directory / MODEL).is_file():
        shards, owners = [directory / MODEL], {}
    elif (directory / INDEX).is_file():
        owners = _weight_map(directory / INDEX)
        shards = sorted({directory / name for name in owners.values()})
    else:
        shards, owners = sorted(directory.glob("*.safetensors")), {}
    if not shards:
        raise _no_file(directory)
    tensors = [
        each for shard in shards for each in _tensors_of(shard) if owners.get(each.name, shard.name) == shard.name
    ]
    seen: dict[str, Stored] = {}
    for tensor in tensors:
        other = seen.setdefault(tensor.name, tensor)
        if other is not tensor:
            raise UserError(
                f"{directory}: {tensor.name} is in {other.file.name} and in {tensor.file.name}; remove the stale file"
            )
    _refuse_packed(directory, tensors)
    return tensors


def warn_of_stale_files(directory: Path, tensors: list[Stored]) -> None:
    """Names the files that look like parts of the model but are not read."""
    read = sorted({tensor.file.name for tensor in tensors})
    stale = [file.name for file in sorted(directory.glob("*.safetensors")) if _SHARD.fullmatch(file.name)]
    stale = [name for name in stale if name not in read]
    if read == [MODEL] and (directory / INDEX).is_file():
        stale.append(INDEX)
    if stale:
        _log.warning("%s: %s is read, as transformers does; not read: %s", directory, ", ".join(read), ", ".join(stale))


def open_file(file: Path) -> Any:
    """Opens a safetensors file for its tensors as NumPy arrays; raises UserError where it is damaged."""
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); download it again") from error


def _weight_map(index: Path) -> dict[str, str]:
    """Returns tensor -> name of the file that holds it."""
    owners = read_json(index).get("weight_map")
    entries = owners if isinstance(owners, dict) else {}
    names = {tensor: name for tensor, name in entries.items() if isinstance(name, str)}
    if not names or len(names) < len(entries):
        raise UserError(f"{index}: it has no weight_map; download it again")
    outside = sorted(name for name in names.values() if name in ("", "..") or Path(name).name != name)
    if outside:
        raise UserError(f"{index}: {json.dumps(outside[0])} is no name of a file beside it; download the model again")
    missing = sorted(name for name in set(names.values()) if not (index.parent / name).is_file())
    if missing:
        raise UserError(f"{index.parent}: {', '.join(missing)} named by {index.name} is missing; download it again")
    return names


def _no_file(directory: Path) -> UserError:
    pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in directory.glob(pattern)]
    if pickled:
        return UserError(
            f"{directory}: {pickled[0]} is a pickle, which can run code, and is not read; "
            "convert the model to safetensors"
        )
    if packed := sorted(file.name for file in directory.glob("*.gguf")):
        return UserError(f"{directory}: {packed[0]} is not read; take the model's upload in safetensors")
    return UserError(f"{directory}: no *.safetensors file; model.path wants a Hugging Face model directory")


def _tensors_of(file: Path) -> list[Stored]:
    with open_file(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        return [Stored(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()]


def _refuse_packed(directory: Path, tensors: list[Stored]) -> None:
    """Raises UserError for weights that are packed in few bits, with scales beside them."""
    packed = next((tensor for tensor in tensors if _OF_QUANTIZED.search(tensor.name)), None)
    packed = packed or next((tensor for tensor in tensors if tensor.dtype not in FLOATS and _is_weight(tensor)), None)
    if packed is None:
        return
    config = directory / "config.json"
    settings = read_json(config).get("quantization_config") if config.is_file() else None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    raise UserError(
        f"{directory}: the weights are quantized{f' by {method}' if method else ''} ({packed.name} is stored as "
        f"{packed.dtype}), which is not read; take the model's upload in full precision: model.quantization=nf4 or "
        "int8 makes its base small here"
    )


def _is_weight(tensor: Stored) -> bool:
    return tensor.name.endswith(".weight") and "vision" not in tensor.name
