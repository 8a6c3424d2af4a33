r"""Ridge regression of the head for any strength, from one eigendecomposition.

.. math:: \min_{W, b} \frac1N \sum_n a_n \|W^T \phi_n + b - t_n\|^2
          + \frac{\text{strength}}{2} \|W\|_F^2

is solved by $(S + \mu I) W = R$ with the multiplier $\mu = \text{strength} / 2$, and
$b = m_t - W^T m_\phi$. In the eigenbasis of S that is a division, so kernels, losses,
norms and degrees of freedom of a hundred strengths cost little more than of one.

Every function takes one strength, a scalar or one an output;
`jax.vmap(function, (None, 0))(spectrum, strengths)` takes many. All are
differentiable in the strength and hold the spectrum constant.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import require_real
from lagrange_jax.bounds import require_norm
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.numerics.secular import solve_secular
from lagrange_jax.statistics.spectrum import Spectrum, require_spectrum

__all__ = [
    "RidgeHead",
    "degrees_of_freedom",
    "multiplier_to_strength",
    "norm_of_strength",
    "of_examples",
    "ridge_loss",
    "ridge_path",
    "solve_ridge",
    "strength_of_norm",
    "strength_to_multiplier",
]


class RidgeHead(NamedTuple):
    """A head of ridge regression, or a path of them along a leading axis.

    Attributes:
      kernel: weights W.
      bias: bias b; zero where the spectrum is that of a head without bias.
    """

    kernel: Float[Array, "*path d k"]
    bias: Float[Array, "*path k"]


def strength_to_multiplier(strength: Float[Array, "*l"]) -> Float[Array, "*l"]:
    """Returns the KKT multiplier of the norm that a strength gives: half of it.

    The penalty is half the strength times the squared norm, and the loss is a mean
    of squares without a half; their derivatives differ by this factor of two.
    """
    return strength / 2


def multiplier_to_strength(multiplier: Float[Array, "*l"]) -> Float[Array, "*l"]:
    """Returns the ridge strength of a KKT multiplier: twice as much."""
    return 2 * multiplier


def solve_ridge(spectrum: Spectrum, strength: Float[Array, "*k"] | float) -> RidgeHead:
    """Returns the head of ridge regression.

    Args:
      spectrum: spectrum of the features, whole or thin.
      strength: at least zero, `[]` or one an output `[k]`. At zero (and below the
        rounding error of the eigenvalues) empty directions are left out, which gives
        the least-squares solution of minimum norm.

    Returns:
      The `RidgeHead`.

    Raises:
      ValueError: if the strength is neither a scalar nor one an output.
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    weights = spectrum.projections * shrunk_inverse(spectrum, strength)
    kernel = dot(spectrum.eigenvectors, weights)
    mean = dot(spectrum.mean_x, kernel)
    return RidgeHead(kernel, spectrum.mean_t - mean)


def ridge_path(spectrum: Spectrum, strengths: Float[ArrayLike, "l *k"]) -> RidgeHead:
    """Returns the heads of many strengths: `solve_ridge`, vectorised and jitted.

    Args:
      spectrum: spectrum of the features, whole or thin.
      strengths: strengths `[l]`, or `[l, k]` for one an output.

    Returns:
      The `RidgeHead` with a leading axis of length l.

    Raises:
      ValueError: if the strengths have another shape.

    Example:
      >>> features = jnp.array([[1.0], [2.0], [3.0]])
      >>> spectrum = lj.decompose(lj.compute_moments(features, 2 * features))
      >>> path = lj.ridge_path(spectrum, jnp.array([0.0, 4 / 3]))
      >>> print(path.kernel[:, 0, 0])
      [2. 1.]
    """
    require_spectrum(spectrum)
    k = spectrum.projections.shape[1]
    shape = require_real("strengths", strengths)
    if shape[1:] not in ((), (k,)) or not shape:
        raise ValueError(
            f"expected strengths of shape [l], or [l, {k}] for one an output; got "
            f"{list(shape)}."
        )
    return _path(spectrum, jnp.asarray(strengths))


@jax.jit
def _path(spectrum, strengths):
    return jax.vmap(solve_ridge, (None, 0))(spectrum, strengths)


def norm_of_strength(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, " k"]:
    r"""Returns $\|w_j\|^2$ of ridge regression; its sum is that of the whole kernel.

    Arguments and errors are those of `solve_ridge`.
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    weights = spectrum.projections * shrunk_inverse(spectrum, strength)
    return jnp.sum(weights**2, axis=0)


def strength_of_norm(
    spectrum: Spectrum, norm_sq: Float[Array, "*k"] | float
) -> Float[Array, "*k"]:
    r"""Returns the strength at which ridge regression has the norm: the inverse map.

    Args:
      spectrum: spectrum of the features, whole or thin.
      norm_sq: $\|w_j\|^2$ of every output `[k]`, or $\|W\|_F^2$ as a scalar.

    Returns:
      The strength, of the shape of `norm_sq`; zero where least squares without a
      penalty has no larger norm.

    Raises:
      ValueError: if a norm has another shape or is visibly not positive.
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    s, projections = spectrum.eigenvalues, spectrum.projections
    kept = (s > spectrum.resolution)[:, None]
    loads = jnp.where(kept, projections, 0)
    norm_sq = require_norm(norm_sq, projections.shape[1]).astype(s.dtype)
    largest = norm_of_strength(spectrum, 0.0)
    is_met = norm_sq < (largest if norm_sq.ndim else largest.sum())
    # Without load the equation has no root; any other will do in its place.
    loads = jnp.where(jnp.any(loads != 0, axis=0, keepdims=True), loads, 1)
    root = solve_secular(jnp.maximum(s, 0), loads, norm_sq.reshape(1, -1))
    return jnp.where(is_met, multiplier_to_strength(root.reshape(norm_sq.shape)), 0)


def degrees_of_freedom(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, "*k"]:
    r"""Returns the effective degrees of freedom $\sum_i s_i / (s_i + \mu)$ of a kernel.

    The bias, which is not penalised, takes one more. Arguments and errors are those
    of `solve_ridge`.

    Returns:
      The degrees of freedom of one output's kernel, of the shape of `strength`.
    """
    require_spectrum(spectrum)
    taken = jnp.sum(1 - shrinkage(lax.stop_gradient(spectrum), strength), axis=0)
    return taken.reshape(np.shape(strength))


def of_examples(spectrum: Spectrum, values: Float[Array, " k"]) -> Float[Array, " k"]:
    """Returns what depends on the number of examples; NaN where weights are shares.

    Weights count examples. They may have been divided by their sum: then they add up to
    one, and nothing tells how many examples there are.
    """
    one = 1 + jnp.finfo(spectrum.count.dtype).eps ** 0.5
    return jnp.where(spectrum.count > one, values, jnp.nan)


def ridge_loss(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, " k"]:
    r"""Returns each output's mean squared training error, without the penalty.

    It is the error of the least-squares solution plus a sum of positive terms
    $(\mu / (s_i + \mu))^2 p_i^2 / s_i$, so that no digits cancel where the fit is
    nearly perfect. Arguments and errors are those of `solve_ridge`.
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    s, variance = spectrum.eigenvalues[:, None], spectrum.variance
    kept = s > spectrum.resolution[:, None]
    explained = spectrum.projections**2 / jnp.where(kept, s, 1)
    explained = jnp.where(kept, explained, 0)
    least = variance - explained.sum(0)
    # A remainder of the size of the rounding error of the sum is no remainder.
    noise = jnp.finfo(s.dtype).eps * len(s) * variance
    least = jnp.where(least > noise, least, 0)
    return least + jnp.sum(shrinkage(spectrum, strength) ** 2 * explained, axis=0)


def multiplier_row(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, "1 m"]:
    """Returns the multipliers as a row, m = 1 or k, or refuses the strength."""
    k, dtype = spectrum.projections.shape[1], spectrum.projections.dtype
    require_real("strength", strength)
    strength = jnp.asarray(strength, dtype)
    if strength.shape not in ((), (k,)):
        raise ValueError(
            f"expected a strength of shape (), or ({k},) for one an output; got "
            f"{strength.shape}. For a path use ridge_path or "
            "jax.vmap(function, (None, 0))(spectrum, strengths)."
        )
    return strength_to_multiplier(strength.reshape(1, -1))


def shrunk_inverse(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, "d m"]:
    r"""Returns $1 / (s_i + \mu)$, and zero where that is 1 / rounding error."""
    multiplier = multiplier_row(spectrum, strength)
    total = jnp.maximum(spectrum.eigenvalues, 0)[:, None] + multiplier
    kept = total > spectrum.resolution[:, None]
    return jnp.where(kept, 1 / jnp.where(kept, total, 1), 0)


def shrinkage(
    spectrum: Spectrum, strength: Float[Array, "*k"] | float
) -> Float[Array, "d m"]:
    r"""Returns $\mu / (s_i + \mu)$, the share of a direction that is not fitted."""
    inverse = shrunk_inverse(spectrum, strength)
    return jnp.where(inverse > 0, multiplier_row(spectrum, strength) * inverse, 1)
