"""What `${NAME:...}` stands for in files of `conf/`, beside what Hydra and OmegaConf know themselves."""

from __future__ import annotations

from collections.abc import Callable

import hydra
from omegaconf import DictConfig, OmegaConf

HYDRA_1_3 = hydra.__version__.startswith("1.3.")


def register(name: str, function: Callable[..., object]) -> None:
    """Registers a function with OmegaConf, by the one of its own functions that it does not deprecate."""
    getattr(OmegaConf, "register_new_resolver" if HYDRA_1_3 else "register_resolver")(name, function, replace=True)


def register_defaults() -> None:
    """Registers what defaults of `conf/` are made of: `${by_what_is_trained:OF_AN_ADAPTER,OF_ALL_WEIGHTS}`."""
    register("by_what_is_trained", _by_what_is_trained)


def _by_what_is_trained(of_an_adapter: float, of_all_weights: float, *, _root_: DictConfig) -> float:
    return of_all_weights if OmegaConf.select(_root_, "model.lora_rank") is None else of_an_adapter
