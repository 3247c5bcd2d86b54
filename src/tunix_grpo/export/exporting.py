"""Writes a run's trained model into a folder that transformers or PEFT loads, and checks what was written.

It is written beside its place under another name, read back, compared with the trained model, and then renamed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import console
from tunix_grpo.config import MeshConfig
from tunix_grpo.config.export import ExportConfig
from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.errors import UserError
from tunix_grpo.export.destination import require_replaceable
from tunix_grpo.export.model_card import MARK, model_card
from tunix_grpo.export.upload import push, require_repository
from tunix_grpo.files import Json, read_json, whole_folder
from tunix_grpo.model import saving
from tunix_grpo.model.config_json import read_config, read_spec
from tunix_grpo.model.decoder_form import with_adapters
from tunix_grpo.model.layout import projection_names
from tunix_grpo.model.loading import stored_weights
from tunix_grpo.model.model import Model
from tunix_grpo.model.placing import place_stacks
from tunix_grpo.model.saving import ADAPTER_FILE, own_dtypes, read_adapter, text_config, uniform_dtypes, write_weights
from tunix_grpo.run.devices import open_devices
from tunix_grpo.run.saved_runs import SavedRun, choose_step, load_trained, open_run
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer, load_tokenizer

QUESTIONS = (
    "What is 17 + 25?",
    "A train leaves at nine and arrives at noon. How long does it travel?",
    "Name three fruits.",
)
# Largest difference of a logit, as a part of the largest logit: what rounding a model's weights to this type makes of a
# deep model. A tensor that is missing, transposed or unscaled makes more.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 0.02, "bfloat16": 0.1}
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
    r"|adapter_config\.json|adapter_model\.safetensors|" + "|".join(map(re.escape, TOKENIZER_FILES))
)
_log = logging.getLogger(__name__)


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
    adapter = _wants_adapter(run, config.format)
    step = choose_step(run, config.step)

    with whole_folder(to, "to") as folder:
        devices = open_devices(config.device, MeshConfig(fsdp=None, tp=1), config.jax_cache)
        model = load_trained(run, step, devices.mesh)
        source = _tokenizer_directory(run, model)
        tokenizer = _tokenizer(run, model, source)
        prompts = _prompts(run, tokenizer)
        trained = logits(model, model.decoder_weights(), prompts)

        _copy_tokenizer(source, folder)
        if adapter:
            read_back = write_adapter(run, model, folder)
        else:
            _write_json(folder / "generation_config.json", generation_config(model.directory, tokenizer))
            dtypes = file_dtypes(run, model, config.dtype)
            read_back = write_model(run, model, dtypes, devices.mesh, folder)
        if _prompts(run, _tokenizer(run, model, folder)) != prompts:
            raise UserError(f"{source}: its tokenizer has files of an unknown kind, without which its tokens differ")
        check = compare(trained, logits(model, read_back(), prompts), _coarsest(folder, model))
        _log.info("%s", check)
        text = model_card(run, step, place=config.push or to.name, adapter=adapter, check=str(check))
        (folder / "README.md").write_text(text, "utf-8")
    size = sum(file.stat().st_size for file in to.iterdir())
    _log.info("written: %s (%s, step %d, %s)", to, config.format, step, console.format_bytes(size))
    if config.push is not None:
        push(to, config.push)
    return check


def _wants_adapter(run: SavedRun, wanted: str) -> bool:
    lora = run.config.model.lora_rank is not None
    if wanted == "adapter" and not lora:
        raise UserError(f"format=adapter: {run.folder} trained all weights (model.lora_rank=null); give format=full")
    if wanted == "full" and lora:
        raise UserError(f"format=full: {run.folder} trained an adapter; give format=merged or format=adapter")
    if wanted == "adapter" and run.config.model.run is not None:
        other = f"{run.folder} started from the weights of another run"
        raise UserError(f"format=adapter: {other}, for which there is no base; give format=merged")
    return wanted == "adapter"


# --- what is written; each returns a function that reads it back as the decoder's weights ---


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
) -> Callable[[], Weights]:
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
    if lost > 0.5:
        _log.warning(
            "rounding loses %s of what training changed; dtype=float32 or format=adapter keeps all of it",
            console.format_percent(lost),
        )
    config = read_config(model.directory)
    dtype = dtypes["model.embed_tokens.weight"]
    _write_json(folder / "config.json", text_config(config, model.spec, dtype))

    def read_back() -> Weights:
        spec = read_spec(folder, run.config.model.family)
        return place_stacks(spec, stored_weights(spec, folder), mesh, model.dtype)

    return read_back


def write_adapter(run: SavedRun, model: Model, folder: Path) -> Callable[[], Weights]:
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

    return read_back


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


# --- the check ---


def logits(model: Model, params: Weights, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns float32[tokens of all prompts, V]."""
    width = max(map(len, prompts))
    tokens = np.array([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], np.int32)
    valid = np.arange(width) < np.array([[len(prompt)] for prompt in prompts])
    with jax.default_matmul_precision("highest"):
        positions = text_positions(jnp.asarray(valid))
        hidden, _ = forward(model.spec, params, jnp.asarray(tokens), positions, jnp.asarray(valid))
        return np.asarray(head_logits(params, hidden))[valid]


def compare(trained: np.ndarray, written: np.ndarray, dtype: str) -> Check:
    """Compares two models' logits.

    Args:
        dtype: the coarsest type that either was rounded to.

    Raises:
        UserError: they differ by more than rounding explains.
    """
    largest = float(np.max(np.abs(trained)))
    difference = float(np.max(np.abs(written - trained)))
    check = Check(difference, largest, TOLERANCE[dtype] * max(1.0, largest))
    if not check.difference <= check.allowed:  # a NaN is not
        raise UserError(
            f"the written files do not give the trained model: their logits differ by {difference:.3g}, rounding to "
            f"{dtype} explains at most {check.allowed:.3g}; nothing was kept"
        )
    return check


def _coarsest(folder: Path, model: Model) -> str:
    """Returns the coarsest of the types of the files and of the computation."""
    written = {model.dtype.name}
    if not (folder / ADAPTER_FILE).is_file():
        written |= {dtype.name for dtype in own_dtypes(model.spec, folder).values()}
    return max(written, key=lambda name: TOLERANCE[name])


def _prompts(run: SavedRun, tokenizer: Tokenizer) -> list[list[int]]:
    system_prompt = system_prompt_text(run.config.task.system_prompt)
    return [tokenizer.encode_prompt(chat_messages(question, system_prompt)) for question in QUESTIONS]
