"""The two rates that bound every program on a device, measured on the device itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tunix_grpo.grpo.limits import Ceilings

_QUEUED_CALLS = 8  # so that a device never waits for the host
_SHORT_CALL_S = 0.01  # for a longer one the host does not matter
_ROUNDS = 5  # the best of them counts
_ENOUGH_S = 1.0  # after which no further round is begun
_STREAM_SHAPE = (2**14, 2**12)  # 256 MiB of float32, more than any cache on the way holds
_MATRIX_SIZES = (512, 1024, 2048, 4096, 8192)
_LONG_PRODUCT_S = 0.25  # a product eight times as large would take too long


def measure_ceilings(dtype: jnp.dtype) -> Ceilings:
    """Measures what the first device can do; takes seconds.

    Args:
        dtype: of the matrix products.
    """
    return Ceilings(bandwidth=_bandwidth(), arithmetic=_arithmetic(dtype))


def _bandwidth() -> float:
    """Returns the bytes per second that are read of a large array: for its maximum, or in a product with a vector."""
    array = jnp.ones(_STREAM_SHAPE, jnp.float32)
    vector = jnp.ones(_STREAM_SHAPE[1], jnp.float32)
    largest, product = jax.jit(jnp.max), jax.jit(jnp.dot)
    seconds = (
        _best_seconds(lambda calls: [largest(array) for _ in range(calls)]),
        _best_seconds(lambda calls: [product(array, vector) for _ in range(calls)]),
    )
    return array.nbytes / min(seconds)


def _arithmetic(dtype: jnp.dtype) -> float:
    """Returns the FLOP per second of the fastest product of square matrices."""
    product = jax.jit(jnp.dot)
    best = 0.0
    for size in _MATRIX_SIZES:
        matrix = jnp.full((size, size), 1 / size, dtype)

        def powers(calls: int, matrix: jax.Array = matrix) -> jax.Array:
            """Multiplies again and again, which leaves these entries as they are, and only two matrices in memory."""
            result = matrix
            for _ in range(calls):
                result = product(result, matrix)
            return result

        seconds = _best_seconds(powers)
        best = max(best, 2.0 * size**3 / seconds)
        if seconds > _LONG_PRODUCT_S:
            break
    return best


def _best_seconds(run: Callable[[int], jax.Array | list[jax.Array]]) -> float:
    """Returns the seconds of one call.

    Args:
        run: makes so many calls without waiting for them, and returns what to wait for.
    """
    jax.block_until_ready(run(1))
    best, calls, begun = float("inf"), 1, time.perf_counter()
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(run(calls))
        best = min(best, (time.perf_counter() - start) / calls)
        calls = _QUEUED_CALLS if best < _SHORT_CALL_S else 1
        if time.perf_counter() - begun > _ENOUGH_S:
            break
    return best
