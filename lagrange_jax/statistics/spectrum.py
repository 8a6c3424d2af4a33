r"""One eigendecomposition that every norm and every strength shares.

With $S = Q\,\mathrm{diag}(s)\,Q^T$ and $P = Q^T R$ the constrained head, the ridge
path, degrees of freedom, leave-one-out and evidence are all cheap functions of
$(s, P)$. Decompose once, ask for as many norms and strengths as you like.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax._checks import require_record, require_shapes
from lagrange_jax.numerics.jacobi import orthogonalize_columns
from lagrange_jax.numerics.linalg import diagonal, dot, eigh
from lagrange_jax.statistics.moments import Moments

__all__ = [
    "Factor",
    "NumBiases",
    "Spectrum",
    "column_variances",
    "covariance_times",
    "decompose",
    "eigenpairs",
    "mean_variance",
    "require_spectrum",
]


# Columns whose variances differ by more than what leaves the smallest this relative
# accuracy in an ordinary eigendecomposition are taken to be graded.
GRADED = 1e-3
# Rotations of more columns would take many times what the decomposition does, and what
# a network of that width computes is no raw table.
MOST_GRADED = 64


class Factor(NamedTuple):
    """A covariance of fewer rows than columns, as the rows themselves.

    Attributes:
      rows: centred features, each times the root of its share of the weight, so that
        the covariance is `rows.T @ rows`.
    """

    rows: Float[Array, "n d"]


@jax.tree_util.register_static
class NumBiases(int):
    """Zero or one, known while tracing: a pytree without leaves."""


class Spectrum(NamedTuple):
    r"""The quadratic problem of a head, in the eigenbasis of its features.

    The problem is to minimise
    $f(W) = \sum_j v_j - 2 \langle R, W \rangle + \langle W, S W \rangle$.
    Derivatives flow through `covariance`, `cross`, `variance` and the means;
    eigenvalues and eigenvectors are constants to automatic differentiation, since
    their derivatives do not exist where an eigenvalue repeats.

    Attributes:
      eigenvalues: $s$, ascending; as many as features, but for a thin spectrum.
      eigenvectors: $Q$, one eigenvector a column.
      projections: $P = Q^T R$.
      covariance: $S$; the raw second moment for a head without bias. Its `Factor`
        where the spectrum is thin, see `decompose_gram`.
      cross: $R$; likewise.
      variance: $v$, the mean squared target that a zero kernel leaves over.
      mean_x: mean of the features; zero for a head without bias.
      mean_t: mean of the targets; zero for a head without bias.
      count: total weight N of the examples.
      resolution: for each direction the eigenvalue at and below which it counts as
        empty: $\epsilon d$ times the largest eigenvalue, as is usual; where columns
        differ by orders of magnitude, times the variance $\sum_j S_{jj} q_{ij}^2$ of
        what the direction is made of.
      num_biases: biases an output that the means were left to, 0 or 1.
    """

    eigenvalues: Float[Array, " m"]
    eigenvectors: Float[Array, "d m"]
    projections: Float[Array, "m k"]
    covariance: Float[Array, "d d"] | Factor
    cross: Float[Array, "d k"]
    variance: Float[Array, " k"]
    mean_x: Float[Array, " d"]
    mean_t: Float[Array, " k"]
    count: Float[Array, ""]
    resolution: Float[Array, " m"]
    num_biases: NumBiases = NumBiases(1)


@jax.jit(static_argnames="use_bias")
def _decompose(moments, use_bias):
    covariance, cross, variance = moments.cov_xx, moments.cov_xt, moments.var_t
    mean_x, mean_t = moments.mean_x, moments.mean_t
    if not use_bias:
        covariance = covariance + jnp.outer(mean_x, mean_x)
        cross = cross + jnp.outer(mean_x, mean_t)
        variance = variance + mean_t**2
        mean_x, mean_t = jnp.zeros_like(mean_x), jnp.zeros_like(mean_t)
    is_constant = rounding_alone(diagonal(covariance), mean_x)
    covariance = without(covariance, is_constant[:, None] | is_constant[None])
    is_flat = rounding_alone(variance, mean_t)
    cross = without(cross, is_constant[:, None] | is_flat[None])
    variance = without(variance, is_flat)
    eigenvalues, eigenvectors, resolution = lax.stop_gradient(
        eigenpairs(lax.stop_gradient(covariance))
    )
    return Spectrum(
        eigenvalues,
        eigenvectors,
        dot(eigenvectors.T, lax.stop_gradient(cross)),
        covariance,
        cross,
        variance,
        mean_x,
        mean_t,
        moments.count,
        resolution,
        NumBiases(use_bias),
    )


def rounding_alone(variance: Array, mean: Array) -> Bool[Array, " d"]:
    """Returns whether a variance is that of the rounding of a constant."""
    # By roots: what overflows is not constant.
    spread = jnp.sqrt(jnp.maximum(variance, 0))
    return spread <= jnp.finfo(variance.dtype).eps * jnp.abs(mean)


def without(value: Array, is_nothing: Array) -> Array:
    """Returns the value with some entries zero; the derivative stays as it was."""
    return value - lax.stop_gradient(jnp.where(is_nothing, value, 0))


def eigenpairs(covariance):
    """Eigenpairs and their resolution; relative ones where few columns are graded."""
    eps, d = jnp.finfo(covariance.dtype).eps, len(covariance)
    if d > MOST_GRADED:
        return _absolute(covariance)
    scale = jnp.sqrt(jnp.maximum(diagonal(covariance), 0))
    smallest = jnp.min(jnp.where(scale > 0, scale, jnp.inf))
    is_graded = eps * d * jnp.max(scale) ** 2 > GRADED * smallest**2
    is_graded &= jnp.isfinite(jnp.max(scale))
    # A TPU's `eigh` has no small digits to keep, and this would double its program.
    absolute = lambda covariance, *_: _absolute(covariance)  # noqa: E731
    return lax.platform_dependent(
        covariance, scale, is_graded, tpu=absolute, default=_graded
    )


def _absolute(covariance):
    """Eigenpairs right to rounding of the largest eigenvalue."""
    s, basis = eigh(covariance)
    resolution = jnp.finfo(s.dtype).eps * len(s) * jnp.max(jnp.abs(s))
    return s, basis, jnp.broadcast_to(resolution, s.shape)


def _graded(covariance, scale, is_graded):
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    inverse = jnp.where(is_graded, inverse, 1)
    scaled = inverse[:, None] * covariance * inverse[None]
    s, basis, resolution = _absolute(scaled)
    relative = lambda: _relative(s, basis, scale, is_graded)  # noqa: E731
    return lax.cond(is_graded, relative, lambda: (s, basis, resolution))


def _relative(s, basis, scale, is_graded):
    """Eigenpairs from those of the matrix with columns of one scale.

    They are right relative to each eigenvalue if those of that matrix are: it has a
    factor without loss, and rotations of its columns keep the digits of the small ones.
    """
    eps, d = jnp.finfo(s.dtype).eps, len(s)
    factor = jnp.sqrt(jnp.maximum(s, 0))[:, None] * basis.T * scale[None]
    columns, basis = orthogonalize_columns(factor, is_graded)
    s = jnp.sum(columns**2, axis=0)
    order = jnp.argsort(s)
    s, basis = s[order], basis[:, order]
    return s, basis, eps * d * jnp.sum((scale[:, None] * basis) ** 2, axis=0)


def decompose(moments: Moments, *, use_bias: bool = True) -> Spectrum:
    """Returns the spectrum of the features.

    Args:
      moments: statistics of features and targets.
      use_bias: whether the head has a bias. With one, the bias absorbs the means
        and covariances are centred; without, raw second moments take their place.
        The spectrum knows from then on.

    Returns:
      The `Spectrum`. Where the moments are not finite its arrays are not either.

    Raises:
      TypeError: if the moments are none.
      ValueError: if their shapes do not agree.
    """
    require_record("moments", moments, Moments)
    return _decompose(moments, use_bias)


def require_spectrum(spectrum: Spectrum) -> None:
    """Refuses what is no spectrum, or one whose shapes do not agree."""
    require_record("spectrum", spectrum, Spectrum)
    d, covariance = len(spectrum.mean_x), spectrum.covariance
    name = "spectrum.covariance"
    if isinstance(covariance, Factor):
        require_shapes({name: "n d"}, {name: covariance.rows}, d=d)
    else:
        require_shapes({name: "d d"}, {name: covariance}, d=d)


def covariance_times(
    spectrum: Spectrum, kernel: Float[Array, "d k"]
) -> Float[Array, "d k"]:
    """Returns the covariance times a kernel."""
    if isinstance(spectrum.covariance, Factor):
        rows = spectrum.covariance.rows
        return dot(rows.T, dot(rows, kernel))
    return dot(spectrum.covariance, kernel)


def column_variances(spectrum: Spectrum) -> Float[Array, " d"]:
    """Returns the variance of each feature."""
    if isinstance(spectrum.covariance, Factor):
        return jnp.sum(spectrum.covariance.rows**2, axis=0)
    return diagonal(spectrum.covariance)


def mean_variance(spectrum: Spectrum) -> Float[Array, ""]:
    """Returns the mean variance of the features; one where all are constant."""
    variance = jnp.sum(column_variances(spectrum)) / len(spectrum.cross)
    return jnp.where(variance == 0, 1, variance)
