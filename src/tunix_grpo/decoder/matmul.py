"""The matrix product of activations with weights, with a backward pass that suits the machines.

What automatic differentiation would do instead: in bfloat16 multiply a float32 gradient with weights converted to
float32, at a fraction of the speed and with a copy of the vocabulary head; and for the gradient of an adapter transpose
the wide operand instead of the narrow one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.platform import platform


def product(x: jax.Array, w: jax.Array, transposed: bool = False) -> jax.Array:
    """Returns float32[..., out], the sums of x[..., in] times w.

    Gradients are computed in the dtypes of x and w, and summed in float32.

    Args:
        w: [in, out], or [out, in] if `transposed`.
    """
    return _differentiable_product(x, w, transposed)


def outputs_first(dtype: jnp.dtype) -> bool:
    """Says whether `product_of_few` wants its weights as [out, in]."""
    return platform() == "cpu" and dtype == jnp.float32


def product_of_few(x: jax.Array, w: jax.Array) -> jax.Array:
    """Returns float32[..., out], the sums of x[..., in] times w[out, in], of few rows.

    On a CPU such a product costs the reading of w, which XLA's library reads in narrow columns where w is the right
    operand, and row after row where it is the left one. The barriers keep what is done to x before, and to the result
    afterwards, out of the library's product, which would be slower than the other order.
    """
    if not outputs_first(w.dtype):
        return product(x, w, True)
    x = jax.lax.optimization_barrier(x)
    turned = jnp.einsum("oi,...i->o...", w, x, preferred_element_type=jnp.float32)
    return jnp.moveaxis(jax.lax.optimization_barrier(turned), 0, -1)


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
