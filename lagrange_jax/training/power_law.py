r"""The law of the best strength, $\lambda^* \propto N^{\text{slope}}$, with intervals.

`best_strength` reads the best strength of every size and seed from validation losses
on a grid; `fit_power_law` regresses its logarithm on that of the size. A best
strength at the edge of the grid only says that the optimum is there or beyond: it is
flagged as censored and left out of means and fits, which report how many were. To
average them in spite of that, as a comparison may want, say so:
`best._replace(is_censored=jnp.zeros_like(best.is_censored))`.

References:
  T. Hesterberg, "What teachers should know about the bootstrap", The American
  Statistician 69, 2015 (the widened percentile interval of few seeds).
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int
from scipy import special

from lagrange_jax._checks import require_real, require_record, require_shapes
from lagrange_jax.numerics.parabola import parabola_minimum
from lagrange_jax.types import Key

__all__ = [
    "BestStrength",
    "PowerLaw",
    "SeedMean",
    "average_seeds",
    "best_strength",
    "fit_power_law",
]

Points = Literal["means", "all"]


class BestStrength(NamedTuple):
    """The strengths of least validation loss.

    Attributes:
      strength: the best strength of each curve.
      is_censored: whether it lies at the edge of the grid, or next to a strength at
        which training diverged: the optimum is there or beyond.
    """

    strength: Float[Array, "*curves"]
    is_censored: Bool[Array, "*curves"]


class SeedMean(NamedTuple):
    """Best strengths averaged over the seeds that are not censored.

    Attributes:
      mean: arithmetic mean of each size; NaN if all its seeds are censored.
      standard_error: of that mean; NaN for fewer than two seeds.
      num_used: seeds in the mean.
      num_censored: seeds left out of it.
    """

    mean: Float[Array, " sizes"]
    standard_error: Float[Array, " sizes"]
    num_used: Int[Array, " sizes"]
    num_censored: Int[Array, " sizes"]


class PowerLaw(NamedTuple):
    r"""The line $\log \lambda^* = \text{slope} \log N + \text{intercept}$.

    Attributes:
      slope: exponent of N.
      intercept: natural logarithm of the strength at N = 1.
      slope_interval: lower and upper end of the bootstrap interval.
      intercept_interval: likewise.
      num_points: points in the regression: sizes, or curves.
      num_censored: curves left out of it, of each size.
    """

    slope: Float[Array, ""]
    intercept: Float[Array, ""]
    slope_interval: Float[Array, "2"]
    intercept_interval: Float[Array, "2"]
    num_points: Int[Array, ""]
    num_censored: Int[Array, " sizes"]


def best_strength(
    losses: Float[ArrayLike, "..."],
    strengths: Float[ArrayLike, " strengths"],
    *,
    axis: int = 0,
    refine: bool = True,
) -> BestStrength:
    """Finds the strength of least validation loss, curve by curve.

    Args:
      losses: validation losses, say `[strengths, sizes, seeds]`; losses that are not
        finite (a run diverged) count as infinitely high.
      strengths: the grid, positive and strictly increasing.
      axis: the axis of `losses` that runs over the strengths.
      refine: whether to take the lowest point of the parabola, in the logarithm of
        the strength, through the best grid point and its neighbours, or that grid
        point itself.

    Returns:
      The `BestStrength`, of the shape of `losses` without `axis`.

    Raises:
      ValueError: if there are fewer than three strengths, or not one a loss.
    """
    num_axes = len(require_real("losses", losses))
    if not -num_axes <= axis < num_axes:
        raise ValueError(
            f"expected an axis of the losses, {num_axes} deep; got {axis}."
        )
    require_real("strengths", strengths)
    losses, strengths = jnp.asarray(losses), jnp.asarray(strengths)
    require_shapes({"strengths": "m"}, {"strengths": strengths}, m=losses.shape[axis])
    return _best_strength(losses, strengths, axis, refine)


@partial(jax.jit, static_argnums=(2, 3))
def _best_strength(losses, strengths, axis, refine):
    losses = jnp.moveaxis(losses, axis, -1)
    strengths = strengths.astype(losses.dtype)
    find = partial(parabola_minimum, jnp.log(strengths))
    for _ in range(losses.ndim - 1):
        find = jax.vmap(find)
    minimum = find(losses)
    grid_point = strengths[minimum.index]
    moved = jnp.where(minimum.is_edge, grid_point, jnp.exp(minimum.position))
    return BestStrength(moved if refine else grid_point, minimum.is_edge)


def average_seeds(best: BestStrength) -> SeedMean:
    """Averages the best strengths of each size over the seeds not censored.

    Args:
      best: best strengths `[sizes, seeds]`.

    Returns:
      The `SeedMean`.
    """
    used = ~best.is_censored
    ones = jnp.ones(used.shape[1], best.strength.dtype)
    mean, is_used = _seed_mean(best, ones)
    num_used = used.sum(1)
    count = num_used.astype(mean.dtype)
    squares = jnp.where(used, (best.strength - mean[:, None]) ** 2, 0).sum(1)
    variance = squares / jnp.where(count > 1, count * (count - 1), 1)
    return SeedMean(
        jnp.where(is_used, mean, jnp.nan),
        jnp.where(count > 1, jnp.sqrt(variance), jnp.nan),
        num_used,
        used.shape[1] - num_used,
    )


def fit_power_law(
    sizes: Float[ArrayLike, " sizes"],
    best: BestStrength,
    key: Key | None = None,
    *,
    points: Points = "means",
    num_resamples: int = 4000,
    level: float = 0.95,
) -> PowerLaw:
    """Fits the logarithm of the best strength to that of the number of examples.

    Least squares, with bootstrap intervals over the seeds. A resampled seed brings
    its best strengths at all sizes, so that it does not matter whether the sizes of a
    seed share their data. Percentiles of few seeds are too narrow; they are widened
    as Student's t is against the normal distribution.

    Args:
      sizes: numbers of examples, integer or real; at least two.
      best: best strengths `[sizes, seeds]`.
      key: randomness of the bootstrap; None for a fixed key.
      points: `"means"`, one point a size, the logarithm of the mean over its seeds;
        or `"all"`, one point a size and seed. Censored curves are in neither.
      num_resamples: bootstrap samples.
      level: coverage of the intervals.

    Returns:
      The `PowerLaw`; NaN where fewer than two sizes have points, and intervals are
      NaN where there is one seed only.

    Raises:
      ValueError: if the shapes do not fit, or `points` is unknown.

    Example:
      Losses of three seeds that are least at the strength 1 / N:

      >>> strengths, sizes = jnp.geomspace(1e-4, 1.0, 9), jnp.array([10.0, 100, 1000])
      >>> losses = (jnp.log(strengths)[:, None] + jnp.log(sizes)[None]) ** 2
      >>> best = lj.best_strength(jnp.stack([losses] * 3, axis=-1), strengths)
      >>> print(f"{lj.fit_power_law(sizes, best).slope:.2f}")
      -1.00
    """
    _check(sizes, best, points)
    sizes = jnp.asarray(sizes)
    return _fit_power_law(sizes, best, key, points, num_resamples, level)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _fit_power_law(sizes, best, key, points, num_resamples, level):
    x = jnp.log(sizes.astype(best.strength.dtype))
    num_seeds = best.strength.shape[1]
    ones = jnp.ones(num_seeds, x.dtype)
    fit = partial(_fit, x, best, points=points)
    line = fit(ones)
    key = jax.random.key(0) if key is None else key
    drawn = jax.random.randint(key, (num_resamples, num_seeds), 0, num_seeds)
    counts = jax.vmap(partial(jnp.bincount, length=num_seeds))(drawn)
    lines = jax.vmap(fit)(counts.astype(x.dtype))
    tail = _widened_tail(num_seeds, level)
    # Resamples of nothing but censored curves have no line, and do not count.
    ends = jnp.nanquantile(lines, jnp.array([tail, 1 - tail], x.dtype), axis=0)
    ends = ends if num_seeds > 1 else jnp.full_like(ends, jnp.nan)
    used = ~best.is_censored
    return PowerLaw(
        slope=line[0],
        intercept=line[1],
        slope_interval=ends[:, 0],
        intercept_interval=ends[:, 1],
        num_points=(used.any(1) if points == "means" else used).sum(),
        num_censored=(~used).sum(1),
    )


def _check(sizes, best, points):
    if points not in get_args(Points):
        raise ValueError(
            f"expected points to be one of {get_args(Points)}; got {points!r}."
        )
    require_record("best", best, BestStrength)
    require_real("sizes", sizes)
    shape = best.strength.shape
    if len(shape) != 2 or jnp.shape(sizes) != shape[:1] or len(sizes) < 2:
        raise ValueError(
            "expected sizes [sizes], two at least, and best strengths [sizes, seeds]; "
            f"got {jnp.shape(sizes)} and {shape}. For more axes use jax.vmap."
        )


def _fit(x, best, seed_weights, *, points):
    """Slope and intercept, each seed counted `seed_weights` times."""
    if points == "means":
        mean, is_used = _seed_mean(best, seed_weights)
        weights, y = is_used.astype(x.dtype), jnp.where(is_used, mean, 1)
    else:
        x = jnp.broadcast_to(x[:, None], best.strength.shape)
        weights = jnp.where(best.is_censored, 0, seed_weights[None])
        y = best.strength
    y = jnp.log(y)
    total = weights.sum()
    safe = jnp.where(total > 0, total, 1)
    mean_x, mean_y = (weights * x).sum() / safe, (weights * y).sum() / safe
    spread = (weights * (x - mean_x) ** 2).sum()
    # Points of one size have no spread but that of rounding.
    is_line = spread > jnp.finfo(x.dtype).eps * total
    slope = (weights * (x - mean_x) * (y - mean_y)).sum()
    slope = jnp.where(is_line, slope / jnp.where(is_line, spread, 1), jnp.nan)
    return jnp.stack([slope, mean_y - slope * mean_x])


def _seed_mean(best, seed_weights):
    """Mean over seeds not censored, and whether there are any."""
    weights = jnp.where(best.is_censored, 0, seed_weights[None])
    total = weights.sum(1)
    mean = (weights * best.strength).sum(1) / jnp.where(total > 0, total, 1)
    return mean, total > 0


def _widened_tail(num_seeds, level):
    """The tail of a normal distribution where Student's t has (1 - level) / 2."""
    if num_seeds < 2:
        return (1 - level) / 2
    quantile = special.stdtrit(num_seeds - 1, (1 - level) / 2)
    return float(special.ndtr((num_seeds / (num_seeds - 1)) ** 0.5 * quantile))
