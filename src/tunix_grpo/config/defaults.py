"""The settings of a training to which no command line says anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra

from tunix_grpo.config.composing import VERSION_BASE
from tunix_grpo.config.history import load_recorded, load_recorded_sft
from tunix_grpo.config.sft import RunConfig

_CONF = Path(__file__).parent.parent / "conf"


def default_config(main: str = "config") -> RunConfig:
    """Returns what `conf/` says; its folders are relative to the current one, and its `output_dir` means nothing.

    Args:
        main: the main config, `config` of training or `sft` of scripts/sft.py.
    """
    with _another_hydra(), hydra.initialize_config_dir(str(_CONF.resolve()), **VERSION_BASE):
        cfg = hydra.compose(main)
    cfg.output_dir = "."  # what it is made of is known only where Hydra runs a program
    return load_recorded_sft(cfg) if main == "sft" else load_recorded(cfg)


@contextlib.contextmanager
def _another_hydra() -> Iterator[None]:
    """Lets Hydra compose where it runs a program already, and leaves its state as it was."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # Hydra may have put another instance in its place
