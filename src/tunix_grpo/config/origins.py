"""The model of a run that starts from another run's weights: `model.run` names the run, which knows its model."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tunix_grpo.config import rules
from tunix_grpo.config.given import given_keys
from tunix_grpo.config.run_files import read_run_file
from tunix_grpo.config.sentences import show
from tunix_grpo.errors import ConfigError, UserError

# What says which model it is, and what of it may have moved since.
_NAMES = ("kaggle_id", "hub_id", "revision", "random_weights")
_PLACES = ("path", "tokenizer", "family")


def with_origin(cfg: DictConfig) -> DictConfig:
    """Returns the composed config with the model of the run that `model.run` names, if it names one.

    Raises:
        ConfigError: it is not the folder of a run, or something else names another model.
    """
    folder = OmegaConf.select(cfg, "model.run")
    if folder is None:
        return cfg
    given = given_keys()
    if named := sorted({f"model.{name}" for name in _NAMES} & given):
        raise ConfigError([f"model.run={folder}: the run knows its model; leave out {named[0]}"])
    try:
        run = read_run_file(Path(rules.absolute(str(folder))), "model.run")["model"]
    except UserError as error:
        raise ConfigError([str(error)]) from error
    if "model" in given and (problem := _another_model(cfg, run)):
        raise ConfigError([f"model.run={folder}: {problem}"])
    cfg = cfg.copy()
    for name in ("name", *_NAMES, *_PLACES):
        if f"model.{name}" not in given:
            OmegaConf.update(cfg, f"model.{name}", run.get(name))
    return cfg


def _another_model(cfg: DictConfig, run: dict[str, object]) -> str | None:
    """Returns what is wrong where the option of the group `model` that was chosen is another model than the run's."""
    chosen, own = ({name: model.get(name) for name in ("path", "kaggle_id", "hub_id")} for model in (cfg.model, run))
    if not any(chosen.values()) or chosen == own:
        return None
    ours, theirs = (_in_words(places) for places in (chosen, own))
    return f"the run is of {theirs}, not of {ours}; leave out model="


def _in_words(places: Mapping[str, object]) -> str:
    return ", ".join(f"model.{name}={show(place)}" for name, place in places.items() if place is not None)
