"""Evidence for a least-squares head: its certificate, loss and status.

Rounding is part of it. The moments, the eigenpairs and the products that make up the
residual are known to some eps; what that may hide is measured or bounded, in the unit
of each direction, and added.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.bounds import Metric
from lagrange_jax.numerics.linalg import column_length, column_sum, dot, scattered
from lagrange_jax.solvers.certificate import (
    gap_bound,
    is_finite,
    relative_residual,
    status_of,
)
from lagrange_jax.solvers.solution import Status
from lagrange_jax.statistics.spectrum import (
    Factor,
    Spectrum,
    column_variances,
    covariance_times,
    mean_variance,
)

__all__ = [
    "certificate",
    "inside_of",
    "metric_norm_sq",
    "norm_rounding",
    "objective",
    "quadratic_status",
]

# In units of eps: rounding of a norm over a thousand entries, with room to spare,
NORM_TOLERANCE = 64
# and eight times the residual that the tie-break of the hard case leaves.
STATIONARITY_TOLERANCE = 2048
# Random vectors that measure the error of the eigenpairs.
NUM_PROBES = 4


def certificate(
    spectrum: Spectrum,
    kernel: Float[Array, "d k"],
    multiplier: Float[Array, "1 m"],
    norm_sq: Float[Array, "1 m"],
    metric: Metric,
    hidden_in: Float[Array, " k"] | None = None,
) -> dict[str, Array]:
    """KKT residual, second-order condition, and a bound on the distance to optimal.

    Args:
      spectrum: the problem.
      kernel: a kernel of the wanted norm.
      multiplier: its multiplier.
      norm_sq: the wanted norm.
      metric: what the norm is measured by.
      hidden_in: mean square of the targets that rounding is relative to; None for
        that of the problem.

    Returns:
      The rows `stationarity`, `gap_bound` and `is_global` of a `HeadSolution`.
    """
    spectrum, kernel, multiplier, norm_sq = lax.stop_gradient(
        (spectrum, kernel, multiplier, norm_sq)
    )
    s, cross, eps = spectrum.eigenvalues, spectrum.cross, _eps(spectrum)
    product = covariance_times(spectrum, kernel)
    pull = kernel if metric == "euclidean" else product / mean_variance(spectrum)
    residual = cross - product - multiplier * pull
    top = jnp.max(jnp.abs(s)) + jnp.abs(multiplier)
    size = column_length(cross, norm_sq) + top * column_length(kernel, norm_sq)
    unit = jnp.sqrt(spectrum.resolution / (eps * len(s)))
    # Dead features have none: what leaks into them is measured in that of the others.
    unit = jnp.maximum(unit, eps * jnp.max(unit))
    # A moment is known to some eps of the variances that it is made of.
    spread = jnp.sqrt(column_variances(spectrum))[:, None] * kernel
    spread = column_length(spread, cross[:1])
    known = spectrum.variance if hidden_in is None else hidden_in
    reach = unit[:, None] * (jnp.sqrt(known)[None] + spread)
    if metric == "euclidean":
        weight = column_length(kernel, cross[:1])
    else:
        weight = unit[:, None] * spread / mean_variance(spectrum)
    hidden = 2 * eps * (reach + jnp.abs(multiplier) * weight)
    hidden = hidden + jnp.finfo(s.dtype).tiny
    inside = jnp.abs(dot(spectrum.eigenvectors.T, residual)) + hidden
    error, skew = _eigen_error(spectrum, unit)
    error = error + 2 * eps * len(cross) ** 0.5
    if metric == "euclidean":
        lowest = s[:, None] + multiplier
        slack = error * unit[:, None] ** 2 + skew * jnp.abs(multiplier)
        slack = slack + len(cross) * jnp.finfo(s.dtype).tiny
        if isinstance(spectrum.covariance, Factor):
            rest = residual - dot(spectrum.eigenvectors, inside_of(spectrum, residual))
            rest = column_length(rest, cross[:1]) + jnp.max(hidden, 0, keepdims=True)
            inside = jnp.concatenate([inside, rest])
            lowest = jnp.concatenate([lowest, multiplier])
            slack = jnp.concatenate([slack, jnp.max(slack, 0, keepdims=True)])
        # A covariance has no negative eigenvalue, whatever rounding says.
        curvature = jnp.maximum(lowest - slack, multiplier)
        bound = gap_bound(inside, curvature, norm_sq)
    else:
        lowest = mean_variance(spectrum) + multiplier
        slack = 2 * eps * len(cross) ** 0.5 * (top + mean_variance(spectrum))
        bound = _bound_of_variance(spectrum, inside, lowest - slack, norm_sq, error)
    # The multiplier is the price of norm, and the norm is met to rounding.
    reached = metric_norm_sq(spectrum, kernel, norm_sq, metric)
    rounding = norm_rounding(spectrum, kernel, norm_sq, metric)
    slip = jnp.abs(reached - norm_sq) + 4 * eps * len(cross) ** 0.5 * rounding
    bound = bound + jnp.abs(multiplier) * slip
    return dict(
        stationarity=relative_residual(residual, size),
        gap_bound=bound,
        is_global=jnp.all(lowest + slack >= 0, axis=0, keepdims=True),
    )


def inside_of(spectrum, kernel):
    """Coordinates of a kernel in the eigenvectors."""
    return dot(spectrum.eigenvectors.T, kernel)


def _eps(spectrum):
    return jnp.finfo(spectrum.cross.dtype).eps


def _eigen_error(spectrum, unit):
    r"""How far $Q^T S Q$ is from diagonal, relative to units, and $Q^T Q$ from one.

    The Frobenius norm of an error from its products with random signs. Some
    accelerators' `eigh` is good to a few digits only.
    """
    s, basis = spectrum.eigenvalues[:, None], spectrum.eigenvectors
    signs = jnp.sign(scattered((len(s), NUM_PROBES), s.dtype))
    inverse = jnp.where(unit > 0, 1 / jnp.where(unit > 0, unit, 1), 0)[:, None]
    # Few products of many columns: each one is a program of its own for a TPU.
    probes = dot(basis, jnp.concatenate([inverse * signs, signs], axis=1))
    scaled, plain = jnp.split(probes, 2, axis=1)
    probes = jnp.concatenate([covariance_times(spectrum, scaled), plain], axis=1)
    rows, again = jnp.split(dot(basis.T, probes), 2, axis=1)
    lengths = lambda x: 2 * jnp.max(jnp.linalg.norm(x, axis=0))  # noqa: E731
    # Columns of a thin basis that stand for no direction are zero.
    is_there = jnp.sum(basis**2, axis=0)[:, None] > 0.5
    skew = jnp.where(is_there, again - signs, 0)
    return lengths(inverse * (rows - s * inverse * signs)), lengths(skew)


def _bound_of_variance(spectrum, residual, curvature, norm_sq, error):
    r"""The gap where the norm is the output's variance.

    In $y_i = \sqrt{s_i / \bar s} \, w_i$ the ellipsoid is a sphere. Directions below
    the resolution are not in it: what they could explain is at most what is left
    over, or what their eigenvalues allow where these are larger than their error.
    """
    s, load = spectrum.eigenvalues[:, None], spectrum.projections
    unit, eps = spectrum.resolution[:, None] / (_eps(spectrum) * len(s)), _eps(spectrum)
    kept = s > spectrum.resolution[:, None]
    mean = mean_variance(spectrum)
    stretch = jnp.sqrt(mean / jnp.where(kept, s, 1))
    bound = gap_bound(jnp.where(kept, residual * stretch, 0), curvature, norm_sq)
    explained = jnp.where(kept, load**2 / jnp.where(kept, s, 1), 0)
    variance, total = spectrum.variance[None], explained.sum(0, keepdims=True)
    left = jnp.maximum(variance - total, 0) + eps * len(s) * variance
    least = s - error * unit
    load = jnp.abs(load) + 4 * eps * jnp.sqrt(unit) * jnp.sqrt(variance)
    share = jnp.where(kept, 0, jnp.where(least > 0, load**2 / least, jnp.inf))
    dropped = jnp.minimum(jnp.where(kept, 0, share).sum(0, keepdims=True), left)
    constant = jnp.sum(column_variances(spectrum) == 0)
    dropped = jnp.where(jnp.sum(~kept) <= constant, 0, dropped)
    total, dropped = column_sum(total, norm_sq), column_sum(dropped, norm_sq)
    reach = 2 * jnp.sqrt(norm_sq * mean)
    gain = dropped / (jnp.sqrt(total + dropped) + jnp.sqrt(total) + _tiny(s))
    return bound + jnp.maximum(reach * gain, dropped)


def _tiny(array):
    return jnp.finfo(array.dtype).tiny


@jax.custom_jvp
def objective(spectrum: Spectrum, kernel: Float[Array, "d k"]) -> Float[Array, ""]:
    r"""Returns the loss at a kernel with its best bias.

    Its value is that of least squares plus the squares $s_i (w_i - p_i / s_i)^2$ of
    the distances to it: no digits cancel. Its derivative is that of the quadratic.
    """
    s, load = spectrum.eigenvalues[:, None], spectrum.projections
    kept = s > spectrum.resolution[:, None]
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    least = spectrum.variance - jnp.sum(load**2 * inverse, axis=0)
    noise = _eps(spectrum) * len(s) * spectrum.variance
    least = jnp.where(least > noise, least, 0)
    distance = inside_of(spectrum, kernel) - inverse * load
    # Below a few eps an eigenvalue is rounding, and so is what it would cost.
    counted = s > 4 * spectrum.resolution[:, None] / len(s)
    return least.sum() + jnp.sum(jnp.where(counted, s, 0) * distance**2)


@objective.defjvp
def _objective_jvp(primals, tangents):
    return objective(*primals), jax.jvp(_quadratic, primals, tangents)[1]


def _quadratic(spectrum, kernel):
    product = covariance_times(spectrum, kernel)
    return spectrum.variance.sum() + jnp.sum(kernel * (product - 2 * spectrum.cross))


def quadratic_status(
    spectrum: Spectrum,
    usable: Bool[Array, "1 m"],
    solution: Mapping[str, Array],
    rounding: Float[Array, "*k"],
) -> Int[Array, ""]:
    """Returns the status of a least-squares head.

    Args:
      spectrum: the problem.
      usable: whether each wanted norm is a finite number and not negative.
      solution: fields of a `HeadSolution`.
      rounding: of each norm, as `norm_rounding` returns it, relative to the norm.
    """
    eps: Any = _eps(spectrum)
    causes = {
        Status.INVALID_WEIGHTS: jnp.isnan(spectrum.count),
        Status.NO_DATA: spectrum.count <= 0,
        Status.NONFINITE_FEATURES: ~is_finite(
            *jax.tree.leaves(spectrum.covariance), spectrum.mean_x
        ),
        Status.NONFINITE_TARGETS: ~is_finite(spectrum.cross, spectrum.variance),
        Status.INVALID_NORM: ~usable.all(),
        Status.NO_VARIANCE: _is_vanishing(spectrum, solution["kernel"]),
    }
    variance = jnp.sum(spectrum.variance)
    # Of targets that are all constant there is no share.
    unit = jnp.where(variance > 0, variance, jnp.inf)
    return status_of(
        causes,
        solution,
        tolerance=STATIONARITY_TOLERANCE * eps,
        norm_tolerance=NORM_TOLERANCE * eps * rounding,
        unit=jnp.maximum(unit, solution["objective"]),
    )


def _is_vanishing(spectrum, kernel):
    """Whether what underflows in the moments would show in the loss.

    Each entry may have lost as much as the smallest normal number.
    """
    info = jnp.finfo(kernel.dtype)
    norm_sq = jnp.sum(kernel**2)
    top = jnp.max(jnp.abs(spectrum.eigenvalues))
    # Features that vary make a kernel of zero meaningful.
    size = jnp.sum(spectrum.variance) + jnp.maximum(norm_sq, 1) * top
    return size < (1 + norm_sq) * (info.tiny / info.eps)


def metric_norm_sq(
    spectrum: Spectrum, kernel: Float[Array, "d k"], like: Array, metric: Metric
) -> Float[Array, "1 m"]:
    """Returns the squared norm in the constraint's metric, of the shape of `like`."""
    if metric == "euclidean":
        return column_length(kernel, like) ** 2
    product = kernel * covariance_times(spectrum, kernel)
    return column_sum(product, like) / mean_variance(spectrum)


def norm_rounding(
    spectrum: Spectrum,
    kernel: Float[Array, "d k"],
    norm_sq: Float[Array, "1 m"],
    metric: Metric,
) -> Float[Array, "1 m"]:
    """Returns what the rounding of a norm is relative to: the sum of its terms.

    That of the output's variance cancels where features are nearly collinear.
    """
    if metric == "euclidean":
        return norm_sq
    terms = column_variances(spectrum)[:, None] * kernel**2
    return jnp.maximum(column_sum(terms, norm_sq) / mean_variance(spectrum), norm_sq)
