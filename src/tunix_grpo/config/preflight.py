"""The settings of `scripts/preflight.py`; their values are in `conf/preflight.yaml`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tunix_grpo.config.loading import Loader
from tunix_grpo.config.rules import GROUP, Flag


@dataclass(kw_only=True, slots=True, config=GROUP)
class PreflightConfig:
    """Which training is compiled, and for which device."""

    train: list[str]
    """Words of the training's command line; every word that is no setting of this program is one of them."""
    target: Literal["this", "h100", "a100", "rtx4090", "v5e-1", "v5e-4"]
    """The device: this is the one that is there; all others need not be."""
    json: Flag
    """Prints one JSON object instead of the table."""


load = Loader(schema=PreflightConfig)
