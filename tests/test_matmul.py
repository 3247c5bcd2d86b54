"""The product with weights: its gradient against automatic differentiation, and what its program holds."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_grpo.decoder.matmul import product


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
