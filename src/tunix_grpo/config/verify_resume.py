"""The settings of `scripts/verify_resume.py`; their values are in `conf/verify_resume.yaml`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from pydantic import Field
from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.overrides import normalise, not_an_override
from tunix_grpo.config.rules import GROUP, Flag, Path, Seed, Whole
from tunix_grpo.config.short_words import as_typed

Interruption = Literal["kill", "terminate", "corrupt"]


@dataclass(kw_only=True, slots=True, config=GROUP)
class VerifyResumeConfig:
    """Which training is stopped, how often and how."""

    train: list[str]
    """Words of the training's command line; every word that is no setting of this program is one of them."""
    steps: Whole = rules.number(minimum=2)
    """Steps of the training, 2 or more."""
    save_every: Whole = rules.number(minimum=1)
    """Steps from one checkpoint to the next, 1 or more."""
    interruptions: Annotated[list[Interruption], Field(max_length=100)]
    """What is done to the second training, in this order; an empty list trains twice without an interruption.

    kill: SIGKILL at a random moment; terminate: SIGTERM; corrupt: flips a bit in the newest checkpoint.
    """
    moments: Seed
    """Seed of the random moments."""
    folder: Path = rules.hint("give a folder that does not exist yet")
    """Folder of both trainings."""
    keep: Flag
    """Keeps the folder also where both are equal."""


def _usable_words(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what is wrong with words of the training, as far as it shows without composing them."""
    words = values.get("train")
    for word in normalise(as_typed(words)) if isinstance(words, list) else []:
        try:
            if OverridesParser.create().parse_override(word).is_sweep_override():
                yield f"{word}: a sweep is several trainings; give one value"
        except HydraException:
            yield not_an_override(word)


load = Loader(schema=VerifyResumeConfig, checks=(_usable_words,))
