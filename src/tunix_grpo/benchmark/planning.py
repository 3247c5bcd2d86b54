"""What a sweep has to know first: the device, what it can do, and the points. In a process of its own, see `worker`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from tunix_grpo.benchmark.ceilings import measure_ceilings
from tunix_grpo.benchmark.link import Link
from tunix_grpo.benchmark.points import points_of
from tunix_grpo.config.benchmark import from_values
from tunix_grpo.config.changing import changed
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.model import computing_dtype
from tunix_grpo.model.sources import config_directory, resolve_directory
from tunix_grpo.run.devices import device_memory_bytes, open_devices
from tunix_grpo.run.joining import refuse_several


def serve(settings: Mapping[str, object], link: Link) -> None:
    """Answers once: with the points, and the rates that all of them are measured against.

    Args:
        settings: of the benchmark, by dotted key.
        link: gets the fields of `Point` for each, the fields of `limits.Ceilings`, and the device's memory in bytes.

    Raises:
        UserError: something that the user can mend.
    """
    config = from_values(settings)
    refuse_several("benchmark")
    devices = open_devices(config.device, config.mesh, config.jax_cache)
    counts_layers = config.sweep == "model" and config.points is None
    spec = read_spec(config_directory(config.model), config.model.family) if counts_layers else None
    points = points_of(config, config.on(jax.default_backend()), devices.data_parallel, spec)
    for point in points:
        if isinstance(point.value, str):  # a model that is not there is said before any is timed
            read_spec(resolve_directory(changed(config, point.settings).model), config.model.family)
    ceilings = measure_ceilings(computing_dtype(config.model.dtype))
    link.send(
        points=[dataclasses.asdict(point) for point in points],
        ceilings=ceilings._asdict(),
        memory_bytes=device_memory_bytes(),
    )
