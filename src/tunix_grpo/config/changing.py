"""A checked config with some of its settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def changed(config: Settings, settings: Mapping[str, object]) -> Settings:
    """Returns a config with other settings, by dotted key: GROUP.NAME; nothing is checked anew."""
    held: Any = config
    for key, value in settings.items():
        group, name = key.split(".")
        held = replace(held, **{group: replace(getattr(held, group), **{name: value})})
    return held
