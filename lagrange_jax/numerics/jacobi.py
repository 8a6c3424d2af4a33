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

# Five to nine as a rule; a few more for large matrices of low rank.
MAX_SWEEPS = 12
# Parts of a column that rounding alone may produce, in eps of what it is made of.
NOISE = 2


def orthogonalize_columns(
    factor: Float[Array, "n d"], is_wanted: Bool[Array, ""]
) -> tuple[Float[Array, "n d"], Float[Array, "d d"]]:
    """Rotates the columns of a matrix G until they are orthogonal.

    Args:
      factor: G.
      is_wanted: where False nothing is done.

    Returns:
      `G V` with orthogonal columns, and the orthogonal V.
    """
    rows, d = factor.shape
    # Columns lie in rows here, which computers move with less ado.
    sizes = jnp.sum(factor**2, axis=0)
    pairs = jnp.concatenate([factor.T, jnp.eye(d, dtype=factor.dtype)], axis=1)
    pairs = jnp.pad(pairs, ((0, d % 2), (0, 0)))

    def sweep(state):
        count, _, pairs = state
        turns = max(len(pairs) - 1, 1)
        pairs = lax.fori_loop(0, turns, lambda _, pairs: _rotate(pairs, rows), pairs)
        return count + 1, _is_open(pairs[:, :rows], pairs[:, rows:], sizes), pairs

    def is_open(state):
        return state[1] & (state[0] < MAX_SWEEPS)

    pairs = lax.while_loop(is_open, sweep, (jnp.int32(0), is_wanted, pairs))[2][:d]
    return pairs[:, :rows].T, pairs[:, rows:].T


def _is_open(columns, basis, sizes):
    """Whether two columns have more in common than rounding puts there."""
    eps, d = jnp.finfo(columns.dtype).eps, basis.shape[1]
    product = jnp.dot(columns, columns.T, precision=lax.Precision.HIGHEST)
    length = jnp.sqrt(jnp.sum(columns**2, axis=1))
    noise = NOISE * eps * jnp.sqrt(jnp.sum(sizes[None] * basis**2, axis=1))
    length, most = length + noise, 4 * eps * d**0.5 * length + noise
    limit = length[:, None] * most[None] + most[:, None] * length[None]
    upper = jnp.triu(jnp.ones(product.shape, bool), 1)
    return jnp.any(upper & (jnp.abs(product) > limit))


def _rotate(pairs, rows):
    """Makes column i orthogonal to column i + d/2, then moves on to other pairs."""
    left, right = jnp.split(pairs, 2)
    a, b = (jnp.sum(x[:, :rows] ** 2, axis=1) for x in (left, right))
    c = jnp.sum(left[:, :rows] * right[:, :rows], axis=1)
    is_orthogonal = jnp.abs(c) <= jnp.finfo(c.dtype).eps * jnp.sqrt(a) * jnp.sqrt(b)
    zeta = (b - a) / (2 * jnp.where(is_orthogonal, 1, c))
    tangent = jnp.where(zeta >= 0, 1, -1) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2))
    tangent = jnp.where(is_orthogonal, 0, tangent).astype(c.dtype)
    cosine = (1 / jnp.sqrt(1 + tangent**2))[:, None]
    sine = cosine * tangent[:, None]
    left, right = cosine * left - sine * right, sine * left + cosine * right
    if len(left) == 1:
        return jnp.concatenate([left, right])
    # The first stays, all others move on by one place of a ring.
    return jnp.concatenate([left[:1], right[:1], left[1:-1], right[1:], left[-1:]])
