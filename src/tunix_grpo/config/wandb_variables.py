"""The variables of Weights & Biases that a setting stands beside: the command line wins over them, they over conf/.

wandb reads its other variables itself; `record/wandb.py` leaves to them what they say.
"""

import os

from omegaconf import DictConfig, OmegaConf

from tunix_grpo.config.given import given_keys

VARIABLES = {"tracker.project": "WANDB_PROJECT", "tracker.entity": "WANDB_ENTITY", "tracker.run_name": "WANDB_NAME"}
_SWITCHING_OFF = {"WANDB_DISABLED": ("1", "true", "yes", "on"), "WANDB_MODE": ("disabled",)}


def with_wandb_variables(cfg: DictConfig) -> DictConfig:
    """Returns the composed config with what the variables say, where the command line says nothing."""
    if not isinstance(OmegaConf.select(cfg, "tracker"), DictConfig):
        return cfg  # a file of the user's; the check of the types says what is wrong
    cfg, given = cfg.copy(), given_keys()
    for key, variable in VARIABLES.items():
        value = os.environ.get(variable, "").strip()
        if value and key not in given:
            OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def switched_off_by() -> str | None:
    """Returns the variable that switches W&B off, `WANDB_MODE=disabled`; `tracker.wandb` on the command line wins."""
    values = {name: os.environ.get(name, "") for name in _SWITCHING_OFF}
    off = [f"{name}={value}" for name, value in values.items() if value.lower() in _SWITCHING_OFF[name]]
    return off[0] if off and "tracker.wandb" not in given_keys() else None
