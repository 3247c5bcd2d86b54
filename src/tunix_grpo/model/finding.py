"""Which family a model is of: by its config.json, or the one that `model.family` names."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from tunix_grpo.errors import UserError
from tunix_grpo.model.families import FAMILIES
from tunix_grpo.model.families.family import Family

_WANTED = f"give one of {', '.join(FAMILIES)}, FILE.py:NAME, or null for the one that config.json names"


def family_name(config: Mapping[str, Any], chosen: str | None) -> str:
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
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"model.family={name}: there is no file {file}; {_WANTED}")
    members = _run(path, name)
    if not isinstance(members.get(member), Family):
        families = [key for key, value in members.items() if isinstance(value, Family)]
        raise UserError(f"model.family={name}: {file} has no family {member}; it has {', '.join(families) or 'none'}")
    return members[member]


def _run(path: Path, name: str) -> dict[str, Any]:
    """Returns what a Python file defines."""
    module_name = f"tunix_grpo_own_family_{path.stem}"
    spec = importlib.util.spec_from_loader(module_name, SourceFileLoader(module_name, str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses of the file look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may raise
        raise UserError(f"model.family={name}: {path} cannot be run ({type(error).__name__}: {error})") from error
    return vars(module)
