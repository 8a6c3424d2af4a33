"""Many small symmetric matrices in tridiagonal form, the batch as the last axis.

A matrix of 15 rows fills an eighth of the lanes of a TPU and costs a library call on a
CPU. Here entry (i, j) of all matrices is one vector, every step is a loop over rows or
columns and all matrices take it at once, without an eigenvector.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["Factored", "Tridiagonal", "extreme_eigenvalues", "tridiagonalize"]

# Shifts tried at once to enclose an eigenvalue, and the passes that enclose the largest
# one, which serves as a scale.
NUM_SHIFTS = 3
NUM_PASSES_OF_A_SCALE = 6
UNROLL = 2
# Entries of matrices that a CPU's cache holds.
TILE_ENTRIES = 2**17
# Rows that are eliminated before the matrix is cut.
STAGE = 8


class Tridiagonal(NamedTuple):
    r"""Symmetric matrices $S = \text{unit} \cdot Q T Q^T$ with tridiagonal $T$.

    Attributes:
      diagonal: of $T$, whose entries are at most about one.
      beside: the entries next to the diagonal.
      reflectors: $Q$ as a product of reflections $I - v v^T$, first row first.
      unit: the largest entry of $S$ in size; one if $S$ is zero.
    """

    diagonal: Float[Array, "d b"]
    beside: Float[Array, "d-1 b"]
    reflectors: Float[Array, "d-2 d b"]
    unit: Float[Array, " b"]

    def rotate(self, kernel: Float[Array, "d k b"], *, back: bool) -> Array:
        r"""Returns $Q^T$ times the kernel, or $Q$ times it on the way back."""

        def reflect(kernel, v):
            v = v[:, None]
            return kernel - v * jnp.sum(v * kernel, 0, keepdims=True), None

        return lax.scan(reflect, kernel, self.reflectors, reverse=back)[0]

    def multiply(self, kernel: Float[Array, "d k b"]) -> Float[Array, "d k b"]:
        """Returns $T$ times the kernel."""
        beside = self.beside[:, None]
        product = self.diagonal[:, None] * kernel
        product = product.at[1:].add(beside * kernel[:-1])
        return product.at[:-1].add(beside * kernel[1:])

    def factor(self, shift: Float[Array, "m b"]) -> "Factored":
        r"""Returns $T + \text{shift}\, I$ in factors, for each of the shifts.

        The shifted matrices must be positive definite: nothing is pivoted.
        """

        def eliminate(state, entry):
            inverse, before = state
            lower = before * inverse
            inverse = 1 / (entry[0][None] + shift - before * lower)
            return (inverse, entry[1][None]), (inverse, lower)

        after = jnp.pad(self.beside, ((0, 1), (0, 0)))
        start = jnp.ones_like(shift), jnp.zeros_like(after[:1])
        _, factors = lax.scan(eliminate, start, (self.diagonal, after), unroll=UNROLL)
        return Factored(*factors)


class Factored(NamedTuple):
    r"""Tridiagonal matrices as $L D L^T$ with unit lower bidiagonal $L$.

    Attributes:
      inverse: $1 / D$, one column a matrix.
      lower: the entries of $L$ before the diagonal; the first is zero.
    """

    inverse: Float[Array, "d m b"]
    lower: Float[Array, "d m b"]

    def solve(self, kernel: Float[Array, "d k b"]) -> Float[Array, "d k b"]:
        """Returns the inverse times the kernel; all columns go in step."""

        def forth(before, entry):
            after = entry[0] - entry[1] * before
            return after, after

        def back(state, entry):
            after, lower_after = state
            row = entry[0] * entry[1] - lower_after * after
            return (row, entry[2]), row

        zero = jnp.zeros_like(kernel[0])
        _, rows = lax.scan(forth, zero, (kernel, self.lower), unroll=UNROLL)
        start, entries = (zero, jnp.zeros_like(self.lower[0])), (rows, *self)
        return lax.scan(back, start, entries, reverse=True, unroll=UNROLL)[1]


def tridiagonalize(matrix: Float[Array, "d d b"]) -> Tridiagonal:
    """Returns the tridiagonal form of symmetric matrices of at least three rows.

    On a CPU as many at a time as its cache holds.
    """
    d, _, batch = matrix.shape
    tile = max(TILE_ENTRIES // d**2, 1)
    if tile >= batch:
        return _tridiagonalize(matrix)

    def tiled(matrix):
        count = -(-batch // tile)
        matrix = jnp.pad(matrix, ((0, 0), (0, 0), (0, count * tile - batch)))
        tiles = jnp.moveaxis(matrix.reshape(d, d, count, tile), 2, 0)
        merge = lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)  # noqa: E731
        return jax.tree.map(
            lambda x: merge(x)[..., :batch], lax.map(_tridiagonalize, tiles)
        )

    return lax.platform_dependent(matrix, cpu=tiled, default=_tridiagonalize)


def _tridiagonalize(matrix):
    d = len(matrix)
    unit = jnp.max(jnp.abs(matrix), (0, 1))
    unit = jnp.where(unit > 0, unit, 1)
    rest, parts = matrix / unit[None, None], []
    # What is done is cut off now and then: half of the work for some more code.
    for start in range(0, d - 2, STAGE):
        rest, done = _eliminate(rest, min(STAGE, d - 2 - start))
        pad = [(0, 0), (start, 0), (0, 0)]
        parts.append([done[0], done[1], jnp.pad(done[2], pad)])
    index = jnp.arange(2)
    diagonal, beside, reflectors = map(jnp.concatenate, zip(*parts, strict=True))
    diagonal = jnp.concatenate([diagonal, rest[index, index]])
    return Tridiagonal(
        diagonal, jnp.concatenate([beside, rest[1:, 0]]), reflectors, unit
    )


def _eliminate(matrix, count):
    """Takes some rows to tridiagonal form; returns the others, and what is done."""
    rows = jnp.arange(len(matrix))[:, None]

    def step(matrix, j):
        def reflector():
            column = lax.dynamic_index_in_dim(matrix, j, 0, keepdims=False)
            return _reflector(jnp.where(rows > j, column, 0), rows == j + 1)

        def direction():
            # The sum over the second axis: that over the first is ten times slower.
            w = jnp.sum(matrix * v[None], 1)
            return w - v * (jnp.sum(w * v, 0, keepdims=True) / 2)

        v = _stored(j, reflector)
        w = _stored(j, direction)
        return matrix - v[:, None] * w[None] - w[:, None] * v[None], v

    matrix, reflectors = lax.scan(step, matrix, jnp.arange(count))
    index = jnp.arange(count)
    done = matrix[index, index], matrix[index + 1, index], reflectors
    return matrix[count:, count:], done


def _stored(index, compute):
    """Computes an array once, where a compiler would do so for every entry it serves.

    The index is not negative; that much a compiler does not see.
    """
    like = jax.eval_shape(compute)
    return lax.cond(index >= 0, compute, lambda: jnp.zeros(like.shape, like.dtype))


def _reflector(column, is_first):
    """Returns v such that $I - v v^T$ takes the column to a multiple of its first."""
    length = jnp.sqrt(jnp.sum(column**2, 0, keepdims=True))
    first = jnp.sum(jnp.where(is_first, column, 0), 0, keepdims=True)
    pivot = first + jnp.where(first < 0, -length, length)
    # |v|^2, which shall be two, is 2 length |pivot| before it is scaled.
    size = length * jnp.abs(pivot)
    scale = jnp.where(size > 0, lax.rsqrt(jnp.where(size > 0, size, 1)), 0)
    return jnp.where(is_first, pivot, column) * scale


def extreme_eigenvalues(matrix: Tridiagonal) -> Float[Array, "2 b"]:
    """Returns the smallest eigenvalue of $T$, to rounding, and the size of the largest.

    The latter to a hundredth per mille of it: from above, as a scale.
    """
    diagonal, beside = matrix.diagonal, jnp.abs(matrix.beside)
    before = jnp.pad(beside, ((1, 0), (0, 0)))
    reach = before + jnp.pad(beside, ((0, 1), (0, 0)))
    low, high = jnp.min(diagonal - reach, 0), jnp.max(diagonal + reach, 0)
    bits, squares = 2 - jnp.finfo(diagonal.dtype).machep, before**2
    num_passes = -(-bits // 2)
    lowest = _lowest(diagonal, squares, low, high, num_passes)[0]
    highest = _lowest(-diagonal, squares, -high, -low, NUM_PASSES_OF_A_SCALE)[0]
    return jnp.stack([lowest, -highest])


def _lowest(diagonal, squares, low, high, num_passes):
    """The matrix minus a shift below all eigenvalues has positive pivots only."""
    dtype = diagonal.dtype
    tiny = jnp.finfo(dtype).tiny ** 0.5
    steps = jnp.arange(1, NUM_SHIFTS + 1, dtype=dtype)[:, None] / (NUM_SHIFTS + 1)

    def narrow(_, bracket):
        low, high = bracket
        shifts = low[None] + (high - low)[None] * steps

        def eliminate(state, entry):
            pivot, least = state
            pivot = entry[0][None] - shifts - entry[1][None] / pivot
            return (jnp.maximum(pivot, tiny), jnp.minimum(least, pivot)), None

        start = jnp.ones_like(shifts), jnp.ones_like(shifts)
        (_, least), _ = lax.scan(eliminate, start, (diagonal, squares), unroll=UNROLL)
        is_below = least > 0
        low = jnp.max(jnp.where(is_below, shifts, low[None]), 0)
        return low, jnp.min(jnp.where(is_below, high[None], shifts), 0)

    return lax.fori_loop(0, num_passes, narrow, (low, high))
