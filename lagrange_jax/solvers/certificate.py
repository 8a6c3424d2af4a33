r"""Evidence that a head is right, for every convex loss: residual, bound, status.

Let $L$ be the loss with its bias optimal, $c$ the bound on the squared norm, $W$ a
kernel of multiplier $\mu$ (zero where an `at_most` bound is not met), and
$2 \lambda_\text{min}$ a lower bound of the curvature of $L$: twice the smallest
eigenvalue for the squared error, zero for a convex loss of which nothing else is
known. For any other kernel $V$ that the bound allows

.. math:: L(W) - L(V) \le \langle \nabla L + 2 \mu W, W - V \rangle
          - (\lambda_\text{min} + \mu) \|W - V\|^2,

so that the loss is above the global minimum by at most

.. math:: 2 \sqrt c \, \|\nabla L + 2 \mu W\|
          + 4 c \max(0, -(\lambda_\text{min} + \mu)).

Where the curvature is positive the inner product cannot win by more than
$\|\nabla L / 2 + \mu W\|^2 / (\lambda_\text{min} + \mu)$; `gap_bound` takes the
better of the two in each direction of an orthonormal basis.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.numerics.linalg import column_length, column_sum
from lagrange_jax.solvers.solution import Status

__all__ = [
    "INACCURATE_SHARE",
    "gap_bound",
    "is_finite",
    "relative_residual",
    "status_of",
]

INACCURATE_SHARE = 1e-2
"""A bound beyond this share of variance or loss, the larger one, is no certificate."""


def gap_bound(
    residual: Float[Array, "m k"],
    curvature: Float[Array, "m n"],
    norm_sq: Float[Array, "1 n"],
) -> Float[Array, "1 n"]:
    r"""Bounds the loss above the global minimum.

    Args:
      residual: $\nabla L / 2 + \mu W$ in an orthonormal basis, up to sign; what
        rounding may hide in it has been added to its size.
      curvature: lower bounds of $\lambda + \mu$ in these directions; one row where
        all directions have the same.
      norm_sq: the bound $c$, one an output or one for all.

    Returns:
      The bound, of the shape of `norm_sq`.
    """
    residual, radius = jnp.abs(residual), 2 * jnp.sqrt(norm_sq)
    curvature = jnp.broadcast_to(curvature, (len(residual), norm_sq.shape[1]))
    # Whether the best step along this direction stays within reach.
    is_curved = (residual <= radius * curvature) & (curvature > 0)
    safe = jnp.where(curvature > 0, curvature, 1)
    curved = column_sum(jnp.where(is_curved, residual**2 / safe, 0), norm_sq)
    flat = column_length(jnp.where(is_curved, 0, residual), norm_sq)
    # NaN stays: it is no bound.
    defect = jnp.max(jnp.maximum(-curvature, 0), axis=0, keepdims=True)
    return curved + 2 * radius * flat + radius**2 * defect


def relative_residual(
    residual: Float[Array, "d k"], size: Float[Array, "1 n"]
) -> Float[Array, "1 n"]:
    """Returns the length of the KKT residual over that of its terms."""
    return column_length(residual, size) / jnp.where(size > 0, size, 1)


def is_finite(*arrays: Array) -> Bool[Array, ""]:
    """Returns whether every entry of every array is finite."""
    return jnp.isfinite(jnp.stack([jnp.sum(a) for a in arrays])).all()


def status_of(
    causes: Mapping[Status, Bool[Array, ""]],
    rows: Mapping[str, Array],
    *,
    tolerance: Float[Array, ""] | float,
    norm_tolerance: Float[Array, "*k"] | float,
    unit: Float[Array, ""],
) -> Int[Array, ""]:
    """Returns the first thing that went wrong, causes before their effects.

    Args:
      causes: what is wrong with the problem, in the order in which it is told.
      rows: fields of a `HeadSolution`.
      tolerance: of the relative KKT residual.
      norm_tolerance: of the relative error of each norm.
      unit: variance of the targets or loss, the larger one: what `gap_bound` is
        compared with.
    """
    bound = rows["gap_bound"]
    is_solved = (
        is_finite(rows["kernel"], rows["bias"], bound, rows["objective"])
        & jnp.all(rows["norm_error"] <= norm_tolerance)
        & jnp.all(rows["stationarity"] <= tolerance)
    )
    failures = {
        **causes,
        Status.NOT_CONVERGED: ~is_solved,
        Status.NOT_GLOBAL: ~jnp.all(rows["is_global"]),
        Status.INACCURATE: jnp.sum(bound) > INACCURATE_SHARE * unit,
    }
    codes = [jnp.int32(code) for code in failures]
    return jnp.select(list(failures.values()), codes, jnp.int32(Status.SUCCESS))
