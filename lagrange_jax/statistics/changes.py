r"""The same data seen from another kernel, or in other units of the features.

A head may be bounded by its distance to a given kernel $W_0$, or in a norm that
weighs the features. Both are the ordinary problem in $V$ with $W = W_0 + D V$:
targets become $t_n - W_0^T \phi_n$, features $D \phi_n$.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_shapes
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.statistics.gram import thin_eigenpairs
from lagrange_jax.statistics.spectrum import (
    Factor,
    Spectrum,
    column_variances,
    covariance_times,
    eigenpairs,
    mean_variance,
    require_spectrum,
)

__all__ = ["evening_scale", "rescaled", "residual_spectrum"]


def residual_spectrum(spectrum: Spectrum, kernel: Float[Array, "d k"]) -> Spectrum:
    r"""Returns the spectrum of what a kernel leaves over, $t_n - W_0^T \phi_n$.

    With it all that is penalised or bounded is a *change* V of the kernel $W_0$: a
    prior centred there in `evidence`, a ridge path that ends there instead of at
    zero. The head is $W_0 + V$, with the bias that goes with V.

    Args:
      spectrum: the problem, whole or thin.
      kernel: $W_0$.

    Returns:
      The `Spectrum`, with the same eigenvectors: nothing is decomposed again. Its
      targets are differences of moments. Where $W_0$ explains all but a part f of the
      variance they are known to $\epsilon / f$.

    Raises:
      TypeError: if the spectrum or the kernel is of another kind.
      ValueError: if their shapes do not agree.

    Example:
      The slope is 2; seen from a slope of 3 it is -1.

      >>> features = jnp.array([[1.0], [2.0], [3.0]])
      >>> spectrum = lj.decompose(lj.compute_moments(features, 2 * features))
      >>> seen = lj.statistics.residual_spectrum(spectrum, jnp.array([[3.0]]))
      >>> print(f"{lj.ridge.solve_ridge(seen, 0.0).kernel[0, 0]:.3f}")
      -1.000
    """
    require_spectrum(spectrum)
    spectrum = jax.tree.map(jnp.asarray, spectrum)
    d, k = spectrum.cross.shape
    require_shapes({"kernel": "d k"}, {"kernel": kernel}, d=d, k=k)
    kernel = jnp.asarray(kernel, spectrum.cross.dtype)
    product = covariance_times(spectrum, kernel)
    change = jnp.sum(kernel * (product - 2 * spectrum.cross), axis=0)
    frozen, s = lax.stop_gradient((spectrum, spectrum.eigenvalues[:, None]))
    own = dot(frozen.eigenvectors.T, lax.stop_gradient(kernel))
    return spectrum._replace(
        projections=frozen.projections - s * own,
        cross=spectrum.cross - product,
        variance=jnp.maximum(spectrum.variance + change, 0),
        mean_t=spectrum.mean_t - dot(spectrum.mean_x, kernel),
    )


def evening_scale(spectrum: Spectrum) -> Float[Array, " d"]:
    """Returns factors that give every feature the mean variance; constants keep theirs.

    In these units the Euclidean norm is that of the metric `"feature_variance"`.
    """
    variance = column_variances(spectrum)
    is_alive = variance > 0
    ratio = mean_variance(spectrum) / jnp.where(is_alive, variance, 1)
    return jnp.where(is_alive, jnp.sqrt(ratio), 1)


def rescaled(spectrum: Spectrum, scale: Float[Array, " d"]) -> Spectrum:
    """Returns the spectrum of features that are multiplied by `scale`.

    Args:
      spectrum: the problem, whole or thin; it is decomposed again.
      scale: one positive factor a feature.
    """
    cross, covariance = scale[:, None] * spectrum.cross, spectrum.covariance
    new: Any
    if isinstance(covariance, Factor):
        new = Factor(covariance.rows * scale[None])
        # The part of the targets that the features see, from their projections.
        s = jnp.where(spectrum.eigenvalues > 0, spectrum.eigenvalues, 1)[:, None]
        seen = dot(
            covariance.rows, dot(spectrum.eigenvectors, spectrum.projections / s)
        )
        pairs = thin_eigenpairs(new.rows, lax.stop_gradient(seen))
    else:
        new = scale[:, None] * covariance * scale[None]
        eigenvalues, vectors, resolution = eigenpairs(lax.stop_gradient(new))
        pairs = eigenvalues, vectors, dot(vectors.T, cross), resolution
    eigenvalues, vectors, projections, resolution = lax.stop_gradient(pairs)
    return spectrum._replace(
        eigenvalues=eigenvalues,
        eigenvectors=vectors,
        projections=projections,
        covariance=new,
        cross=cross,
        mean_x=scale * spectrum.mean_x,
        resolution=resolution,
    )
