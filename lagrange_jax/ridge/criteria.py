r"""Leave-one-out errors of ridge regression, without fitting anything again.

The error of an example that was left out is its training error divided by one minus
its leverage. Leaving out keeps the penalty on the *sum* of squared errors,
$N \mu \|w\|^2$, as it was: the prior does not change because an example is missing.
Generalised cross-validation puts the mean leverage in place of each.

References:
  G. H. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for
  choosing a good ridge parameter", Technometrics 21, 1979.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from lagrange_jax._checks import require_shapes
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.ridge.path import (
    of_examples,
    ridge_loss,
    shrinkage,
    shrunk_inverse,
)
from lagrange_jax.statistics.spectrum import Spectrum, require_spectrum

__all__ = ["gcv", "leave_one_out", "leave_one_out_errors"]

# Rows whose errors, for all strengths at once, are held at a time.
BLOCK_ROWS = 512


def leave_one_out_errors(
    spectrum: Spectrum,
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    strength: Float[Array, "*k"] | float,
    weights: Float[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    r"""Returns $t_n - f_{-n}(\phi_n)$, the error of each example when left out.

    With $z_n = Q^T (\phi_n - m_\phi)$ the leverage of an example is
    $h_n = \frac{a_n}{N} (1 + \sum_i z_{ni}^2 / (s_i + \mu))$, the one being the
    bias, and its error is $(t_n - f(\phi_n)) / (1 - h_n)$. Exact, in $O(n d (d + k))$
    for one strength and $O(n d k)$ for each further one under `jax.vmap`.

    Args:
      spectrum: spectrum of these very features, targets and weights.
      features: inputs of the head.
      targets: targets, one column an output.
      strength: at least zero, `[]` or one an output `[k]`.
      weights: the weights that the moments had; None means all ones. Examples of
        weight zero are predicted as they are.

    Returns:
      The errors; infinite where nothing but the example itself speaks for its
      prediction (leverage one).

    Raises:
      ValueError: if the strength is neither a scalar nor one an output.
    """
    require_spectrum(spectrum)
    d, k = spectrum.cross.shape
    features, targets, weights = _read_rows(features, targets, weights, d=d, k=k)
    spectrum = lax.stop_gradient(spectrum)
    inverse = shrunk_inverse(spectrum, strength)
    rotated = dot(features - spectrum.mean_x[None], spectrum.eigenvectors)
    fitted = dot(rotated, inverse * spectrum.projections)
    share = jnp.ones(len(features), inverse.dtype) if weights is None else weights
    share = (share / spectrum.count)[:, None]
    own = int(spectrum.num_biases) + dot(rotated**2, inverse)
    errors = targets - spectrum.mean_t[None] - fitted
    return _guarded_ratio(errors, 1 - share * own, len(inverse))


def leave_one_out(
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None = None,
) -> Callable[[Spectrum, Float[Array, "*k"]], Float[Array, " k"]]:
    """Returns the mean squared leave-one-out error as a criterion of the strength.

    The rows are visited in blocks, so that memory stays bounded for any number of
    rows however many strengths are asked for at once.

    Args:
      features: inputs of the head.
      targets: targets, one column an output.
      weights: non-negative example weights; None means all ones. Rows of weight zero
        are never looked at.

    Returns:
      `criterion(spectrum, strength) -> [k]` for the spectrum of the same data; a
      pytree, to be handed through `jax.jit`. For a single number of each strength
      take the sum over outputs.
    """
    rows = jax.tree.map(jnp.asarray, _read_rows(features, targets, weights))
    return Partial(_mean_squared, *rows)


def gcv(
    spectrum: Spectrum,
    strength: Float[Array, "*k"] | float,
) -> Float[Array, " k"]:
    r"""Returns the generalised cross-validation score of each output.

    $\mathrm{loss} / (1 - \nu / N)^2$ with $\nu$ the degrees of freedom, the bias
    included. Weights count as numbers of examples.

    Args:
      spectrum: spectrum of the features, whole or thin.
      strength: at least zero, `[]` or one an output `[k]`.

    Returns:
      An estimate of the mean squared error on new data; infinite where the fit uses
      up all examples, NaN where the weights add up to one at most: they are shares.

    Raises:
      ValueError: if the strength is neither a scalar nor one an output.
    """
    require_spectrum(spectrum)
    count, unfitted = spectrum.count, shrinkage(spectrum, strength)
    free = count - int(spectrum.num_biases) - len(unfitted)
    slack = (free + unfitted.sum(0)) / count
    loss = ridge_loss(spectrum, strength)
    once = _guarded_ratio(loss, slack, len(unfitted))
    return of_examples(spectrum, _guarded_ratio(once, slack, len(unfitted)))


def _read_rows(features, targets, weights, **sizes):
    dims = dict(features="n d", targets="n k", weights="n")
    arrays = dict(features=features, targets=targets, weights=weights)
    return require_shapes(dims, arrays, **sizes)


def _mean_squared(features, targets, weights, spectrum, strength):
    n, dtype = len(features), spectrum.projections.dtype
    weights = jnp.ones(n, dtype) if weights is None else weights.astype(dtype)
    size = min(BLOCK_ROWS, n)

    def step(i, total):
        # The last block overlaps the one before; what was seen there is left out.
        start = jnp.minimum(i * size, n - size)
        rows = (lax.dynamic_slice_in_dim(a, start, size) for a in (features, targets))
        a = lax.dynamic_slice_in_dim(weights, start, size)
        x, t = (jnp.where(a[:, None] > 0, b.astype(dtype), 0) for b in rows)
        errors = leave_one_out_errors(spectrum, x, t, strength, a)
        counted = (a > 0) & (start + jnp.arange(size) >= i * size)
        squares = a[:, None] * errors**2
        return total + jnp.where(counted[:, None], squares, 0).sum(0)

    total = jnp.zeros_like(spectrum.variance)
    return lax.fori_loop(0, -(-n // size), step, total) / spectrum.count


def _guarded_ratio(errors, slack, num_terms):
    """Errors over slack, infinite where the slack is the rounding of a sum to one."""
    kept = slack > jnp.finfo(slack.dtype).eps * num_terms
    return jnp.where(kept, errors / jnp.where(kept, slack, 1), jnp.inf)
