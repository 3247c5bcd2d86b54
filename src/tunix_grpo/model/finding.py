"""Which family a model is of: by its config.json, or the one that `model.family` names."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from tunix_grpo.config.plugins import member_of_file
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.model.families import FAMILIES
from tunix_grpo.model.families.family import Family

_WANTED = f"give one of {', '.join(FAMILIES)}, FILE.py:NAME, or null for the one that config.json names"


def family_name(config: Mapping[str, Json], chosen: str | None) -> str:
    """Returns the name of a model's family, as `find_family` takes it.

    Args:
        config: the parsed config.json.
        chosen: `model.family`; None: by the model type.

    Raises:
        UserError: no family has this model type.
    """
    if chosen is not None:
        return chosen
    model_type = config.get("model_type")
    for name, family in FAMILIES.items():
        if model_type in family.model_types:
            return name
    known = sorted(kind for family in FAMILIES.values() for kind in family.model_types)
    raise UserError(
        f"config.json: model_type={json.dumps(model_type)} is not supported; supported are {', '.join(known)}; "
        "model.family=FILE.py:NAME adds one"
    )


@functools.cache
def find_family(name: str) -> Family:
    """Returns a family.

    Args:
        name: of one of ours, or FILE.py:NAME.

    Raises:
        UserError: there is none of this name, or its file cannot be run.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    file, colon, member = name.rpartition(":")
    if not colon:
        raise UserError(f"model.family={name}: there is no such family; {_WANTED}")
    about = f"model.family={name}"
    found = member_of_file(Path(file), member, about, about, "family")
    if not isinstance(found, Family):
        raise UserError(f"{about}: {member} is not a Family but {type(found).__name__}; {_WANTED}")
    return found
