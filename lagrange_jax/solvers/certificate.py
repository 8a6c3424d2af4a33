"""Evidence that a solved head is right: residual, gap bound and status."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.bounds import Metric
from lagrange_jax.numerics.linalg import column_length, column_sum, pseudo_inverse
from lagrange_jax.solvers.solution import Status
from lagrange_jax.statistics.spectrum import (
    Spectrum,
    covariance_times,
    mean_variance,
    smallest_eigenvalue,
)

__all__ = [
    "certificate",
    "metric_norm_sq",
    "objective",
    "status_of",
]

# In units of eps: rounding of a norm over a thousand entries, with room to spare,
NORM_TOLERANCE = 64
# and eight times the residual that the tie-break of the hard case leaves.
STATIONARITY_TOLERANCE = 2048


def certificate(
    spectrum: Spectrum,
    kernel: Float[Array, "d k"],
    multiplier: Float[Array, "1 m"],
    norm_sq: Float[Array, "1 m"],
    metric: Metric,
) -> dict[str, Array]:
    r"""KKT residual, second-order condition, and a bound on the distance to optimal.

    For any $w$ on the sphere, $\rho = r - (S + \mu I) w$ and $s_1$ the smallest
    eigenvalue, $f(w) - f^* \le 4 \sqrt c \|\rho\| + 4 c \max(0, -(s_1 + \mu))$. What
    rounding and underflow may hide in $\rho$ and $s_1$ is added.

    Args:
      spectrum: the problem.
      kernel: a kernel of the wanted norm.
      multiplier: its multiplier.
      norm_sq: the wanted norm $c$.
      metric: what the norm is measured by.

    Returns:
      The rows `stationarity`, `gap_bound` and `is_global` of a `HeadSolution`.
    """
    spectrum, kernel, multiplier, norm_sq = lax.stop_gradient(
        (spectrum, kernel, multiplier, norm_sq)
    )
    s, cross = spectrum.eigenvalues, spectrum.cross
    product = covariance_times(spectrum, kernel)
    metric_kernel, stretch = kernel, 1.0
    curvature = smallest_eigenvalue(spectrum) + multiplier
    if metric == "output_variance":
        variance = mean_variance(spectrum)
        metric_kernel = product / variance
        curvature = variance + multiplier
        stretch = jnp.sqrt(variance * jnp.max(pseudo_inverse(s)))
    residual = cross - product - multiplier * metric_kernel
    top = jnp.max(jnp.abs(s)) + jnp.abs(multiplier)
    size = column_length(cross, norm_sq) + top * column_length(kernel, norm_sq)
    noise = 2 * jnp.finfo(s.dtype).eps * len(cross) ** 0.5
    vanished = len(cross) * jnp.finfo(s.dtype).tiny
    length = column_length(residual, norm_sq)
    distance = stretch * (length + noise * size + vanished)
    defect = jnp.maximum(noise * top - curvature, 0) + vanished
    return dict(
        stationarity=length / jnp.where(size > 0, size, 1),
        gap_bound=4 * jnp.sqrt(norm_sq) * distance + 4 * norm_sq * defect,
        is_global=curvature >= -noise * top,
    )


def objective(spectrum: Spectrum, kernel: Float[Array, "d k"]) -> Float[Array, ""]:
    """Returns the loss at a kernel with its best bias."""
    product = covariance_times(spectrum, kernel)
    return spectrum.variance.sum() + jnp.sum(kernel * (product - 2 * spectrum.cross))


def status_of(
    spectrum: Spectrum, usable: Bool[Array, "1 m"], solution: Mapping[str, Array]
) -> Int[Array, ""]:
    """Returns the first thing that went wrong, causes before their effects.

    Args:
      spectrum: the problem.
      usable: whether each wanted norm is positive and finite.
      solution: fields of a `HeadSolution`.
    """
    finite = lambda *arrays: jnp.isfinite(jnp.stack([jnp.sum(a) for a in arrays])).all()  # noqa: E731
    eps = jnp.finfo(spectrum.cross.dtype).eps
    kernel, bias, bound = solution["kernel"], solution["bias"], solution["gap_bound"]
    is_solved = (
        finite(kernel, bias, bound, solution["objective"])
        & jnp.all(solution["norm_error"] <= NORM_TOLERANCE * eps)
        & jnp.all(solution["stationarity"] <= STATIONARITY_TOLERANCE * eps)
    )
    covariance = jax.tree.leaves(spectrum.covariance)
    failures = {
        Status.NO_DATA: spectrum.count <= 0,
        Status.NONFINITE_FEATURES: ~finite(*covariance, spectrum.mean_x),
        Status.NONFINITE_TARGETS: ~finite(spectrum.cross, spectrum.variance),
        Status.INVALID_NORM: ~usable.all(),
        Status.NO_VARIANCE: _is_vanishing(spectrum, kernel),
        Status.NOT_CONVERGED: ~is_solved,
    }
    codes = [jnp.int32(code) for code in failures]
    return jnp.select(list(failures.values()), codes, jnp.int32(Status.SUCCESS))


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
