"""The products with weights: values and gradients against the formula, and what their programs hold."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_grpo.decoder.matmul import product, product_of_few
from tunix_grpo.decoder.platform import Described, traced_for


def arrays(width_in: int, width_out: int, transposed: bool, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((width_out, width_in) if transposed else (width_in, width_out))
    return jnp.asarray(rng.standard_normal((2, 5, width_in)), dtype), jnp.asarray(w, dtype)


def plain(x: jax.Array, w: jax.Array, transposed: bool) -> jax.Array:
    return x.astype(jnp.float32) @ (w.T if transposed else w).astype(jnp.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("widths", [(8, 3), (3, 8)])
def test_value_and_gradient_are_those_of_the_formula(widths, transposed):
    """Within 1e-5: float32, another order of summation."""
    x, w = arrays(*widths, transposed)

    def outputs(function):
        return jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(function(x, w, transposed))), argnums=(0, 1))(x, w)

    for got, wanted in zip(jax.tree.leaves(outputs(product)), jax.tree.leaves(outputs(plain)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_bfloat16_gradients_are_products_of_bfloat16():
    """Automatic differentiation would convert the weights to float32; the values are bfloat16's within its rounding."""
    x, w = arrays(16, 32, False, jnp.bfloat16)

    def gradient(x, w):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(product(x, w).astype(jnp.bfloat16).astype(jnp.float32))), (0, 1))(
            x, w
        )

    lowered = jax.jit(gradient).lower(x, w).as_text()
    kinds = re.findall(r"dot_general.*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)", lowered)
    assert len(kinds) == 3
    assert set(kinds) == {("bf16", "bf16")}
    exact = jax.grad(lambda x, w: jnp.sum(jnp.sin(x @ w)), (0, 1))(x.astype(jnp.float32), w.astype(jnp.float32))
    for got, wanted in zip(gradient(x, w), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        assert np.abs(np.asarray(got, np.float32) - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("shape", [(1, 16), (5, 16), (5, 1, 16)])
def test_few_rows_have_the_sums_of_the_formula(shape):
    """Within 1e-5: float32 against float64."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal((32, 16))
    got = jax.jit(product_of_few)(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(got, x @ w.T, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "dtype", "left"),
    [
        (None, jnp.float32, (32, 16)),
        (None, jnp.bfloat16, (5, 16)),
        (Described("gpu", 2**30), jnp.float32, (5, 16)),
    ],
)
def test_a_cpu_has_float32_weights_of_few_rows_on_the_left(device, dtype, left):
    """There they are read row after row; XLA's own order would be (5, 16) on each device."""
    x, w = jnp.ones((5, 16), dtype), jnp.ones((32, 16), dtype)
    with traced_for(device):
        lowered = jax.jit(lambda x, w: product_of_few(x, w)).lower(x, w).as_text()  # its own, traced for the device
    [found] = re.findall(r"dot_general.*: \(tensor<(\d+)x(\d+)x", lowered)
    assert tuple(map(int, found)) == left
