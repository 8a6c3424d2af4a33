r"""Minimisers on spheres for many small problems at once: no eigenvectors, no `eigh`.

Let $T = Q^T S Q$ be tridiagonal and $s_1$ its smallest eigenvalue. Every output has its
own root $\theta > 0$ of $\|(T - s_1 I + \theta I)^{-1} Q^T r\|^2 = c$, found by solves
in O(d). The batch is the last axis of every array.

**Hard case.** A shift $\theta$ below the rounding error of a solve means nothing. The
root is not looked for there: the missing length is put along the bottom eigenspace,
found by inverse iteration from $r$, or from the tie-break where $r$ has no part in it.

References:
  J. J. Moré, D. C. Sorensen, "Computing a trust region step", SIAM J. Sci. Stat.
  Comput. 4, 1983.
  N. I. M. Gould, S. Lucidi, M. Roma, P. L. Toint, "Solving the trust-region
  subproblem using the Lanczos method", SIAM J. Optim. 9, 1999.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from lagrange_jax.numerics.batched_tridiagonal import (
    extreme_eigenvalues,
    tridiagonalize,
)
from lagrange_jax.numerics.linalg import column_length, column_sum

__all__ = ["SpherePoint", "in_batches", "on_spheres"]

# Shifts below this many eps drown in the rounding of a tridiagonal solve.
SMALLEST_SHIFT = 16
# The inverse iteration of a tie-break has a shift so many times larger.
TIE_SHIFT = 4
# A part of a load that rounding alone may produce, in eps.
NOISE = 4
# Steps of inverse iteration from the smallest shift. One divides what lies a thousand
# shifts above the bottom by a thousand.
NUM_INVERSE_STEPS = 3
# The bracket of a root is halved on a logarithmic scale while its ends differ by
# more than this factor; within it Newton's method converges faster.
NEWTON_RANGE = 4.0
# Of the bracketing iteration; 5 to 9 is what it takes.
MAX_STEPS = 40
# Where this is the faster way: measured, see experiments/benchmarks/README.md.
SIZES = range(3, 65)
LEAST_BATCH = 128


class SpherePoint(NamedTuple):
    """A minimiser on a sphere, or many of them along a last axis.

    Attributes:
      kernel: the minimiser.
      multiplier: its multiplier.
      theta: the multiplier plus the smallest eigenvalue, without cancellation.
      is_met: whether the constraint binds.
      is_hard_case: whether the tie-break decided a part of it.
      ends: the smallest and the largest eigenvalue.
    """

    kernel: Float[Array, "d k *b"]
    multiplier: Float[Array, "1 m *b"]
    theta: Float[Array, "1 m *b"]
    is_met: Bool[Array, "1 m *b"]
    is_hard_case: Bool[Array, "1 m *b"]
    ends: Float[Array, "2 *b"]


def _is_small_batch(size: int, shape: tuple[int, int]) -> bool:
    """Whether so many heads of this shape are solved faster together."""
    d, k = shape
    return size >= LEAST_BATCH and d in SIZES and k <= d


def in_batches(solve: Callable) -> Callable:
    """Returns `solve(spectrum, norm_sq, tie_break)`, which under `vmap` goes together.

    Args:
      solve: returns the `SpherePoint` of one spectrum that has its covariance, on the
        sphere and not inside: the solution of least norm asks which eigenvalues are
        zero, which a tridiagonal form does not tell.
    """

    @custom_vmap
    def solved(spectrum, norm_sq, tie_break):
        return solve(spectrum, norm_sq, tie_break)

    @solved.def_vmap
    def rule(size, in_batched, spectrum, norm_sq, tie_break):
        covariance, cross = spectrum.covariance, spectrum.cross
        # One covariance for all: its eigendecomposition serves them too.
        if in_batched[0].covariance and _is_small_batch(size, tie_break.shape[-2:]):
            arrays = covariance, cross, norm_sq, tie_break
            batched = in_batched[0].covariance, in_batched[0].cross, *in_batched[1:]
            arrays = [_last(x, b, size) for x, b in zip(arrays, batched, strict=True)]
            point = on_spheres(*arrays)
            point = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), point)
        else:
            axes = jax.tree.map(
                lambda is_batched: 0 if is_batched else None, in_batched
            )
            point = jax.vmap(solve, axes, axis_size=size)(spectrum, norm_sq, tie_break)
        return point, jax.tree.map(lambda _: True, point)

    return solved


def _last(x, is_batched, size):
    """Moves the batch to the last axis."""
    if is_batched:
        return jnp.moveaxis(x, 0, -1)
    return jnp.broadcast_to(x[..., None], (*x.shape, size))


def on_spheres(
    covariance: Float[Array, "d d b"],
    cross: Float[Array, "d k b"],
    norm_sq: Float[Array, "1 m b"],
    tie_break: Float[Array, "d k b"],
) -> SpherePoint:
    """Returns the minimisers on spheres.

    Args:
      covariance: of the features.
      cross: covariance of features and targets.
      norm_sq: the wanted norms, one a column or one for all.
      tie_break: kernels with unit columns.
    """
    matrix = tridiagonalize(covariance)
    low, high = extreme_eigenvalues(matrix)[:, None, None]
    unit = matrix.unit[None, None]
    load = column_length(cross, norm_sq)
    load = jnp.where(load > 0, load, 1)
    loads = matrix.rotate(cross, back=False) / load
    radius = jnp.sqrt(norm_sq)
    # From here on the loads have length one, and so has the matrix.
    wanted = radius * unit / load
    direction, theta, is_free = _on_sphere(matrix, low, high, loads, wanted, tie_break)
    pull = column_sum(direction * loads, norm_sq) * load / radius
    curvature = column_sum(direction * matrix.multiply(direction), norm_sq)
    # The one of least residual; a kernel spread over eigenvalues that rounding cannot
    # tell from the smallest one would ask for less than any minimiser has.
    multiplier = jnp.maximum(pull / unit - curvature, -low) * unit
    kernel, is_met = radius * direction, jnp.full(norm_sq.shape, True)
    kernel = matrix.rotate(kernel, back=True)
    length = column_length(kernel, norm_sq)
    kernel = kernel * (radius / length)
    ends = jnp.concatenate([low, high])[:, 0] * unit[0]
    return SpherePoint(kernel, multiplier, theta * unit, is_met, is_free, ends)


def _on_sphere(matrix, low, high, loads, wanted, tie_break):
    """The minimiser divided by its length, and whether the tie-break was needed."""
    top = jnp.maximum(jnp.abs(low), jnp.abs(high))
    eps = jnp.finfo(top.dtype).eps
    smallest = SMALLEST_SHIFT * eps * jnp.where(top > 0, top, 1)

    def factor(theta):
        return matrix.factor((theta - low)[0])

    ratio = functools.partial(_ratio, factor, loads, wanted)
    # A solution is no longer than its load over theta.
    theta, is_beyond = _root(ratio, smallest, 1 / wanted)

    factored = factor(theta)
    point = factored.solve(loads) / wanted
    onward = factored.solve(point)

    def bottom(rows, shift):
        factored = factor(jnp.broadcast_to(shift, wanted.shape))
        for _ in range(NUM_INVERSE_STEPS):
            rows = shift * factored.solve(rows)
        return rows

    def beyond():
        at_bottom = bottom(loads, smallest)
        is_free = is_beyond & (column_length(at_bottom, wanted) <= NOISE * eps)
        # Far from what rounding makes of equal eigenvalues, it keeps its direction.
        free = bottom(matrix.rotate(tie_break, back=False), TIE_SHIFT * smallest)
        # What rounding has put into free directions is left out.
        return (
            jnp.where(is_free, point - smallest * onward, point),
            jnp.where(is_free, free, jnp.where(is_beyond, at_bottom, onward)),
            is_free,
        )

    def within():
        return point, onward, jnp.zeros_like(is_beyond)

    point, onward, is_free = lax.cond(jnp.any(is_beyond), beyond, within)
    return _extended(point, onward, wanted), theta, is_free


def _extended(point, onward, like):
    """Goes on from a point until the length is one.

    Scaling the point instead would also scale what is large, next to a pole that
    rounding hides.
    """
    length = column_length(onward, like)
    onward = onward / jnp.where(length > 0, length, 1)
    missing = 1 - column_sum(point**2, like)
    slope = column_sum(point * onward, like)
    root = jnp.sqrt(jnp.maximum(slope**2 + missing, 0))
    total = slope + root
    point = point + onward * missing / jnp.where(total > 0, total, 1)
    return point / column_length(point, like)


def _ratio(factor, loads, wanted, theta):
    """Wanted over found length, concave and rising in theta, and a left bound.

    That is where the tangent reaches one.
    """
    factored = factor(theta)
    point = factored.solve(loads)
    length = column_length(point, wanted)
    length = jnp.where(length > 0, length, jnp.finfo(length.dtype).tiny)
    point = point / length
    slope = column_sum(point * factored.solve(point), wanted)
    step = (length / wanted - 1) / jnp.where(slope > 0, slope, 1)
    return wanted / length, theta + step


def _root(ratio, smallest, largest):
    """Where the ratio is one, at least `smallest`; and whether it is less than that.

    The tangent bounds the root from the left and the secant from the right.
    """
    left = jnp.broadcast_to(smallest, largest.shape)
    right = jnp.maximum(largest, 2 * left)
    (left_ratio, left_bound), (right_ratio, right_bound) = ratio(left), ratio(right)
    is_beyond = left_ratio >= 1
    low = jnp.clip(jnp.maximum(left_bound, right_bound), left, right)
    low = jnp.where(is_beyond, left, low)
    high = jnp.where(is_beyond, left, right)
    tolerance = 1 + 4 * jnp.finfo(left.dtype).eps

    def is_open(state):
        low, high, *_, count = state
        return jnp.any(high > low * tolerance) & (count < MAX_STEPS)

    def narrow(state):
        low, high, left, left_ratio, right, right_ratio, count = state
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        theta = jnp.where(high > NEWTON_RANGE * low, middle, low)
        found, bound = ratio(theta)
        is_left = found < 1
        left, left_ratio = _where(is_left, (theta, found), (left, left_ratio))
        right, right_ratio = _where(is_left, (right, right_ratio), (theta, found))
        rise = right_ratio - left_ratio
        secant = left + (1 - left_ratio) * (right - left) / jnp.where(rise > 0, rise, 1)
        low = jnp.where(is_beyond, low, jnp.maximum(low, bound))
        high = jnp.minimum(high, jnp.where(rise > 0, secant, right))
        return low, high, left, left_ratio, right, right_ratio, count + 1

    start = low, high, left, left_ratio, right, right_ratio, jnp.int32(0)
    theta, *_ = lax.while_loop(is_open, narrow, start)
    return theta, is_beyond


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
