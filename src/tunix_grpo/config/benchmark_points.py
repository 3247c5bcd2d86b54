"""What a sweep of `scripts/benchmark.py` may be given: its points, its picture, and what goes together."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import Path, as_whole

Sweep = Literal["rows", "tokens", "model", "micro_batch_size"]
_PICTURES = (".png", ".svg", ".pdf")


def points(value: object) -> list[int | str]:
    """Returns sizes, each written in any way that means a whole number, or names of models."""
    found = [as_whole(each) for each in value] if isinstance(value, list | tuple) else []
    good = [each for each in found if (isinstance(each, int) and each >= 1) or (isinstance(each, str) and each.strip())]
    if not found or len(good) < len(found):
        raise ValueError("must be a list of whole numbers of at least 1, or of models, as in [16,32]")
    return good


def picture(path: str) -> str:
    """Returns the path of a picture as it is."""
    if PurePath(path).suffix not in _PICTURES:
        raise ValueError(f"must end in {', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}")
    return path


Points = Annotated[list[int | str], BeforeValidator(points)]
Picture = Annotated[Path, AfterValidator(picture)]


def halvings(count: int) -> list[int]:
    """Returns a count, half of it, half of that, as long as they divide it, then its next divisors; the least first."""
    found = [count]
    while found[0] > 1:
        found.insert(0, next(size for size in range(found[0] // 2, 0, -1) if found[0] % size == 0))
    return found


def _is_alone(sweep: str | None, peer: str | None) -> str | None:
    """Checks that no other program is to be timed at each point."""
    if sweep is not None and peer is not None:
        return "points are timed without a peer; give peer=null, or sweep=null"
    return None


def _is_of_steps(sweep: str | None, timed: str) -> str | None:
    """Checks that steps are what is timed."""
    if sweep is not None and timed != "steps":
        return "the points of a sweep are steps; give timed=steps, or sweep=null"
    return None


def _belong_to_a_sweep(points: Sequence[int | str] | None, sweep: str | None) -> str | None:
    """Checks that there is a sweep that the points are of, and that they are sizes unless they are models."""
    if points is None:
        return None
    if sweep is None:
        return "points belong to a sweep; give sweep=rows, tokens, model or micro_batch_size, or points=null"
    if sweep != "model" and any(isinstance(each, str) for each in points):
        return "only models have names; give whole numbers, as in points=[16,32]"
    return None


def _shows_a_sweep(plot: str | None, sweep: str | None) -> str | None:
    """Checks that there is something to draw."""
    if plot is not None and sweep is None:
        return "a plot shows how cost grows; give sweep=rows, tokens, model or micro_batch_size, or plot=null"
    return None


def _are_whole_groups(
    points: Sequence[int | str] | None, sweep: str | None, group: int, minibatches: int
) -> str | None:
    """Checks that each point is a step of whole groups, in each of its minibatches."""
    unit = group * minibatches
    if sweep == "rows" and any(each % unit for each in _sizes(points)):
        return f"a step has whole groups in each minibatch; give multiples of {unit}, as in points=[{unit},{2 * unit}]"
    return None


def _divide_a_step(points: Sequence[int | str] | None, sweep: str | None, micro: int, accumulated: int) -> str | None:
    """Checks that each micro batch divides a step, which stays the same."""
    prompts = micro * accumulated
    if sweep == "micro_batch_size" and any(prompts % each for each in _sizes(points)):
        usual = ",".join(map(str, halvings(prompts)))
        return f"a micro batch divides the {prompts} prompts of an update, which stay; give points=[{usual}]"
    return None


def _sizes(points: Sequence[int | str] | None) -> Iterator[int]:
    yield from (each for each in points or () if isinstance(each, int))


RELATIONS = (
    Relation(("sweep", "peer"), _is_alone),
    Relation(("sweep", "timed"), _is_of_steps),
    Relation(("points", "sweep"), _belong_to_a_sweep),
    Relation(("plot", "sweep"), _shows_a_sweep),
    Relation(("points", "sweep", "grpo.num_generations", "grpo.num_minibatches"), _are_whole_groups),
    Relation(("points", "sweep", "training.micro_batch_size", "training.gradient_accumulation_steps"), _divide_a_step),
)
