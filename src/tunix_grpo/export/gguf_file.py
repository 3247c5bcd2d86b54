"""Writes a trained model as one GGUF file, and reads it back.

Matrices are rounded once, after the adapters are merged; vectors stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np

from tunix_grpo.errors import UserError
from tunix_grpo.export import gguf_model, gguf_tokens
from tunix_grpo.export.gguf_model import TensorForm
from tunix_grpo.model.config_json import read_config
from tunix_grpo.model.layout import Array, Leaf, flattened, leaves
from tunix_grpo.model.model import Model
from tunix_grpo.model.saving import Rounding, leaf_tensors
from tunix_grpo.text.tokenizer import Tokenizer

_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_log = logging.getLogger(__name__)


def write_gguf(file: Path, model: Model, tokenizer: Tokenizer, *, name: str, dtype: str) -> float:
    """Writes a file that llama.cpp loads: weights with adapters merged, tokenizer, chat template, stop tokens.

    Args:
        name: of the model, which programs show.
        dtype: of matrices: float32, float16 or bfloat16.

    Returns:
        What rounding lost of the adapters, see `Rounding.lost`.

    Raises:
        UserError: llama.cpp has no such model or tokenizer, or a number is beyond the type.
    """
    spec = model.spec
    forms = gguf_model.tensor_forms(spec)
    factors = gguf_model.rope_factors(spec)
    own = gguf_model.architecture(spec)
    kind, file_type = _TYPES[dtype]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[own.kind])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(file_type)
    gguf_model.add_numbers(writer, spec, gguf_model.context_length(read_config(model.directory), own.context))
    _add_tokenizer(writer, tokenizer, spec.vocab_size)
    for form in forms.values():
        if form.is_vector:
            writer.add_tensor_info(form.name, form.shape, np.dtype(np.float32), 4 * form.shape[0])
        else:
            size = int(np.prod(form.shape)) * jnp.dtype(dtype).itemsize
            writer.add_tensor_info(form.name, form.shape, jnp.dtype(dtype), size, raw_dtype=kind)
    if factors is not None:
        writer.add_tensor_info(gguf_model.ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rounding = Rounding()
    for tensor in _tensors(model, forms, jnp.dtype(dtype), rounding):
        writer.write_tensor_data(tensor)
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()
    return rounding.lost


def _tensors(model: Model, forms: dict[str, TensorForm], dtype: np.dtype, rounding: Rounding) -> Iterator[np.ndarray]:
    """Yields the tensors in the order of the layout table, as they are in the file."""
    trained = flattened(model.trained)
    for leaf in leaves(model.spec):
        for name, tensor, delta in leaf_tensors(leaf, model.array(leaf), trained, model.lora_scale):
            form = forms[name]
            written = rounding.merged(tensor, delta, np.dtype(np.float32) if form.is_vector else dtype)
            if not np.isfinite(written.astype(np.float32)).all():
                raise UserError(f"format=gguf: {name} has numbers beyond {dtype.name}; give dtype=bfloat16")
            yield np.ascontiguousarray(form.to_file(written))


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    words = gguf_tokens.vocabulary(tokenizer.parts(), rows)
    writer.add_tokenizer_model(words.model)
    if words.pre is not None:
        writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
    writer.add_token_types(words.types)
    if words.merges is not None:
        writer.add_token_merges(words.merges)
    if words.space_prefix is not None:
        writer.add_add_space_prefix(words.space_prefix)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
    if (start := tokenizer.bos_id()) is not None and start < rows:
        writer.add_bos_token_id(start)
    if (pad := tokenizer.pad_id()) < rows:
        writer.add_pad_token_id(pad)
    for unknown in (i for i, kind in enumerate(words.types) if kind == gguf.TokenType.UNKNOWN):
        writer.add_unk_token_id(unknown)
    # llama.cpp has these names for tokens that end an answer.
    places = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for place, token in zip(places, tokenizer.stop_ids, strict=False):
        place(token)
    if rest := tokenizer.stop_ids[len(places) :]:
        names = ", ".join(map(tokenizer.token, rest))
        _log.warning("a GGUF file names three stop tokens; %s: only the Modelfile has it", names)
    if (template := tokenizer.chat_template()) is not None:
        writer.add_chat_template(template)


def read_gguf(file: Path, model: Model) -> Iterator[tuple[Leaf, Sequence[Array]]]:
    """Yields every leaf with the decoder's arrays that it is made of, read from a file that `write_gguf` wrote."""
    forms = gguf_model.tensor_forms(model.spec)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for leaf in leaves(model.spec):
        arrays = []
        for form in (forms[name] for name in leaf.names):
            stored = found[form.name]
            numbers = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(form.shape)
            arrays.append(form.of_file(numbers))
        yield leaf, leaf.files_to_decoder(arrays)
