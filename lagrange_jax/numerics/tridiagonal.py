"""Symmetric matrices in tridiagonal form: solves and extreme eigenvalues.

Householder reflections take a matrix there in half of the time of an eigendecomposition
or less; after that a solve takes O(d).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["Factored", "Tridiagonal", "extreme_eigenvalues", "tridiagonalize"]

# Shifts tried at once to enclose an eigenvalue.
NUM_SECTIONS = 128


class Tridiagonal(NamedTuple):
    r"""A symmetric matrix $S = \text{unit} \cdot Q T Q^T$ with tridiagonal $T$.

    Attributes:
      diagonal: of $T$, whose entries are at most about one.
      beside: the entries next to the diagonal.
      reflectors: Householder vectors of $Q$ but for its first row and column, as LAPACK
        packs them.
      coefficients: their coefficients.
      unit: the largest entry of $S$ in size; one if $S$ is zero.
    """

    diagonal: Float[Array, " d"]
    beside: Float[Array, " d-1"]
    reflectors: Float[Array, "d-1 d-1"]
    coefficients: Float[Array, " d-1"]
    unit: Float[Array, ""]

    def rotate(self, kernel: Float[Array, "d k"], *, back: bool) -> Array:
        r"""Returns $Q^T$ times the kernel, or $Q$ times it on the way back."""
        rest = lax.linalg.ormqr(
            self.reflectors, self.coefficients, kernel[1:], transpose=not back
        )
        return jnp.concatenate([kernel[:1], rest])

    def multiply(self, kernel: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """Returns $T$ times the kernel."""
        beside = self.beside[:, None]
        product = self.diagonal[:, None] * kernel
        product = product.at[1:].add(beside * kernel[:-1])
        return product.at[:-1].add(beside * kernel[1:])

    def factor(self, shift: Float[Array, "1 m"]) -> "Factored":
        r"""Returns $T + \text{shift}\, I$ in factors, for each of the shifts.

        The shifted matrices must be positive definite: nothing is pivoted.
        """
        shift, beside = shift[0], jnp.pad(self.beside, (1, 0))

        def eliminate(pivot, entry):
            pivot = entry[0] + shift - entry[1] / pivot
            return pivot, pivot

        entries = self.diagonal, beside**2
        _, pivots = lax.scan(eliminate, jnp.ones_like(shift), entries)
        return Factored(pivots, beside[1:, None] / pivots[:-1])


class Factored(NamedTuple):
    r"""A tridiagonal matrix as $L D L^T$ with unit lower bidiagonal $L$.

    Attributes:
      pivots: $D$, one column a matrix.
      lower: the entries of $L$ next to the diagonal.
    """

    pivots: Float[Array, "d m"]
    lower: Float[Array, "d-1 m"]

    def solve(self, kernel: Float[Array, "d k"]) -> Float[Array, "d k"]:
        """Returns the inverse times the kernel; all columns go in step."""

        def substitute(before, entry):
            after = entry[0] - entry[1] * before
            return after, after

        start = jnp.zeros_like(kernel[0])
        run = functools.partial(lax.scan, substitute, start)
        _, rows = run((kernel, jnp.pad(self.lower, ((1, 0), (0, 0)))))
        rows = rows / self.pivots
        back = jnp.pad(self.lower, ((0, 1), (0, 0)))
        return run((rows, back), reverse=True)[1]


def tridiagonalize(matrix: Float[Array, "d d"]) -> Tridiagonal:
    """Returns the tridiagonal form of a symmetric matrix of at least three rows."""
    unit = jnp.max(jnp.abs(matrix))
    unit = jnp.where(unit > 0, unit, 1)
    reflectors, diagonal, beside, coefficients = lax.linalg.tridiagonal(matrix / unit)
    return Tridiagonal(diagonal, beside, reflectors[1:, :-1], coefficients, unit)


def extreme_eigenvalues(matrix: Tridiagonal) -> Float[Array, " 2"]:
    """Returns the smallest and the largest eigenvalue of $T$, to rounding."""
    diagonal, beside = matrix.diagonal, jnp.abs(matrix.beside)
    before, after = jnp.pad(beside, (1, 0)), jnp.pad(beside, (0, 1))
    reach = before + after

    def lowest(diagonal):
        low, high = jnp.min(diagonal - reach), jnp.max(diagonal + reach)
        return _lowest(diagonal, before**2, low, high)

    low, minus_high = jax.vmap(lowest)(jnp.stack([diagonal, -diagonal]))
    return jnp.stack([low, -minus_high])


def _lowest(diagonal, squares, low, high):
    """The matrix minus a shift below all eigenvalues has positive pivots only."""
    dtype = diagonal.dtype
    tiny = jnp.finfo(dtype).tiny ** 0.5
    steps = jnp.linspace(0, 1, NUM_SECTIONS + 2, dtype=dtype)[1:-1]

    def narrow(_, bracket):
        low, high = bracket
        shifts = low + (high - low) * steps

        def eliminate(state, entry):
            pivot, is_below = state
            pivot = entry[0] - shifts - entry[1] / pivot
            is_below = is_below & (pivot > 0)
            return (jnp.maximum(pivot, tiny), is_below), None

        start = jnp.ones_like(shifts), jnp.full(shifts.shape, True)
        (_, is_below), _ = lax.scan(eliminate, start, (diagonal, squares), unroll=8)
        low = jnp.max(jnp.where(is_below, shifts, low))
        return low, jnp.min(jnp.where(is_below, high, shifts))

    bits = 2 - jnp.finfo(dtype).machep
    num_passes = -(-bits // (NUM_SECTIONS.bit_length() - 1))
    return lax.fori_loop(0, num_passes, narrow, (low, high))[0]
