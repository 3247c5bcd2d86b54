"""Which settings make a training fit that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tunix_grpo.config import Config
from tunix_grpo.config.changing import changed
from tunix_grpo.preflight.compiling import Needs

# config -> whether all programs fit; those of these names are compiled first.
Fits = Callable[[Config, list[str]], bool]


def ways_out(config: Config, remat: str, too_large: list[str]) -> Iterator[tuple[list[str], Config]]:
    """Yields words for a command line with the config that they come to, each on top of those before it.

    Args:
        remat: what is in effect: none, block or full.
        too_large: names of the programs that do not fit.
    """
    words: dict[str, object] = {}

    def further(group: str, **settings: object) -> tuple[list[str], Config]:
        nonlocal config
        named = {f"{group}.{name}": value for name, value in settings.items()}
        config = changed(config, named)
        words.update(named)
        return [f"{key}={value}" for key, value in words.items()], config

    if remat != "full" and "update" in too_large:
        yield further("training", remat="full")
    if "update" in too_large or "reference" in too_large:
        while config.training.micro_batch_size > 1 and config.training.micro_batch_size % 2 == 0:
            training = config.training
            yield further(
                "training",
                micro_batch_size=training.micro_batch_size // 2,
                gradient_accumulation_steps=2 * training.gradient_accumulation_steps,
            )
    if any(name.startswith("rollout") for name in too_large):
        rows = config.completions_per_step(1)
        while (rows := rows // 2) >= config.grpo.num_generations:
            yield further("generation", max_rows=rows)
    if config.model.lora_rank is not None and config.model.quantization is None:
        yield further("model", quantization="nf4")


def first_that_fits(config: Config, remat: str, needs: list[Needs], memory: int, fits: Fits) -> list[str] | None:
    """Returns the words of the first way out after which all programs fit; None if none does.

    Args:
        needs: of the programs as they are.
        memory: bytes of a device.
        fits: compiles.
    """
    too_large = [each.name for each in needs if each.refusal or each.total > memory]
    for words, smaller in ways_out(config, remat, too_large):
        if fits(smaller, too_large):
            return words
    return None
