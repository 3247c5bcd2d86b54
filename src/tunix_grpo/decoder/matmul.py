"""The matrix product of activations with weights, with a backward pass that suits the machines.

What automatic differentiation would do instead: in bfloat16 multiply a float32 gradient with weights converted to
float32, at a fraction of the speed and with a copy of the vocabulary head; and for the gradient of an adapter transpose
the wide operand instead of the narrow one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def product(x: jax.Array, w: jax.Array, transposed: bool = False) -> jax.Array:
    """Returns float32[..., out], the sums of x[..., in] times w.

    Gradients are computed in the dtypes of x and w, and summed in float32.

    Args:
        w: [in, out], or [out, in] if `transposed`.
    """
    return _differentiable_product(x, w, transposed)


def _product(x: jax.Array, w: jax.Array, transposed: bool) -> jax.Array:
    return jnp.einsum("...i,oi->...o" if transposed else "...i,io->...o", x, w, preferred_element_type=jnp.float32)


def _forward(x: jax.Array, w: jax.Array, transposed: bool) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, w, transposed), (x, w)


def _backward(transposed: bool, inputs: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = inputs
    g = g.astype(x.dtype)
    dx = _product(g, w, not transposed).astype(x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    g = g.reshape(-1, g.shape[-1])
    narrow_first = g.shape[1] < rows.shape[1]
    first, second = (g, rows) if narrow_first else (rows, g)
    dw = jnp.einsum("na,nb->ab", first, second, preferred_element_type=jnp.float32).astype(w.dtype)
    return dx, dw if narrow_first == transposed else dw.T


_differentiable_product = jax.custom_vjp(_product, nondiff_argnums=(2,))
_differentiable_product.defvjp(_forward, _backward)
