"""Implicit differentiation of a solved head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lagrange_jax.numerics.linalg import column_sum, dot

__all__ = ["differentiable", "without_derivative"]


@jax.custom_vjp
def differentiable(data: Any, point: Any, factors: Any) -> Any:
    r"""Gives (kernel, multiplier) its derivative in the data of the KKT system.

    With $A = S + \mu I$ and its inverse known from the forward pass, the cotangent
    $(\bar w, \bar\mu)$ is pulled back through $[[A, w], [w^T, 0]]$ to $(z, \nu)$; then
    $\bar r = z$, $\bar S = -\mathrm{sym}(z w^T)$ and $\bar c = \nu / 2$. Nothing is
    differentiated through `eigh`. In the hard case the directions that the data leave
    free have no derivative: targets and norm have the right one, so have features that
    stay out of these directions.

    Args:
      data: covariance $S$, cross-covariance $R$ and norm $c$ as a row.
      point: kernel and multiplier, solved by whatever means.
      factors: the eigenvectors, the inverse of $A$ in their basis, and whether the
        constraint is met; where it is not, the multiplier is a constant.

    Returns:
      `point`.
    """
    del data, factors
    return point


def _forward(data, point, factors):
    return point, (data[-1], point, factors)


def _backward(residuals, cotangent):
    norm_sq, (kernel, multiplier), (basis, inverse, is_met) = residuals
    kernel_bar, multiplier_bar = cotangent
    u, v = dot(basis.T, kernel), dot(basis.T, kernel_bar)
    curvature = column_sum(u * inverse * u, norm_sq)
    slope = column_sum(u * inverse * v, norm_sq) - multiplier_bar
    nu = jnp.where(is_met, slope / jnp.where(curvature > 0, curvature, 1), 0)
    z = dot(basis, inverse * (v - nu * u))
    # Where A is singular its pseudo-inverse stands in for it, and the kernel turns with
    # the range of S: d(S^+ r) has the term (I - S S^+) dS S^+ w too.
    free = dot(basis, jnp.where(inverse == 0, v, 0))
    outer = dot(z, kernel.T) - dot(free, dot(basis, inverse * u).T)
    data_bar = -(outer + outer.T) / 2, z, nu / 2
    point_bar = jnp.zeros_like(kernel), jnp.zeros_like(multiplier)
    return data_bar, point_bar, (jnp.zeros_like(basis), jnp.zeros_like(inverse), None)


differentiable.defvjp(_forward, _backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def without_derivative(reason: str, tree: Any) -> Any:
    """Returns the tree; whoever differentiates through it gets a `ValueError`.

    Args:
      reason: what the error says.
      tree: any pytree of arrays.
    """
    del reason
    return tree


@without_derivative.defjvp
def _refuse(reason, primals, tangents):
    del primals, tangents
    raise ValueError(reason)
