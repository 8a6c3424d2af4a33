r"""Least-squares heads of many problems of one size, in tridiagonal form.

The batch is the last axis. The norm of $(S + \mu I)^{-1} r$ costs O(d) there, and the
multiplier is found by Newton's method in the logarithm of its distance to the pole,
within a bracket. No eigenvector is needed, and none is there for the hard case.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax.bounds import Relation
from lagrange_jax.numerics import tridiagonal
from lagrange_jax.numerics.linalg import column_length, diagonal
from lagrange_jax.numerics.tridiagonal import inner
from lagrange_jax.solvers.certificate import (
    INACCURATE_SHARE,
    gap_bound,
    relative_residual,
)
from lagrange_jax.solvers.quadratic import NORM_TOLERANCE, STATIONARITY_TOLERANCE
from lagrange_jax.solvers.solution import HeadSolution, Status
from lagrange_jax.statistics.spectrum import GRADED, Factor, Spectrum

__all__ = ["Batch", "Minimiser", "solve_small_heads"]

# Steps of the search for the multiplier; who needs more is solved another way.
MOST_STEPS = 24
# Nearer to the pole, in units of eps, a tie-break has a say: a matter for eigenvectors.
RESOLVED = 512


class Batch(NamedTuple):
    """Problems of one size; the last axis is theirs."""

    covariance: Float[Array, "d d b"]
    cross: Float[Array, "d k b"]
    variance: Float[Array, "k b"]
    mean_x: Float[Array, "d b"]
    mean_t: Float[Array, "k b"]
    count: Float[Array, " b"]
    wanted: Float[Array, "1 m b"]


class Minimiser(NamedTuple):
    r"""Minimisers of a batch.

    Attributes:
      kernel: the kernels.
      multiplier: their multipliers.
      curvature: lower bounds of the smallest eigenvalue of $S + \mu I$.
      is_met: whether the constraint binds.
      is_found: whether the search came to an end at a definite matrix.
      scale: bounds on the norm of S.
    """

    kernel: Float[Array, "d k b"]
    multiplier: Float[Array, "1 m b"]
    curvature: Float[Array, "1 m b"]
    is_met: Bool[Array, "1 m b"]
    is_found: Bool[Array, "1 m b"]
    scale: Float[Array, "1 1 b"]


def solve_small_heads(
    relation: Relation, spectrum: Spectrum, norm_sq: Float[Array, "b *k"]
) -> tuple[HeadSolution, Bool[Array, " b"]]:
    """Returns heads, and which of them are shown to be right.

    Args:
      relation: of the norms.
      spectrum: the problems; their eigenpairs are not looked at.
      norm_sq: the wanted norms.
    """
    assert not isinstance(spectrum.covariance, Factor)
    problem = Batch(
        spectrum.covariance,
        spectrum.cross,
        spectrum.variance,
        spectrum.mean_x,
        spectrum.mean_t,
        spectrum.count,
        norm_sq.reshape(len(norm_sq), 1, -1).astype(spectrum.cross.dtype),
    )
    problem = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), problem)
    found = _minimise(problem, relation)
    product = inner(problem.covariance[:, :, None], found.kernel[:, None])
    change = inner(found.kernel, product - 2 * problem.cross)
    objective = (problem.variance + change).sum(0)
    bias = problem.mean_t - inner(problem.mean_x[:, None], found.kernel)
    rows = _evidence(problem, found, product)
    is_sure = _is_right(problem, found, rows, objective) & jnp.isfinite(bias).all(0)
    solution = HeadSolution(
        kernel=jnp.moveaxis(found.kernel, -1, 0),
        bias=bias.T,
        objective=objective,
        status=jnp.full(objective.shape, Status.SUCCESS, jnp.int32),
        **{name: row[0].T.reshape(norm_sq.shape) for name, row in rows.items()},
    )
    return solution, is_sure


def _minimise(problem, relation):
    form, columns = tridiagonal.reduce(problem.covariance, problem.cross)
    scale = jnp.abs(form.diagonal).max(0) + 2 * jnp.abs(form.off).max(0)
    eps, lowest = jnp.finfo(scale.dtype).eps, tridiagonal.lower_bound(form, scale)
    scale, lowest = scale[None], lowest[None]
    form = form._replace(diagonal=form.diagonal - lowest)
    least = RESOLVED * eps * scale
    if relation == "at_most":
        # The multiplier is not negative; at zero the bound need not be met.
        least = jnp.maximum(least, lowest)
    theta, solved, is_found = _search(form, columns, problem.wanted[0], least)
    kernel = tridiagonal.restore(form, solved)
    multiplier, is_met = theta - lowest, jnp.full(theta.shape, True)
    if relation == "at_most":
        is_met = theta > lowest
        multiplier = jnp.where(is_met, multiplier, 0)
    # The form is that of the matrix to rounding.
    curvature = jnp.maximum(theta - 2 * eps * len(columns) * scale, multiplier)
    length = column_length(kernel, problem.wanted)
    factor = jnp.where(is_met[None], jnp.sqrt(problem.wanted) / length, 1)
    rows = (multiplier, curvature, is_met, is_found, scale)
    return Minimiser(factor * kernel, *(row[None] for row in rows))


def _search(form, columns, wanted, least):
    r"""Returns $\theta$ with $\|(T + \theta I)^{-1} g\|^2 = c$, or the least one.

    Where the sum of many poles decides, $\log \|x\|^2$ is all but a straight line in
    $\log \theta$. The convexity of $1 / (s + \theta)$ gives a start from the left.
    """
    per_bound = lambda x: x if x.shape == wanted.shape else x.sum(0, keepdims=True)  # noqa: E731
    least = jnp.broadcast_to(least, wanted.shape)
    square = per_bound(inner(columns, columns))
    product = form.diagonal[:, None] * columns**2
    beside = 2 * form.off[:, None] * columns[1:] * columns[:-1]
    mean = per_bound(product.sum(0) + beside.sum(0)) / square
    most = jnp.maximum(jnp.sqrt(square / wanted), least)
    tolerance = 8 * jnp.finfo(wanted.dtype).eps

    def step(state):
        count, _, _, _, theta, low, high, _ = state
        solved = tridiagonal.solve_shifted(form, columns, theta)
        square, slope = per_bound(solved.square), per_bound(solved.slope)
        ratio, curve = jnp.sqrt(square / wanted), square / slope
        high = jnp.where(ratio > 1, high, theta)
        is_untried = low == least
        low = jnp.where(ratio > 1, theta * (1 + tolerance), low)
        newton = theta + (ratio - 1) * curve
        by_log = theta * jnp.exp(jnp.log(ratio) * curve / theta)
        inside = lambda x: (x > low) & (x < high)  # noqa: E731
        new = jnp.where(is_untried & (newton <= low), low, jnp.sqrt(low * high))
        new = jnp.where(inside(newton), newton, new)
        new = jnp.where(inside(by_log), by_log, new)
        is_done = (jnp.abs(ratio - 1) <= tolerance) | ~jnp.isfinite(ratio)
        is_done |= high <= low
        new = jnp.where(is_done, theta, new)
        return count + 1, theta, solved.x, solved.is_positive, new, low, high, is_done

    def is_going(state):
        return (state[0] < MOST_STEPS) & ~state[-1].all()

    start = jnp.clip(most - mean, least, most)
    no = jnp.full(start.shape, False)
    state = 0, start, columns, no, start, least, most, no
    return lax.while_loop(is_going, step, state)[1:4]


def _evidence(problem, found, product):
    """The rows of a `HeadSolution`, as in `quadratic.certificate`.

    What is bounded there in each direction is here bounded in all of them at once.
    """
    wanted, kernel, multiplier = problem.wanted, found.kernel, found.multiplier
    root, eps = len(kernel) ** 0.5, jnp.finfo(kernel.dtype).eps
    residual = problem.cross - product - multiplier * kernel
    weight, pull = column_length(kernel, wanted), jnp.abs(multiplier)
    size = column_length(problem.cross, wanted) + (found.scale + pull) * weight
    spread = jnp.sqrt(_variances(problem))[:, None] * kernel
    known = jnp.sqrt(problem.variance)[None] + column_length(spread, problem.cross)
    hidden = jnp.sqrt(found.scale) * column_length(known, wanted) + pull * weight
    length = column_length(residual, wanted) + 2 * eps * root * hidden
    bound = jax.vmap(gap_bound, -1, -1)(length, found.curvature, wanted)
    slip = jnp.abs(weight**2 - wanted) + 4 * eps * root * wanted
    error = jnp.where(found.is_met, jnp.abs(weight**2 / wanted - 1), 0)
    return dict(
        multiplier=multiplier,
        norm_sq=weight**2,
        stationarity=relative_residual(residual, size),
        norm_error=error,
        gap_bound=bound + pull * slip,
        is_global=jnp.full(wanted.shape, True),
        is_hard_case=jnp.full(wanted.shape, False),
    )


def _is_right(problem, found, rows, objective):
    """Whether the evidence leaves no question open, of each problem."""
    info, wanted = jnp.finfo(objective.dtype), problem.wanted
    is_right = (
        found.is_found
        & (rows["stationarity"] <= STATIONARITY_TOLERANCE * info.eps)
        & (rows["norm_error"] <= NORM_TOLERANCE * info.eps)
        & (found.is_met | (rows["norm_sq"] <= wanted))
        & (wanted > 0)
        & jnp.isfinite(wanted)
    )
    spread, variance = _variances(problem), problem.variance.sum(0)
    least = jnp.where(spread > 0, spread, jnp.inf).min(0)
    is_even = info.eps * len(spread) * spread.max(0) <= GRADED * least
    size, norm_sq = variance + found.scale[0, 0], rows["norm_sq"][0].sum(0)
    is_large = size > (1 + norm_sq) * (info.tiny / info.eps)
    # Below this the difference of moments is rounding.
    is_exact = objective > NORM_TOLERANCE * info.eps * variance
    unit = jnp.maximum(variance, objective)
    is_certain = rows["gap_bound"][0].sum(0) <= INACCURATE_SHARE * unit
    is_right = is_right[0].all(0) & is_even & is_large & is_exact & is_certain
    return is_right & (problem.count > 0)


def _variances(problem):
    """Variances of the features."""
    return jax.vmap(diagonal, -1, -1)(problem.covariance)
