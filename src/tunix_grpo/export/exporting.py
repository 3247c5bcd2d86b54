"""Writes a run's trained model into a folder that transformers, PEFT or llama.cpp loads, and checks what was written.

It is written beside its place under another name, read back, compared with the trained model, and then renamed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import console
from tunix_grpo.config import MeshConfig
from tunix_grpo.config.export import ExportConfig
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.errors import UserError
from tunix_grpo.export.checking import Check, compare, logits
from tunix_grpo.export.destination import require_replaceable
from tunix_grpo.export.model_card import MARK, model_card
from tunix_grpo.export.modelfile import modelfile, read_turns
from tunix_grpo.export.upload import push, require_repository
from tunix_grpo.files import Json, read_json, whole_folder
from tunix_grpo.model import saving
from tunix_grpo.model.config_json import read_config, read_spec
from tunix_grpo.model.decoder_form import with_adapters
from tunix_grpo.model.layout import projection_names
from tunix_grpo.model.loading import stored_weights
from tunix_grpo.model.model import Model
from tunix_grpo.model.placing import place_stacks
from tunix_grpo.model.saving import own_dtypes, read_adapter, text_config, uniform_dtypes, write_weights
from tunix_grpo.run.devices import open_devices
from tunix_grpo.run.saved_runs import SavedRun, choose_step, load_trained, open_run
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer, load_tokenizer

QUESTIONS = (
    "What is 17 + 25?",
    "A train leaves at nine and arrives at noon. How long does it travel?",
    "Name three fruits.",
)
SHARD_BYTES = 5 * 10**9  # a larger model is cut into files
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_OWN_FILES = re.compile(
    r"README\.md|config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|adapter_config\.json|adapter_model\.safetensors|model\.gguf|Modelfile|"
    + "|".join(map(re.escape, TOKENIZER_FILES))
)
GGUF_FILE = "model.gguf"
_KINDS = {"adapter": "adapter", "gguf": "gguf"}  # of a model card; other formats are whole models
_log = logging.getLogger(__name__)


class Written(NamedTuple):
    """Files of a model.

    Attributes:
        dtypes: that weights were rounded to.
        read_back: reads them as the decoder's weights.
    """

    dtypes: set[str]
    read_back: Callable[[], Weights]


def export(config: ExportConfig) -> Check:
    """Writes the folder `config.to`, checks it, and uploads it if that is asked for.

    Raises:
        UserError: something that the user can mend; then `config.to` is as it was.
    """
    to = Path(os.path.realpath(config.to))
    require_replaceable(to, overwrite=config.overwrite, own_files=_OWN_FILES, mark=MARK)
    if config.push is not None:
        require_repository(config.push)
    run = open_run(Path(config.run), config.checkpoint_dir, dataclasses.asdict(config.model))
    _require_fitting(run, config.format)
    step = choose_step(run, config.step)

    with whole_folder(to, "to") as folder:
        devices = open_devices(config.device, MeshConfig(fsdp=None, tp=1), config.jax_cache)
        model = load_trained(run, step, devices.mesh)
        source = _tokenizer_directory(run, model)
        tokenizer = _tokenizer(run, model, source)
        prompts = _prompts(run, tokenizer)
        trained = logits(model, model.decoder_weights(), prompts)

        if config.format == "gguf":
            written = write_gguf(run, model, tokenizer, devices.mesh, folder, dtype=config.dtype, name=to.name)
        else:
            _copy_tokenizer(source, folder)
            if config.format == "adapter":
                written = write_adapter(run, model, folder)
            else:
                _write_json(folder / "generation_config.json", generation_config(model.directory, tokenizer))
                written = write_model(run, model, file_dtypes(run, model, config.dtype), devices.mesh, folder)
            if _prompts(run, _tokenizer(run, model, folder)) != prompts:
                raise UserError(
                    f"{source}: its tokenizer has files of an unknown kind, without which its tokens differ"
                )
        check = compare(trained, logits(model, written.read_back(), prompts), written.dtypes | {model.dtype.name})
        _log.info("%s", check)
        text = model_card(
            run, step, place=config.push or to.name, kind=_KINDS.get(config.format, "model"), check=str(check)
        )
        (folder / "README.md").write_text(text, "utf-8")
    size = sum(file.stat().st_size for file in to.iterdir())
    _log.info("written: %s (%s, step %d, %s)", to, config.format, step, console.format_bytes(size))
    if config.push is not None:
        push(to, config.push)
    return check


def _require_fitting(run: SavedRun, wanted: str) -> None:
    """Raises UserError for a format that the run, or what is installed, has not the parts for."""
    lora = run.config.model.lora_rank is not None
    if wanted == "adapter" and not lora:
        raise UserError(f"format=adapter: {run.folder} trained all weights (model.lora_rank=null); give format=full")
    if wanted == "full" and lora:
        raise UserError(f"format=full: {run.folder} trained an adapter; give format=merged or format=adapter")
    if wanted == "adapter" and run.config.model.run is not None:
        other = f"{run.folder} started from the weights of another run"
        raise UserError(f"format=adapter: {other}, for which there is no base; give format=merged")
    if wanted == "gguf" and importlib.util.find_spec("gguf") is None:
        raise UserError("format=gguf: gguf is not installed; run pip install 'tunix-grpo[gguf]'")


# --- what is written ---


def file_dtypes(run: SavedRun, model: Model, wanted: str) -> dict[str, np.dtype]:
    """Returns the type that each tensor is written in.

    Args:
        wanted: a type, or `auto`: that of the base model's file, or the one that the run computed in if it is wider.
    """
    if wanted != "auto":
        return uniform_dtypes(model.spec, jnp.dtype(wanted))
    computed = run.config.model.dtype
    if computed == "auto":
        of_device = {"cpu": "float32", "cuda": "bfloat16", "tpu": "bfloat16", "auto": model.dtype.name}
        computed = of_device[run.config.device]
    if run.config.model.random_weights:
        return uniform_dtypes(model.spec, jnp.dtype(computed))
    own = own_dtypes(model.spec, model.directory)
    return {name: np.promote_types(dtype, jnp.dtype(computed)) for name, dtype in own.items()}


def write_model(
    run: SavedRun, model: Model, dtypes: dict[str, np.dtype], mesh: jax.sharding.Mesh, folder: Path
) -> Written:
    """Writes config.json and the weights, adapters merged."""
    lost = write_weights(
        folder,
        model.spec,
        model.array,
        model.trained,
        lora_scale=model.lora_scale,
        dtypes=dtypes,
        shard_bytes=SHARD_BYTES,
    )
    _tell_lost(lost)
    config = read_config(model.directory)
    dtype = dtypes["model.embed_tokens.weight"]
    _write_json(folder / "config.json", text_config(config, model.spec, dtype))

    def read_back() -> Weights:
        spec = read_spec(folder, run.config.model.family)
        return place_stacks(spec, stored_weights(spec, folder), mesh, model.dtype)

    return Written({dtype.name for dtype in dtypes.values()}, read_back)


def _tell_lost(lost: float) -> None:
    if lost > 0.5:
        _log.warning(
            "rounding loses %s of what training changed; dtype=float32 or format=adapter keeps all of it",
            console.format_percent(lost),
        )


def write_gguf(
    run: SavedRun, model: Model, tokenizer: Tokenizer, mesh: jax.sharding.Mesh, folder: Path, *, dtype: str, name: str
) -> Written:
    """Writes a GGUF file and a Modelfile.

    Args:
        dtype: of matrices; `auto` is float16.
        name: of the model.
    """
    from tunix_grpo.export import gguf_file

    dtype = "float16" if dtype == "auto" else dtype
    file = folder / GGUF_FILE
    _tell_lost(gguf_file.write_gguf(file, model, tokenizer, name=name, dtype=dtype))
    start = tokenizer.bos_id() if tokenizer.adds_bos else None
    text = modelfile(
        read_turns(tokenizer.render_prompt),
        file=GGUF_FILE,
        bos=None if start is None else tokenizer.token(start),
        system_prompt=system_prompt_text(run.config.task.system_prompt),
        stops=[tokenizer.token(token) for token in tokenizer.stop_ids],
    )
    if "TEMPLATE" not in text:
        _log.warning("Modelfile: the chat template cannot be put into Ollama's language; it is in the GGUF file")
    (folder / "Modelfile").write_text(text, "utf-8")
    return Written({dtype}, lambda: place_stacks(model.spec, gguf_file.read_gguf(file, model), mesh, model.dtype))


def write_adapter(run: SavedRun, model: Model, folder: Path) -> Written:
    """Writes PEFT's files."""
    settings = run.config.model
    assert settings.lora_rank is not None  # only a run with an adapter has come here
    from_hub = settings.path is None and settings.kaggle_id is None
    saving.write_adapter(
        folder,
        model.spec,
        model.trained,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        base=(from_hub and settings.hub_id) or str(model.directory),
        revision=settings.revision if from_hub else None,
        multimodal="text_config" in read_config(model.directory),
    )

    def read_back() -> Weights:
        pairs, scale = read_adapter(folder)
        places = projection_names(model.spec)
        adapters = {
            places[module]: (jnp.asarray(a.T, model.dtype), jnp.asarray(b.T, model.dtype) * scale)
            for module, (a, b) in pairs.items()
        }
        return with_adapters(model.spec, model.reference, adapters)

    return Written(set(), read_back)


def generation_config(directory: Path, tokenizer: Tokenizer) -> dict[str, Json]:
    """Returns the base model's generation_config.json with the stop tokens that the model was trained with."""
    file = directory / "generation_config.json"
    own: dict[str, Json] = {"bos_token_id": tokenizer.bos_id(), "pad_token_id": tokenizer.pad_id()}
    if file.is_file():
        own = read_json(file)
    own.pop("use_cache", None)  # false only suits training
    stop_ids = tokenizer.stop_ids
    own["eos_token_id"] = stop_ids[0] if len(stop_ids) == 1 else [*stop_ids]
    return own


def _tokenizer_directory(run: SavedRun, model: Model) -> Path:
    return Path(run.config.model.tokenizer or model.directory).expanduser()


def _tokenizer(run: SavedRun, model: Model, folder: Path) -> Tokenizer:
    words = run.config.task.template_variables, run.config.task.date
    return load_tokenizer(folder, model.spec.vocab_size, model.directory, *words)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_json(file: Path, content: Json) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _prompts(run: SavedRun, tokenizer: Tokenizer) -> list[list[int]]:
    system_prompt = system_prompt_text(run.config.task.system_prompt)
    return [tokenizer.encode_prompt(chat_messages(question, system_prompt)) for question in QUESTIONS]
