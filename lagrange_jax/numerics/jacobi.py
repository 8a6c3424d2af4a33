r"""Singular vectors of a matrix whose columns differ by many orders of magnitude.

An eigendecomposition of $S$ has an error of $\epsilon\, s_\text{max}$ in every
eigenvalue: what columns of small variance contribute is lost. One-sided Jacobi
rotations of a factor $G$ with $G^T G = S$ act on two columns at a time and keep the
digits of both: if $S$ with its diagonal scaled to one is well conditioned, every
eigenvalue is right relative to itself.

References:
  J. Demmel, K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix
  Anal. Appl. 13, 1992.
  R. P. Brent, F. T. Luk, "The solution of singular-value and symmetric eigenvalue
  problems on multiprocessor arrays", SIAM J. Sci. Stat. Comput. 6, 1985.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = ["orthogonalize_columns"]

# Two or three sweeps as a rule from a good start, seven from none.
MAX_SWEEPS = 12


def orthogonalize_columns(
    factor: Float[Array, "d d"], basis: Float[Array, "d d"], is_wanted: Bool[Array, ""]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """Rotates the columns of `factor @ basis` until they are orthogonal.

    Args:
      factor: a matrix G.
      basis: orthogonal; a good guess of the right singular vectors saves sweeps.
      is_wanted: where False nothing is done.

    Returns:
      `G V` with orthogonal columns, and the orthogonal V.
    """
    d = factor.shape[1]
    tolerance = 4 * jnp.finfo(factor.dtype).eps * d**0.5
    columns = jnp.dot(factor, basis, precision=lax.Precision.HIGHEST)
    pairs = jnp.concatenate([columns, basis])
    pairs = jnp.pad(pairs, ((0, 0), (0, d % 2)))

    def is_open(state):
        sweep, worst, _ = state
        return is_wanted & (sweep < MAX_SWEEPS) & (worst > tolerance)

    def sweep(state):
        count, _, pairs = state
        rotate = lambda _, state: _rotate(state[0], state[1], len(factor))  # noqa: E731
        start = (pairs, jnp.zeros((), factor.dtype))
        pairs, worst = lax.fori_loop(0, max(pairs.shape[1] - 1, 1), rotate, start)
        return count + 1, worst, pairs

    start = (jnp.int32(0), jnp.asarray(jnp.inf, factor.dtype), pairs)
    pairs = lax.while_loop(is_open, sweep, start)[2][:, :d]
    return pairs[: len(factor)], pairs[len(factor) :]


def _rotate(pairs, worst, rows):
    """Makes column i orthogonal to column i + d/2, then moves on to other pairs."""
    left, right = jnp.split(pairs, 2, axis=1)
    a, b = (jnp.sum(x[:rows] ** 2, axis=0) for x in (left, right))
    c = jnp.sum(left[:rows] * right[:rows], axis=0)
    size = jnp.sqrt(a) * jnp.sqrt(b)
    worst = jnp.maximum(worst, jnp.max(jnp.abs(c) / jnp.where(size > 0, size, 1)))
    is_orthogonal = jnp.abs(c) <= jnp.finfo(c.dtype).eps * size
    zeta = (b - a) / (2 * jnp.where(is_orthogonal, 1, c))
    tangent = jnp.where(zeta >= 0, 1, -1) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2))
    tangent = jnp.where(is_orthogonal, 0, tangent).astype(c.dtype)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    sine = cosine * tangent
    left, right = (
        cosine[None] * left - sine[None] * right,
        sine[None] * left + cosine[None] * right,
    )
    # The first stays, all others move on by one place of a ring.
    moved_left = jnp.concatenate([left[:, :1], right[:, :1], left[:, 1:-1]], axis=1)
    moved_right = jnp.concatenate([right[:, 1:], left[:, -1:]], axis=1)
    if left.shape[1] == 1:
        moved_left, moved_right = left, right
    return jnp.concatenate([moved_left, moved_right], axis=1), worst
