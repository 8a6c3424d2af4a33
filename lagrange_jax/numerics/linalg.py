"""Small pieces of linear algebra that every solver here shares.

A quantity of each output is a row `[1, k]`, one of the whole kernel a row `[1, 1]`;
both broadcast against a kernel `[d, k]`. `like` is such a row and says which is meant.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["column_length", "column_sum", "dot", "pseudo_inverse", "rank_tolerance"]


def dot(a: Array, b: Array) -> Array:
    """Returns the product in full precision; accelerators round by default."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def column_sum(array: Float[Array, "d k"], like: Array) -> Float[Array, "1 m"]:
    """Returns the sum of each column, or of all of them, of the shape of `like`."""
    return array.sum(_axes(array, like), keepdims=True)


def column_length(array: Float[Array, "d k"], like: Array) -> Float[Array, "1 m"]:
    """Returns the length of each column, or of all together, of the shape of `like`.

    Neither large nor small entries overflow when they are squared.
    """
    largest = jnp.max(jnp.abs(array), axis=_axes(array, like), keepdims=True)
    largest = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    squares = column_sum((array / largest) ** 2, like)
    # The square root has no derivative at zero; the length of nothing is constant.
    # NaN counts as something, so that it reaches the status.
    is_zero = squares == 0
    root = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squares)))
    return largest * root


def _axes(array, like):
    return 0 if like.shape[1] == array.shape[1] else (0, 1)


def rank_tolerance(eigenvalues: Float[Array, " d"]) -> Float[Array, ""]:
    """Returns the eigenvalue at and below which a direction counts as empty.

    The usual `eps * d * largest`: the rounding error of an eigenvalue. It is used
    where rank matters (the minimum-norm solution, degrees of freedom); the
    constrained solution itself needs no such decision.
    """
    eps = jnp.finfo(eigenvalues.dtype).eps
    return eps * eigenvalues.shape[0] * jnp.max(jnp.abs(eigenvalues))


def pseudo_inverse(eigenvalues: Float[Array, " d"]) -> Float[Array, " d"]:
    """Returns the inverse of each eigenvalue, and zero for empty directions."""
    kept = eigenvalues > rank_tolerance(eigenvalues)
    return jnp.where(kept, 1 / jnp.where(kept, eigenvalues, 1), 0)
