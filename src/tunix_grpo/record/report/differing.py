"""Settings side by side: those of a run and the defaults, or those of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunix_grpo.config.defaults import default_config
from tunix_grpo.config.loading import leaves
from tunix_grpo.config.sentences import show
from tunix_grpo.record.run_config import public_config

ABSENT = ""
"""What is shown for a setting that one of them has not."""
# Where files are, which is another place on every machine, and what is short for another setting.
_LEFT_OUT = (
    "output_dir",
    "checkpoint_dir",
    "training.checkpoint_dir",
    "training.mirror",
    "jax_cache",
    "seed",
    "device",
)


def default_settings(main: str = "config") -> dict[str, object]:
    """Returns dotted key -> value of a run without a word on its command line, by its main config."""
    return {key: value for key, value in leaves(public_config(default_config(main))) if key}


def other_than_defaults(settings: Mapping[str, object], defaults: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Returns (key, value, default) of the settings that differ; of another task or reward the keys that it has."""
    return [
        (key, show(value), _shown(defaults, key))
        for key, value in settings.items()
        if key not in _LEFT_OUT and value != defaults.get(key)
    ]


def differing(runs: Sequence[Mapping[str, object]]) -> list[tuple[str, list[str]]]:
    """Returns the keys that runs have different values of, each with the value of every run."""
    keys = dict.fromkeys(key for settings in runs for key in settings if key not in _LEFT_OUT)
    rows = [(key, [_shown(settings, key) for settings in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _shown(settings: Mapping[str, object], key: str) -> str:
    return show(settings[key]) if key in settings else ABSENT
