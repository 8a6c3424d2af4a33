r"""Many small symmetric matrices at once, in tridiagonal form.

The batch is the last axis: every step is one operation on all of its members, where a
library takes them one by one. What an eigendecomposition is asked for comes from the
tridiagonal form in O(d): solutions of shifted systems, and the smallest eigenvalue.

Sums run in loops: on a CPU a sum over a leading axis is not vectorised, and what feeds
an operation is computed again inside it for every entry, unless it comes from a loop.

References:
  G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th ed., 2013, section 8.3.
  B. N. Parlett, "Laguerre's method applied to the matrix eigenvalue problem",
  Math. Comp. 18, 1964.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = [
    "Shifted",
    "Tridiagonal",
    "inner",
    "lower_bound",
    "reduce",
    "restore",
    "solve_shifted",
]

# Ample for simple eigenvalues; towards one of many the bound only comes nearer.
LAGUERRE_STEPS = 24


class Tridiagonal(NamedTuple):
    r"""Matrices $A = H T H^T$ with T tridiagonal and H a product of reflections.

    Attributes:
      diagonal: of T.
      off: beside the diagonal.
      reflectors: $v_j$ of the reflections $I - v_j v_j^T$, in their order.
    """

    diagonal: Float[Array, "d b"]
    off: Float[Array, "d-1 b"]
    reflectors: Float[Array, "d-2 d b"]


class Shifted(NamedTuple):
    r"""Solutions $x = (T + \theta I)^{-1} g$.

    Attributes:
      x: the solutions.
      square: $\|x\|^2$ of each column.
      slope: $x^T (T + \theta I)^{-1} x$, minus half the derivative of the square.
      is_positive: whether $T + \theta I$ is positive definite.
    """

    x: Float[Array, "d k b"]
    square: Float[Array, "k b"]
    slope: Float[Array, "k b"]
    is_positive: Bool[Array, "m b"]


def inner(x: Array, y: Array) -> Array:
    """Returns the sum of `x[i] * y[i]`."""
    shape = jnp.broadcast_shapes(x.shape[1:], y.shape[1:])
    add = lambda i, total: total + x[i] * y[i]  # noqa: E731
    return lax.fori_loop(0, len(x), add, jnp.zeros(shape, x.dtype))


def reduce(
    matrices: Float[Array, "d d b"], columns: Float[Array, "d k b"]
) -> tuple[Tridiagonal, Float[Array, "d k b"]]:
    """Brings symmetric matrices into tridiagonal form, three columns at least.

    Args:
      matrices: the matrices.
      columns: vectors that belong to them.

    Returns:
      The form, and the vectors in its basis.
    """
    d, rows = len(matrices), jnp.arange(len(matrices))[:, None]

    def step(j, state):
        matrix, columns, reflectors = state
        reflector = _reflector(matrix[j], j, rows)
        reflectors = lax.dynamic_update_index_in_dim(reflectors, reflector, j, 0)
        v, product, along = reflectors[j], jnp.zeros_like(reflector), 0 * columns[0]

        def add(i, sums):
            product, along = sums
            return product + matrix[i] * v[i][None], along + columns[i] * v[i][None]

        product, along = lax.fori_loop(j + 1, d, add, (product, along))
        half = inner(product, v)[None] / 2

        def update(i, state):
            matrix, columns = state
            vi, w = v[i][None], product - half * v
            row = matrix[i] - vi * w - (product[i][None] - half * vi) * v
            matrix = lax.dynamic_update_index_in_dim(matrix, row, i, 0)
            row = columns[i] - vi * along
            return matrix, lax.dynamic_update_index_in_dim(columns, row, i, 0)

        return *lax.fori_loop(j, d, update, (matrix, columns)), reflectors

    reflectors = jnp.zeros((d - 2, *matrices.shape[1:]), matrices.dtype)
    state = matrices, columns, reflectors
    matrix, columns, reflectors = lax.fori_loop(0, d - 2, step, state)
    on, below = jnp.arange(d), jnp.arange(1, d)
    return Tridiagonal(matrix[on, on], matrix[below, below - 1], reflectors), columns


def _reflector(row, j, rows):
    """A vector whose reflection leaves nothing of a row beyond entry j + 1."""
    beyond = jnp.where(rows > j, row, 0)
    first = lax.dynamic_index_in_dim(beyond, j + 1, 0)
    square = inner(beyond, beyond)[None]
    length = -jnp.copysign(jnp.sqrt(square), first)
    half = square - first * length
    scale = jnp.where(half > 0, lax.rsqrt(jnp.where(half > 0, half, 1)), 0)
    return jnp.where(rows == j + 1, first - length, beyond) * scale


def restore(form: Tridiagonal, columns: Float[Array, "d k b"]) -> Array:
    """Returns vectors of the form's basis in that of the matrices."""
    count = len(form.reflectors)

    def step(i, columns):
        v = form.reflectors[count - 1 - i][:, None]
        return columns - v * inner(v, columns)[None]

    return lax.fori_loop(0, count, step, columns)


def solve_shifted(
    form: Tridiagonal, columns: Float[Array, "d k b"], shift: Float[Array, "m b"]
) -> Shifted:
    r"""Solves $(T + \theta I) x = g$.

    Args:
      form: T.
      columns: g.
      shift: $\theta$, one a column or one for all.

    Returns:
      The solutions and what is known of them. Where the shifted matrix is not positive
      definite only `is_positive` has a meaning.
    """
    off, one = form.off, jnp.zeros_like(form.off[:1])
    before, after = jnp.concatenate([one, off]), jnp.concatenate([off, one])

    def eliminate(state, row):
        pivot, y, least = state
        entry, off, g = row
        factor = off / pivot
        pivot, y = entry + shift - factor * off, g - factor * y
        return (pivot, y, jnp.minimum(least, pivot)), (1 / pivot, y / pivot)

    nothing, one = jnp.zeros_like(columns[0]), jnp.ones_like(shift)
    rows = form.diagonal[:, None], before[:, None], columns
    state = one, nothing, jnp.full_like(shift, jnp.inf)
    (_, _, least), (inverse, y) = lax.scan(eliminate, state, rows)
    factors = after[:, None] * inverse

    def substitute(x, row):
        y, factor = row
        x = y - factor * x
        return x, x

    _, x = lax.scan(substitute, nothing, (y, factors), reverse=True)

    def measure(state, row):
        u, last, square, slope = state
        x, factor, inverse = row
        u = x - last * u
        return (u, factor, square + x * x, slope + u * u * inverse), None

    state = nothing, jnp.zeros_like(shift), nothing, nothing
    (_, _, square, slope), _ = lax.scan(measure, state, (x, factors, inverse))
    return Shifted(x, square, slope, least > 0)


def lower_bound(form: Tridiagonal, scale: Float[Array, " b"]) -> Float[Array, " b"]:
    r"""Returns a shift $\sigma$ all but at the smallest eigenvalue and not above it.

    Laguerre's method from the left never passes the first root of
    $\det(T - \sigma I)$ and converges cubically to a simple one; that the pivots are
    positive shows that rounding has not carried it across.

    Args:
      form: T.
      scale: a bound on its norm, the unit of rounding.
    """
    d, rounding = len(form.diagonal), 4 * jnp.finfo(scale.dtype).eps * scale
    off = jnp.pad(jnp.abs(form.off), ((1, 1), (0, 0)))
    gershgorin = (form.diagonal - off[1:] - off[:-1]).min(0) - rounding
    squares = off[:-1] ** 2

    def step(state):
        count, _, good, tried = state
        is_below, first, second = _log_derivatives(form.diagonal, squares, tried)
        spread = jnp.maximum((d - 1) * (d * second - first**2), 0)
        gain = d / (first + jnp.sqrt(spread))
        good = jnp.where(is_below, tried, good)
        is_going = is_below & (gain > 2 * rounding)
        # Short of the root: rounding would carry the last step across.
        tried = jnp.where(is_going, tried + gain - rounding, tried)
        return count + 1, is_going, good, tried

    def is_going(state):
        return (state[0] < LAGUERRE_STEPS) & state[1].any()

    state = 0, jnp.full(scale.shape, True), gershgorin, gershgorin
    return lax.while_loop(is_going, step, state)[2]


def _log_derivatives(diagonal, squares, shift):
    r"""Whether pivots are positive, sums of $1 / (\lambda - \sigma)$ and of squares."""

    def step(state, row):
        pivot, slope, bend, first, second, least = state
        entry, square = row
        ratio = square / pivot**2
        bend = ratio * (bend - 2 * slope**2 / pivot)
        pivot, slope = entry - shift - ratio * pivot, ratio * slope - 1
        share = slope / pivot
        first, second = first - share, second + share**2 - bend / pivot
        return (pivot, slope, bend, first, second, jnp.minimum(least, pivot)), None

    nothing, one = jnp.zeros_like(shift), jnp.ones_like(shift)
    state = one, nothing, nothing, nothing, nothing, jnp.full_like(shift, jnp.inf)
    (*_, first, second, least), _ = lax.scan(step, state, (diagonal, squares))
    return least > 0, first, second
