"""Reads a model directory's config.json into what a decoder computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json, read_json
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.finding import family_name, find_family

# Keys that a multimodal file keeps outside of its text part.
_OUTER_KEYS = ("tie_word_embeddings",)


def read_config(directory: Path) -> dict[str, Json]:
    """Returns the parsed config.json of a model directory."""
    if not directory.is_dir():
        raise UserError(f"model.path={directory}: no such directory")
    file = directory / "config.json"
    if not file.is_file():
        raise UserError(f"{directory}: config.json is missing; model.path wants a Hugging Face model directory")
    return read_json(file)


def read_spec(directory: Path, family: str | None = None) -> DecoderSpec:
    """Returns what the config.json of a model directory says the decoder computes.

    Args:
        family: `model.family`.

    Raises:
        UserError: it is missing, or says something that is not covered; the sentence names the folder.
    """
    config = read_config(directory)
    try:
        return spec_from_config(config, family)
    except UserError as error:
        named = str(error).startswith("config.json")
        raise UserError(f"{directory}/{error}" if named else str(error)) from error


def spec_from_config(config: Mapping[str, Json], family: str | None = None) -> DecoderSpec:
    """Reads a Hugging Face config.json.

    Args:
        config: the parsed file; of a multimodal model the text part is taken.
        family: as `find_family` takes it; None: by the model type.

    Raises:
        UserError: the model type or one of its options is not covered; the sentence names it.
    """
    name = family_name(config, family)
    Fields("config.json", config).object("text_config")  # raises where it is something else
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**{key: config[key] for key in _OUTER_KEYS if key in config}, **text}
    return dataclasses.replace(find_family(name).read(Fields("config.json", config)), family=name)
