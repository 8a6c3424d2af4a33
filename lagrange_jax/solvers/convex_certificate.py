"""Evidence that a head solved by search is right: residual, bound, status."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.numerics.linalg import column_length, column_sum
from lagrange_jax.numerics.search import NOISE
from lagrange_jax.solvers.certificate import (
    gap_bound,
    is_finite,
    relative_residual,
    status_of,
)
from lagrange_jax.solvers.coordinates import ON_SPHERE
from lagrange_jax.solvers.examples import ExampleStatistics
from lagrange_jax.solvers.risk import Risk
from lagrange_jax.solvers.solution import HeadSolution, Status

__all__ = [
    "Scales",
    "as_stationary",
    "convex_status",
    "excess_residual",
    "kkt_rows",
    "make_scales",
    "proven_gap",
]

# A part of the kernel that no probability depends on counts as filled in beyond this.
FREE_SHARE = 1e-2
# The residual is measured against the gradient at a zero kernel, or against that of
# features with this correlation with the targets.
LEAST_CORRELATION = 1e-2
# A bound, relative to the loss, counts so many times against the tolerance of the
# residual: that at which rounding ends a search is ten times the one asked for.
PROVEN = 10
# Beyond this residual a bound proves nothing: it takes the bias for all but optimal,
# and as part of a loss that the bias has blown up anything is small.
NEAR = 0.1
# Losses are known to a part of themselves, or of this part of the starting variance.
SMALL_LOSS = 1e-3
# Slopes at the start that are smaller, in the unit of the curvature, are rounding.
ROUNDED = 1e-3


class Scales(NamedTuple):
    """What is small for a problem, once and for all from its statistics.

    Attributes:
      gradient: the length that KKT residuals are relative to: the gradient at zero.
      slopes: root mean square of the slopes at the start, for the bias.
      rounding: a gradient in the bias of which no more can be asked.
      loss: a loss below which parts of a loss are parts of this.
      curvature: mean second derivative of the loss in each logit.
    """

    gradient: Float[Array, "1 m"]
    slopes: Float[Array, ""]
    rounding: Float[Array, ""]
    loss: Float[Array, ""]
    curvature: Float[Array, " k"]


def make_scales(statistics: ExampleStatistics, norm_sq: Float[Array, "1 m"]) -> Scales:
    """Returns the `Scales` of a problem with a norm an output, or one."""
    spectrum, curvature = statistics.spectrum, statistics.curvature
    variance = jnp.sum(spectrum.variance)
    slopes = jnp.sqrt(variance + jnp.sum(spectrum.mean_t**2))
    spread = jnp.sqrt(jnp.sum(jnp.maximum(spectrum.eigenvalues, 0)))
    unit = jnp.sqrt(jnp.sum(curvature))
    slopes = jnp.maximum(slopes, ROUNDED * unit)
    # Of features so weakly correlated with the targets the gradient may be rounding.
    least = LEAST_CORRELATION * slopes * jnp.where(spread > 0, spread, 1)
    return Scales(
        gradient=column_length(spectrum.cross, norm_sq) + least,
        slopes=slopes,
        # Probabilities are known to eps.
        rounding=NOISE * jnp.finfo(unit.dtype).eps * unit,
        loss=SMALL_LOSS * variance,
        curvature=curvature,
    )


def kkt_rows(
    scales: Scales,
    kernel: Float[Array, "d k"],
    loss: Risk,
    norm_sq: Float[Array, "1 m"],
    on_sphere: Bool[Array, ""],
    factor: Float[Array, "1 m"] | float,
    tolerance: Float[Array, ""] | float,
    can_fill: bool,
) -> dict[str, Array]:
    r"""Returns what a `HeadSolution` says of each norm.

    The bound is that of `certificate` with $\lambda_\text{min} = 0$, at the multiplier
    or at zero where that is negative.

    Args:
      scales: of the problem.
      kernel: the head.
      loss: its loss and gradient; that of a fixed bias is zero.
      norm_sq: the wanted norm $c$.
      on_sphere: whether the norm is to be met; else it is a bound.
      factor: one, or zero where the only kernel allowed is zero, which is optimal.
      tolerance: residual up to which a negative multiplier counts as zero.
      can_fill: whether a vector added to all columns changes nothing.

    Returns:
      The rows `multiplier`, `norm_sq`, `stationarity`, `norm_error`, `gap_bound`,
      `is_global` and `is_hard_case`.
    """
    length = column_length(kernel, norm_sq)
    length_sq = length**2
    pull = -column_sum(loss.kernel * kernel, norm_sq)
    strength = pull / jnp.where(length_sq > 0, length_sq, 1)
    is_met = length_sq >= (1 - ON_SPHERE) * norm_sq
    is_met &= on_sphere | (strength > 0)
    strength = jnp.where(is_met | on_sphere, strength, 0)
    size = scales.gradient + jnp.abs(strength) * length
    drift = jnp.maximum(jnp.linalg.norm(loss.bias) - scales.rounding, 0) / scales.slopes
    price = jnp.maximum(strength, 0) / 2
    residual = loss.kernel + strength * kernel
    shrinking = loss.kernel / 2 + price * kernel
    bound = factor * gap_bound(shrinking, price, norm_sq)
    # A negative multiplier is rounding only where a direction free of loss is left;
    # else the ball holds a better head, unless the bound proves that it does not.
    is_global = factor * relative_residual(2 * shrinking, size) <= tolerance
    is_global &= (strength >= 0) | can_fill | (factor == 0)
    return dict(
        multiplier=strength / 2,
        norm_sq=length_sq,
        stationarity=jnp.maximum(factor * relative_residual(residual, size), drift),
        norm_error=jnp.where(is_met, jnp.abs(length_sq / norm_sq - 1), 0),
        gap_bound=bound,
        is_global=is_global | (PROVEN * _share(bound, loss.loss) <= tolerance),
        is_hard_case=_free_share(kernel, norm_sq, length_sq, can_fill) > FREE_SHARE,
    )


def excess_residual(
    scales: Scales,
    rows: Mapping[str, Array],
    loss: Risk,
    left: Float[Array, ""] | float,
    tolerance: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Returns how far a head is from solved, to be compared with the tolerance.

    A head counts as solved where its relative KKT residual is small, or where its
    bound proves that its loss is: rounding may keep the residual of a nearly
    stationary start from falling. What the bias may still gain, by the curvature at the
    start, is added to the bound. A residual says nothing where the search saw that more
    than the tolerance of the loss, or of a small part of the variance at the start, is
    left to be gained: loss and slope may both be small beside those of the start.
    """
    unit = jnp.maximum(jnp.abs(loss.loss), scales.loss)
    stationarity = rows["stationarity"].max()
    stationarity = jnp.where(left <= tolerance * unit, stationarity, jnp.inf)
    proven = _share(proven_gap(scales, rows, loss), unit)
    return jnp.minimum(stationarity, PROVEN * proven)


def proven_gap(
    scales: Scales, rows: Mapping[str, Array], loss: Risk
) -> Float[Array, ""]:
    """Returns a bound on what kernel and bias may still gain."""
    of_bias = jnp.sum(loss.bias**2 / scales.curvature)
    bound = rows["gap_bound"].sum() + of_bias
    return jnp.where(rows["stationarity"].max() <= NEAR, bound, jnp.inf)


def _share(bound, loss):
    """A bound as a part of the loss: at most the tolerance, it proves a head right."""
    return bound / jnp.where(loss != 0, jnp.abs(loss), 1)


def _free_share(kernel, norm_sq, length_sq, can_fill):
    """The share of the norm that no probability depends on."""
    if not can_fill:
        return jnp.zeros_like(norm_sq)
    free = kernel.shape[1] * jnp.sum(kernel.mean(1) ** 2)
    return free / jnp.where(length_sq > 0, length_sq, 1)


def convex_status(
    statistics: ExampleStatistics,
    usable: Bool[Array, "1 m"],
    solution: Mapping[str, Array],
    residual: Float[Array, ""],
    tolerance: Float[Array, ""] | float,
    gap: Float[Array, ""] | float,
    is_concave: Bool[Array, ""],
) -> Int[Array, ""]:
    """Returns the status of a head that was searched for.

    A search that ends before its tolerance with next to nothing of the starting loss
    left to be gained, as where all but separate classes leave a loss that rounding
    hides, is `INACCURATE`: usable, but not to a percent of its loss.

    Args:
      statistics: of the examples.
      usable: whether each wanted norm is a finite number and not negative.
      solution: fields of a `HeadSolution`.
      residual: from `excess_residual`.
      tolerance: of the residual.
      gap: from `proven_gap`.
      is_concave: whether a loss that should be convex was seen not to be.
    """
    spectrum = statistics.spectrum
    causes = {
        Status.INVALID_WEIGHTS: jnp.isnan(spectrum.count),
        Status.NO_DATA: spectrum.count <= 0,
        Status.NONFINITE_FEATURES: ~is_finite(*jax.tree.leaves(spectrum.covariance)),
        Status.INVALID_TARGETS: statistics.num_invalid > 0,
        Status.INVALID_NORM: ~usable.all(),
        Status.NOT_CONVEX: is_concave,
    }
    unit = jnp.maximum(jnp.abs(solution["objective"]), spectrum.variance.sum())
    status = status_of(
        causes,
        {**solution, "stationarity": residual},
        tolerance=tolerance,
        norm_tolerance=ON_SPHERE,
        unit=unit,
    )
    is_near = (status == Status.NOT_CONVERGED) & (gap <= tolerance * unit)
    is_near &= jnp.all(solution["is_global"] & (solution["norm_error"] <= ON_SPHERE))
    is_near &= is_finite(solution["kernel"], solution["bias"])
    return jnp.where(is_near, jnp.int32(Status.INACCURATE), status)


def as_stationary(solution: HeadSolution) -> HeadSolution:
    """Returns what a solution is evidence of where the loss is not convex.

    A stationary point: neither its bound nor its second-order condition, which rest on
    convexity, says anything of the least loss.
    """
    status = solution.status
    is_solved = (status == Status.SUCCESS) | (status == Status.INACCURATE)
    return solution._replace(
        gap_bound=jnp.full_like(solution.gap_bound, jnp.inf),
        is_global=jnp.zeros_like(solution.is_global),
        status=jnp.where(is_solved, jnp.int32(Status.STATIONARY), status),
    )
