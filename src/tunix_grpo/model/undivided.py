"""What several devices each hold whole, since no axis of it divides by their number."""

from __future__ import annotations

import collections

import jax

from tunix_grpo.model.layout import PROJECTIONS, Path, flattened, leaves
from tunix_grpo.model.model import Model


def undivided(model: Model) -> dict[str, int]:
    """Returns the bytes of the matrices that lie whole on each of several devices, by their roles; norms are small."""
    found: collections.Counter[str] = collections.Counter()

    def note(role: str, array: jax.Array) -> None:
        if len(array.sharding.device_set) > 1 and array.sharding.is_fully_replicated:
            found[role] += array.nbytes

    names: dict[Path, str] = {}
    for leaf in leaves(model.spec):
        if leaf.is_projection or leaf.roles[0] in ("embed", "head"):
            role = ", ".join(leaf.roles)
            names |= {leaf.path: role, **dict.fromkeys(leaf.adapter_paths, f"adapters of {role}")}
    for path, array in flattened(model.trained).items():
        if path in names:
            note(names[path], array)
    for role in {"embed", "head"} & model.reference.keys():
        note(role, model.reference[role])
    for stack in model.reference["stacks"]:
        for role in PROJECTIONS:
            for array in jax.tree.leaves(stack[role]["w"]):
                note(role, array)
    return dict(found)
