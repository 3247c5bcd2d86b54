"""Models: a Hugging Face directory in, Tunix modules that hold and adapt its weights out.

`load_model` is the door. It finds the directory (a path, the bundled model, the hub), reads the shapes from its
config.json, loads the weights onto the mesh and adds LoRA. What comes out knows how to hand its parameters to
`decoder.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tunix_grpo.config import ModelConfig
from tunix_grpo.errors import UserError
from tunix_grpo.models import lora, quantization, weights
from tunix_grpo.models.families import decoder_weights
from tunix_grpo.spec import DecoderSpec, spec_from_config

BUNDLED = "bundled:"
_ASSETS = Path(__file__).parent.parent / "assets"


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        spec: shapes and choices of the arithmetic.
        directory: where config.json and the tokenizer came from.
        actor: the module that is trained (with LoRA: adapters beside the base's arrays).
        reference: the module that stays: the same arrays with LoRA, a copy in `dtype` without.
        trainable: nnx filter of the trained leaves.
        lora_scale: alpha / rank, 0 without LoRA.
        dtype: of the computation.
    """

    spec: DecoderSpec
    directory: Path
    actor: nnx.Module
    reference: nnx.Module
    trainable: Any
    lora_scale: float
    dtype: jnp.dtype

    def decoder_weights(self, params: nnx.State) -> dict[str, Any]:
        """Returns the decoder's dictionary of weights for a state of the actor or the reference; differentiable."""
        return decoder_weights(self.spec, nnx.to_pure_dict(params), self.lora_scale, self.dtype)


def load_model(config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int) -> Model:
    """Loads the weights of a resolved model directory and makes them trainable.

    Trained parameters are float32 whatever the dtype of the computation: at RL learning rates a bfloat16 parameter
    does not move.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    spec = spec_from_config(weights.read_config(directory))
    dtype = _dtype(config.dtype)
    full = config.lora_rank is None
    base = _load_base(config, spec, directory, mesh, seed, jnp.dtype(jnp.float32) if full else dtype)
    if full:
        reference = nnx.clone(base)
        nnx.update(reference, jax.tree.map(lambda leaf: jnp.array(leaf, dtype, copy=True), nnx.state(base)))
        return Model(spec, directory, base, reference, nnx.Param, 0.0, dtype)
    actor = lora.add_lora(
        base,
        spec,
        rank=config.lora_rank,
        targets=config.lora_target_modules,
        seed=seed,
        mesh=mesh,
    )
    return Model(spec, directory, actor, base, nnx.LoRAParam, config.lora_alpha / config.lora_rank, dtype)


def load_frozen(config: ModelConfig, directory: Path, mesh: jax.sharding.Mesh, seed: int) -> Model:
    """Loads the weights as they are, in the dtype of the computation, with nothing to train: to answer questions.

    Raises:
        UserError: an unsupported model, or weights that do not fit config.json.
    """
    spec = spec_from_config(weights.read_config(directory))
    dtype = _dtype(config.dtype)
    base = _load_base(config, spec, directory, mesh, seed, dtype)
    return Model(spec, directory, base, base, nnx.Param, 0.0, dtype)


def resolve_directory(config: ModelConfig) -> Path:
    """Returns the local directory of a model: its path, the bundled one, or a (cached) download from the hub.

    Raises:
        UserError: no such directory, no network, a gated or unknown repository; one sentence that says what to do.
    """
    if config.path is not None:
        if config.path.startswith(BUNDLED):
            return _ASSETS / config.path.removeprefix(BUNDLED)
        directory = Path(config.path).expanduser()
        if not directory.is_dir():
            raise UserError(f"model.path={config.path}: no such directory; give a Hugging Face model directory")
        return directory
    if config.hub_id is None:
        raise UserError("model.path and model.hub_id are both null; set model.path=DIR or model.hub_id=OWNER/NAME")
    if config.random_weights:
        return _shapes(config.hub_id)
    return _download(config.hub_id, config.revision)


def _shapes(hub_id: str) -> Path:
    """Returns a bundled folder that holds nothing but the config.json of a known model: enough for random weights."""
    folder = _ASSETS / "shapes" / hub_id.replace("/", "--")
    if not folder.is_dir():
        known = ", ".join(sorted(path.name.replace("--", "/") for path in folder.parent.iterdir()))
        raise UserError(
            f"model.random_weights=true: the shapes of model.hub_id={hub_id} are not known here; known are {known}; "
            "give a folder with its config.json as model.path=DIR"
        )
    return folder


def _download(hub_id: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # its retries are no news; what they come to is
    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja"]
    way_out = "download it elsewhere and give its folder as model.path=DIR"
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise UserError(
            f"model.hub_id={hub_id} is gated: accept its terms on https://huggingface.co/{hub_id}, then log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"model.hub_id={hub_id}{at} does not exist on the hub, or needs a login (`hf auth login`)"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"model.hub_id={hub_id!r} is not a hub id of the form OWNER/NAME") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"model.hub_id={hub_id} could not be downloaded (no network?); {way_out}") from error


def _load_base(
    config: ModelConfig, spec: DecoderSpec, directory: Path, mesh: jax.sharding.Mesh, seed: int, stored: jnp.dtype
) -> nnx.Module:
    """Returns Tunix's module with the weights in `stored`, or with random ones, quantized if that is asked for."""
    if config.random_weights:
        base = weights.random_module(spec, seed, mesh, stored)
    else:
        base = weights.load_module(spec, directory, mesh, stored)
    if config.quantization is not None:
        quantization.quantize_projections(base, config.quantization)
    return base


def _dtype(name: str) -> jnp.dtype:
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(name)
