"""The least time of a trainer's step: `limits.py` for a model on a mesh."""

from __future__ import annotations

import jax

from tunix_grpo.config import Config
from tunix_grpo.config.benchmark import TimedConfig
from tunix_grpo.grpo.limits import Ceilings, Limits, Work, step_limits
from tunix_grpo.model.model import Model


def limits_of(
    config: TimedConfig | Config, model: Model, mesh: jax.sharding.Mesh, work: Work, ceilings: Ceilings
) -> Limits:
    """Returns the limits of a trainer's step.

    Args:
        model: with arrays, or shapes in their place.
        work: of all devices.
        ceilings: of one.
    """
    trained = sum(leaf.size for leaf in jax.tree.leaves(model.trained))
    return step_limits(
        model.spec,
        work.share(mesh.shape["fsdp"]),
        Ceilings(*(rate * mesh.shape["tp"] for rate in ceilings)),
        bytes_per_weight=model.dtype.itemsize,
        quantization=config.model.quantization,
        adapter_parameters=trained if config.model.lora_rank is not None else None,
        with_reference=config.grpo.beta > 0,
        num_iterations=config.grpo.num_iterations,
    )
