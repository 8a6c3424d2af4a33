r"""The secular equation: one scalar root that turns a norm into a multiplier.

For eigenvalue gaps $\delta_i = s_i - s_1 \ge 0$ and projections $p_i$ the norm of
$w_i = p_i / (\delta_i + \theta)$ falls strictly as $\theta > 0$ grows, so
$\|w\|^2 = c$ has one root; the multiplier is $\mu = \theta - s_1$. Working with
$\theta$ instead of $\mu$ keeps the digits that cancel near the pole.

References:
  W. Gander, "Least squares with a quadratic constraint", Numer. Math. 36, 1981.
  J. J. Moré, D. C. Sorensen, "Computing a trust region step", SIAM J. Sci. Stat.
  Comput. 4, 1983.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["solve_secular"]

# Newton from the start below needed at most 9 steps on two million adversarial
# problems (gaps and projections over twelve decades, clusters, staircases, norms at
# the very edge of the hard case), in both precisions.
NUM_STEPS = 12


def solve_secular(
    gaps: Float[Array, " d"],
    projections: Float[Array, "d k"],
    norm_sq: Float[Array, "1 m"],
) -> Float[Array, "1 m"]:
    r"""Solves $\sum_i p_{ij}^2 / (\delta_i + \theta_j)^2 = c_j$ for $\theta_j > 0$.

    Newton's method on $\phi^{-1/2} - 1$, concave and increasing, climbs to the
    root from the left and cannot overshoot: no bracket, no branch, a fixed number
    of steps.

    Args:
      gaps: $\delta$, eigenvalues minus the smallest one, ascending from zero.
      projections: $p$, not all zero in any column; some weight in the bottom
        eigenspace makes sure that there is a root.
      norm_sq: $c > 0$; m = k for one equation a column, or m = 1 for a single one
        whose sum runs over the columns too.

    Returns:
      $\theta$, of the shape of `norm_sq`.
    """
    axes = 0 if norm_sq.shape[1] == projections.shape[1] else (0, 1)
    largest = jnp.max(jnp.abs(projections), axis=axes, keepdims=True)
    largest = jnp.where(largest > 0, largest, 1)
    loads = (projections / largest) ** 2
    if axes != 0:
        loads = loads.sum(1, keepdims=True)
    total = loads.sum(0, keepdims=True)
    # In this unit the loads add up to one and the wanted norm is one.
    unit = largest * jnp.sqrt(total / norm_sq)
    loads, gaps = loads / total, gaps[:, None] / unit
    step = lambda _, theta: _newton(loads, gaps, theta)  # noqa: E731
    return unit * lax.fori_loop(0, NUM_STEPS, step, _start(loads, gaps))


def _start(loads, gaps):
    r"""A guaranteed left bound of the root, within a small factor of it.

    The first bound keeps only the j lowest poles, $\sqrt{\sum_{i \le j} q_i} -
    \delta_j$. Where the other poles alone come to a norm of about one it is far too
    low, and Newton would gain a factor of 1.5 a step. The second bound adds their
    tangent $a_j - b_j \theta$ there, which lies below them because they are convex:
    $t = \delta_j + \theta$ is at least what solves $Q_j / t^2 = (1 - a_j)^+ + b_j t$.
    """
    smallest = jnp.finfo(loads.dtype).tiny ** 0.25
    # Not `associative_scan`, which a TPU would get as some hundred slices and pads.
    below = lax.cumsum(loads)
    first = jnp.max(jnp.sqrt(below) - gaps, axis=0, keepdims=True)
    first = jnp.maximum(first, smallest)
    inverse = 1 / (gaps + first)
    terms = loads * inverse**2
    missing = jnp.maximum(1 - _sum_above(terms), smallest)
    slope = jnp.maximum(2 * _sum_above(terms * inverse), smallest)
    # At the smaller of the two neither term exceeds Q / 2 t^2. On a CPU this cube
    # root is faster than `cbrt` and `pow`.
    cube_root = jnp.exp(jnp.log(below / (2 * slope)) / 3)
    bounds = jnp.minimum(jnp.sqrt(below / (2 * missing)), cube_root)
    return jnp.maximum(first, jnp.max(bounds - gaps, axis=0, keepdims=True))


def _sum_above(terms):
    """For every row the sum of the rows after it, without cancellation."""
    sums = lax.cumsum(terms, reverse=True)
    return jnp.concatenate([sums[1:], jnp.zeros_like(sums[:1])])


def _newton(loads, gaps, theta):
    inverse = 1 / (gaps + theta)
    terms = loads * inverse**2
    phi = terms.sum(0, keepdims=True)
    slope = (terms * inverse).sum(0, keepdims=True)
    # From the left it only climbs; rounding may have put the start on the right.
    return jnp.maximum(theta + phi * (jnp.sqrt(phi) - 1) / slope, theta / 2)
