r"""The spectrum of fewer examples than features, from the n x n Gram matrix.

With centred, weighted features $X = U \,\mathrm{diag}(\sqrt s)\, Q^T$ the
eigendecomposition of $X X^T$ gives the same $s$ and $Q$ as that of $S = X^T X$, but
for directions that no example touches, in $O(n^3 + n^2 d)$ instead of $O(d^3)$.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_shapes
from lagrange_jax.numerics.linalg import dot, eigh, rank_tolerance
from lagrange_jax.statistics.moments import compute_moments
from lagrange_jax.statistics.spectrum import (
    Factor,
    NumBiases,
    Spectrum,
    rounding_alone,
    without,
)

__all__ = ["decompose_gram", "thin_eigenpairs"]


def decompose_gram(
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None = None,
    *,
    use_bias: bool = True,
) -> Spectrum:
    """Returns the thin spectrum: n eigenvalues and eigenvectors instead of d.

    The constrained solver, the ridge path, the criteria and leave-one-out read it as
    they read that of `decompose`; no d x d matrix is formed.

    Args:
      features: inputs of the head, fewer rows than columns as a rule.
      targets: targets, one column an output.
      weights: non-negative example weights; None means all ones.
      use_bias: whether the head has a bias.

    Returns:
      The `Spectrum`, its eigenvectors `[d, n]`; columns of empty directions are zero.

    Raises:
      ValueError: if ranks or lengths do not agree, or there are no rows.
    """
    dims = dict(features="n d", targets="n k", weights="n")
    arrays = dict(features=features, targets=targets, weights=weights)
    return _decompose(*require_shapes(dims, arrays), use_bias=use_bias)


@jax.jit(static_argnames="use_bias")
def _decompose(features, targets, weights, *, use_bias):
    # Of the moments only what is read here is computed: no d x d product.
    moments = compute_moments(features, targets, weights)
    dtype = moments.count.dtype
    mean_x, mean_t = moments.mean_x, moments.mean_t
    if not use_bias:
        mean_x, mean_t = jnp.zeros_like(mean_x), jnp.zeros_like(mean_t)
    x = _scaled_rows(features.astype(dtype) - mean_x[None], weights, moments.count)
    t = _scaled_rows(targets.astype(dtype) - mean_t[None], weights, moments.count)
    is_constant = rounding_alone(jnp.sum(x**2, axis=0), mean_x)
    x = without(x, is_constant[None])
    t = without(t, rounding_alone(jnp.sum(t**2, axis=0), mean_t)[None])
    eigenvalues, columns, projections, resolution = lax.stop_gradient(
        thin_eigenpairs(x, t)
    )
    return Spectrum(
        eigenvalues,
        columns,
        projections,
        covariance=Factor(x),
        cross=dot(x.T, t),
        variance=jnp.sum(t**2, axis=0),
        mean_x=mean_x,
        mean_t=mean_t,
        count=moments.count,
        resolution=resolution,
        num_biases=NumBiases(use_bias),
    )


def thin_eigenpairs(
    rows: Float[Array, "n d"], targets: Float[Array, "n k"]
) -> tuple[Array, Array, Array, Array]:
    """Returns eigenvalues, eigenvectors, projections and resolution of few rows.

    Args:
      rows: centred features, each times the root of its share of the weight.
      targets: likewise.
    """
    eigenvalues, left = eigh(lax.stop_gradient(dot(rows, rows.T)))
    tolerance = rank_tolerance(eigenvalues)
    kept = (eigenvalues > tolerance)[None]
    roots = jnp.sqrt(jnp.where(kept, eigenvalues[None], 1))
    columns = dot(rows.T, jnp.where(kept, left / roots, 0))
    projections = jnp.where(kept, roots, 0).T * dot(left.T, targets)
    resolution = jnp.broadcast_to(tolerance, eigenvalues.shape)
    return eigenvalues, columns, projections, resolution


def _scaled_rows(rows, weights, count):
    """Rows times the root of their share of the total weight; empty rows are zero."""
    count = jnp.where(count > 0, count, 1)
    if weights is None:
        return rows / jnp.sqrt(count)
    share = weights.astype(rows.dtype)[:, None] / count
    return jnp.where(share > 0, rows, 0) * jnp.sqrt(share)
