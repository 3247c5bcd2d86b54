"""Parameters that several hosts hold: equal to the last bit on all of them, or training has come apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import jax
import numpy as np

from tunix_grpo.errors import NoStepError
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.run.leaves import flat_leaves


def require_equal(params: object, hosts: Hosts) -> str:
    """Returns the sha256 of what more than one device holds of the parameters, after all hosts have compared theirs.

    Args:
        params: a pytree of arrays; leaves whose parts are all different have nothing to compare.

    Raises:
        NoStepError: two hosts hold different numbers under one name.
    """
    first: dict[str, tuple[int, str]] = {}
    parts: list = hosts.gather(dict(_digests(params)))
    for host, part in enumerate(parts):
        for name, digest in part.items():
            other, expected = first.setdefault(name, (host, digest))
            if digest != expected:
                raise hosts.known(
                    NoStepError(
                        f"host {other} and host {host} hold different parameters ({name}), so that a device of theirs "
                        "computes wrong; without it the same command goes on from the last step saved"
                    )
                )
    return hashlib.sha256(repr(sorted((name, digest) for name, (_, digest) in first.items())).encode()).hexdigest()


def _digests(params: object) -> Iterator[tuple[str, str]]:
    """Yields the name and sha256 of each part that this host holds of the leaves that are held more than once."""
    for name, leaf in flat_leaves(params).items():
        places = leaf.sharding.devices_indices_map(leaf.shape)
        if leaf.is_fully_addressable or len(set(map(str, places.values()))) < len(places):
            own = {_place(shard): shard for shard in leaf.addressable_shards}
            for place, shard in own.items():
                yield f"{name}{place}", hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()


def _place(shard: jax.Shard) -> str:
    """Returns where a part begins, as `[0, 64]`; nothing for a whole."""
    starts = [place.start for place in shard.index]
    return "" if all(start is None for start in starts) else str([start or 0 for start in starts])
