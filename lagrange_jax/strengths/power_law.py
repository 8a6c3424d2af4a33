r"""The law of the best strength, $\lambda^* \propto N^{\text{slope}}$.

A best strength at the edge of the grid only says that the optimum is there or beyond.
Leaving it out would flatten the law, so `fit_power_law` is a censored regression. Its
intervals are those of the seeds, whatever the scatter of one seed at several sizes.

References:
  J. Tobin, "Estimation of relationships for limited dependent variables",
  Econometrica 26, 1958.
  B. Efron and C. Stein, "The jackknife estimate of variance", The Annals of
  Statistics 9, 1981.
"""

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax._checks import require_kind, require_real
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.numerics.student import t_half_width
from lagrange_jax.strengths.best import BestStrength

__all__ = ["PowerLaw", "fit_power_law", "require_confidence"]

# Standard deviations of a weak prior on the logarithm of the scatter, at the middle
# size and its change over one standard deviation of log N. It decides only where
# there are a few curves.
PRIOR_SCATTER, PRIOR_DRIFT = 2.0, 0.5

# Scatter of log strength below which curves count as without noise.
LEAST_SCATTER = 1e-4

# Steps of Newton's method; 10 are enough in simulation with half of the curves
# censored.
NUM_NEWTON = 25


class PowerLaw(NamedTuple):
    r"""The line $\mathbb{E} \log \lambda^* = \text{slope} \log N + \text{intercept}$.

    Attributes:
      slope: exponent of N.
      intercept: natural logarithm of the strength at N = 1.
      slope_interval: lower and upper end of the confidence interval.
      intercept_interval: likewise.
      is_falling: whether the whole interval of the slope lies below zero. If not,
        the curves do not show a strength that falls with N: do not extrapolate it.
      num_points: curves whose optimum is inside the grid.
      num_censored: curves of each size that only give a bound.
    """

    slope: Float[Array, ""]
    intercept: Float[Array, ""]
    slope_interval: Float[Array, "2"]
    intercept_interval: Float[Array, "2"]
    is_falling: Bool[Array, ""]
    num_points: Int[Array, ""]
    num_censored: Int[Array, " sizes"]


class _Points(NamedTuple):
    """Logarithms of best strengths `[sizes, seeds]` against standardised sizes.

    Attributes:
      x: `[sizes]` logarithms of the sizes, of mean zero and variance one.
      y: logarithms of the best strengths, or of the bounds of those censored.
      side: 0 if known, 1 if the optimum is above y, -1 if below.
      weights: 1, or 0 for a curve without information.
      scale: scatter that the prior is centred at.
    """

    x: jax.Array
    y: jax.Array
    side: jax.Array
    weights: jax.Array
    scale: jax.Array


def fit_power_law(
    sizes: Float[ArrayLike, " sizes"],
    best: BestStrength,
    *,
    confidence_level: float = 0.95,
) -> PowerLaw:
    r"""Fits the logarithm of the best strength to that of the number of examples.

    The line of greatest likelihood for normal scatter of $\log \lambda^*$ whose
    standard deviation may grow or shrink as a power of N: points count by their
    precision, and censored ones (at an edge of the grid) with the probability that
    the optimum lies beyond. The strength is the geometric mean over seeds, and so the
    median.

    Intervals: Student's t with the jackknife over seeds, which needs neither normal
    scatter nor independence of the sizes of one seed. In simulation with 4, 8 and 16
    seeds, scatter that grows tenfold with N, and a tenth of the curves censored at
    one end, 95% intervals hold the truth in at least 93% of the cases.

    Args:
      sizes: numbers of examples, positive, integer or real; at least two.
      best: best strengths `[sizes, seeds]`.
      confidence_level: probability with which an interval holds the truth.

    Returns:
      The `PowerLaw`; NaN where fewer than two sizes have an optimum inside the grid,
      and intervals are NaN where there is one seed only.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if shapes do not fit, sizes are not positive, or the confidence
        level is not between 0 and 1.

    Warns:
      UserWarning: if the slope is known and not negative.

    Example:
      Losses of three seeds that are least at the strength 1 / N:

      >>> strengths, sizes = jnp.geomspace(1e-4, 1.0, 9), jnp.array([10.0, 100, 1000])
      >>> losses = (jnp.log(strengths)[:, None] + jnp.log(sizes)[None]) ** 2
      >>> best = lj.best_strength(jnp.stack([losses] * 3, axis=-1), strengths)
      >>> print(f"{lj.fit_power_law(sizes, best).slope:.2f}")
      -1.00
    """
    _check(sizes, best)
    require_confidence(confidence_level)
    law = _fit_power_law(jnp.asarray(sizes), best, float(confidence_level))
    if not isinstance(law.slope, Tracer) and law.slope >= 0:
        warnings.warn(
            f"the best strength does not fall with N: slope {float(law.slope):.2f}. "
            "Its curves may have no dip beyond the noise, or too few seeds; see "
            "extrapolate_strength.",
            stacklevel=2,
        )
    return law


def require_confidence(confidence_level: float) -> None:
    """Checks a confidence level.

    Raises:
      TypeError: if it is not a number.
      ValueError: if it is not between 0 and 1.
    """
    if not isinstance(confidence_level, int | float | np.number):
        raise TypeError(
            f"expected confidence_level as a number; got {confidence_level!r}."
        )
    if not 0 < confidence_level < 1:
        raise ValueError(
            "expected confidence_level as a probability between 0 and 1, say 0.95; "
            f"got {confidence_level!r}."
        )


def _check(sizes, best):
    require_kind("best", best, BestStrength)
    found = require_real("sizes", sizes)
    shape = jnp.shape(best.strength)
    fields = {jnp.shape(x) for x in best if x is not None}
    if len(shape) != 2 or fields != {shape} or found != shape[:1]:
        raise ValueError(
            "expected sizes [sizes] and best strengths [sizes, seeds]; got "
            f"{found} and {sorted(fields)}. For more axes use jax.vmap."
        )
    if len(sizes) < 2:
        raise ValueError(f"expected two sizes at least; got {len(sizes)}.")
    if not isinstance(sizes, Tracer):
        values = np.asarray(sizes, float)
        if not np.isfinite(values).all() or (values <= 0).any():
            raise ValueError(
                f"expected sizes as positive numbers of examples; got {values}."
            )


@partial(jax.jit, static_argnums=2)
def _fit_power_law(sizes, best, confidence_level):
    dtype = best.strength.dtype
    log_sizes = jnp.log(sizes.astype(dtype))
    centre, spread = log_sizes.mean(), log_sizes.std()
    is_line = spread > jnp.sqrt(jnp.finfo(dtype).eps)
    spread = jnp.where(is_line, spread, 1)
    points = _points(best, (log_sizes - centre) / spread, dtype)
    num_seeds = best.strength.shape[1]
    others = 1 - jnp.eye(num_seeds, dtype=dtype)
    parts = jnp.concatenate([jnp.ones((1, num_seeds), dtype), others])

    def fit(part):
        chosen = points._replace(weights=points.weights * part[None])
        middle, slope = _most_likely(chosen)
        return jnp.stack([slope / spread, middle - slope * centre / spread])

    lines = jax.vmap(fit)(parts)
    known = (points.side == 0) & (points.weights > 0)
    is_fit = is_line & (known.any(1).sum() > 1)
    line = jnp.where(is_fit, lines[0], jnp.nan)
    half = _half_width(lines[1:], confidence_level)
    ends = line[None] + jnp.stack([-half, half])
    return PowerLaw(
        slope=line[0],
        intercept=line[1],
        slope_interval=ends[:, 0],
        intercept_interval=ends[:, 1],
        is_falling=ends[1, 0] < 0,
        num_points=known.sum(),
        num_censored=best.is_censored.sum(1),
    )


def _points(best, x, dtype) -> _Points:
    """The logarithms, each censored one with its side."""
    strength = best.strength.astype(dtype)
    bound = strength if best.bound is None else best.bound.astype(dtype)
    informs = jnp.isfinite(strength) & (strength > 0)
    y = jnp.log(jnp.where(informs, jnp.where(best.is_censored, bound, strength), 1))
    log = jnp.log(jnp.where(informs, strength, 1))
    if best.bound is None:  # at the upper end of what was found, or at the lower
        least = jnp.where(informs, log, jnp.inf).min()
        largest = jnp.where(informs, log, -jnp.inf).max()
        above = log > (least + largest) / 2
    else:
        above = log > y
    side = jnp.where(best.is_censored, jnp.where(above, 1, -1), 0)
    weights = informs.astype(dtype)
    return _Points(x, y, side, weights, _scatter(x, y, weights))


def _scatter(x, y, weights):
    """Standard deviation about the line of ordinary least squares."""
    middle, slope = _least_squares(x, y, weights)
    residual = y - middle - slope * x[:, None]
    freedom = jnp.maximum(weights.sum() - 2, 1)
    variance = (weights * residual**2).sum() / freedom
    return jnp.sqrt(jnp.maximum(variance, LEAST_SCATTER**2))


def _least_squares(x, y, weights):
    total = jnp.maximum(weights.sum(), 1)
    mean_x, mean_y = (weights * x[:, None]).sum() / total, (weights * y).sum() / total
    offset = x[:, None] - mean_x
    spread = (weights * offset**2).sum()
    slope = (weights * offset * (y - mean_y)).sum() / jnp.where(spread > 0, spread, 1)
    return mean_y - slope * mean_x, slope


def _most_likely(points: _Points):
    """Newton's method on the negative log-likelihood of the censored regression.

    The parameters are the line at the middle size and its slope, in units of
    the scatter, and the logarithm of the scatter and its slope.
    """
    origin = _least_squares(points.x, points.y, points.weights)
    loss = partial(_negative_log_likelihood, points, origin)
    steps = jnp.array([1.0, 0.5, 0.1, 0.01, 0.0], points.y.dtype)

    def step(_, theta):
        values, vectors = jnp.linalg.eigh(jax.hessian(loss)(theta))
        least = jnp.finfo(theta.dtype).eps ** 0.5 * jnp.abs(values).max()
        slopes = dot(vectors.T, jax.grad(loss)(theta))
        move = -dot(vectors, slopes / jnp.maximum(jnp.abs(values), least))
        move = move / jnp.maximum(jnp.linalg.norm(move), 1)
        tried = theta[None] + steps[:, None] * move[None]
        found = jax.vmap(loss)(tried)
        return tried[jnp.argmin(jnp.where(jnp.isfinite(found), found, jnp.inf))]

    theta = lax.fori_loop(0, NUM_NEWTON, step, jnp.zeros(4, points.y.dtype))
    return origin[0] + points.scale * theta[0], origin[1] + points.scale * theta[1]


def _negative_log_likelihood(points: _Points, origin, theta):
    x = points.x[:, None]
    line = origin[0] + origin[1] * x + points.scale * (theta[0] + theta[1] * x)
    log_scatter = theta[2] + theta[3] * x
    residual = (points.y - line) / (points.scale * jnp.exp(log_scatter))
    beyond = -log_ndtr(jnp.where(points.side == 0, 0, -points.side * residual))
    each = jnp.where(points.side == 0, log_scatter + residual**2 / 2, beyond)
    prior = (theta[2] / PRIOR_SCATTER) ** 2 + (theta[3] / PRIOR_DRIFT) ** 2
    return (points.weights * each).sum() + prior / 2


def _half_width(lines, confidence_level):
    """Half of the jackknife's t-interval, of estimates each without one seed."""
    num_seeds = len(lines)
    if num_seeds < 2:
        return jnp.full(lines.shape[1:], jnp.nan, lines.dtype)
    variance = (num_seeds - 1) * lines.var(0)
    quantile = t_half_width(num_seeds - 1, confidence_level)
    return float(quantile) * jnp.sqrt(variance)
