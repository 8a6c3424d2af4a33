r"""Coordinates of all kernels of a norm, in which a search needs no constraint.

On the sphere $W = \sqrt c\, A / \|A\|$; in the ball $W = A / (1 + \|A\|^2 / 4c)$, which
maps all of space smoothly onto it, $\|A\| = 2 \sqrt c$ onto the sphere. Where a convex
function of W is locally least over all A in the ball's coordinates, it is least over
the ball: on the sphere they turn an outward slope into curvature, an inward one into
the way back in.

In $A = Q (h_j s + \nu_j)^{-1/2} V$ a function with the curvature $h_j S + \nu_j I$ in
column j, such as a quadratic loss with the multiplier $\nu$, has that of the identity.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lagrange_jax.numerics.linalg import column_length, column_sum, dot
from lagrange_jax.numerics.secular import solve_secular
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["ON_SPHERE", "Coordinates", "make_coordinates", "onto_sphere", "settle"]

# Of outputs with one normaliser, such as classes, a likely one may hand its curvature
# on to any other: none counts as less than this part of the most curved.
LEAST_SHARE = 0.1
# Directions flatter than this part of the mean variance are not stretched further.
FLATTEST = 1e-3
# The sphere is reached quadratically from inside: nearer than this is on it.
ON_SPHERE = 1e-3
# From the sphere itself the coordinates of the ball see no way in.
INSIDE = 0.9


class Coordinates(NamedTuple):
    r"""A way to write kernels.

    Attributes:
      basis: $Q$.
      scale: $(h_j s + \nu_j)^{-1/2}$.
      bias_scale: $h_j^{-1/2}$.
      norm_sq: $c$.
      factor: one, or zero where the only kernel is zero.
    """

    basis: Float[Array, "d d"]
    scale: Float[Array, "d k"]
    bias_scale: Float[Array, " k"]
    norm_sq: Float[Array, "1 m"]
    factor: Float[Array, "1 m"] | float = 1.0

    def to_kernel(
        self, values: Float[Array, "d k"], on_sphere: Bool[Array, ""]
    ) -> Float[Array, "d k"]:
        """Returns the kernel, a smooth function, on the sphere or in the ball."""
        raw = self.factor * dot(self.basis, self.scale * values)
        # The sum of squares is smooth at zero, where the length is not.
        square = column_sum(raw**2, self.norm_sq)
        length = jnp.sqrt(jnp.where(on_sphere, square, 1))
        on = jnp.sqrt(self.norm_sq) / jnp.where(length > 0, length, 1)
        return raw * jnp.where(on_sphere, on, 1 / (1 + square / (4 * self.norm_sq)))

    def of_kernel(
        self, kernel: Float[Array, "d k"], on_sphere: Bool[Array, ""]
    ) -> Float[Array, "d k"]:
        """Returns the coordinates of a kernel; of one outside, of one inside."""
        length = column_length(kernel, self.norm_sq)
        length = jnp.where(length > 0, length, 1)
        share = jnp.minimum(length / jnp.sqrt(self.norm_sq), 1)
        share = jnp.minimum(share / (1 + jnp.sqrt(1 - share**2)), INSIDE)
        factor = jnp.where(on_sphere, 1.0, 2 * share)
        raw = kernel * (factor * jnp.sqrt(self.norm_sq) / length)
        return dot(self.basis.T, raw) / self.scale


def make_coordinates(
    spectrum: Spectrum,
    curvature: Float[Array, " k"],
    norm_sq: Float[Array, "1 m"],
    is_coupled: bool = False,
) -> tuple[Coordinates, Float[Array, "d k"]]:
    r"""Returns coordinates in which the curvature is even, and a kernel to start from.

    Args:
      spectrum: spectrum of the features.
      curvature: $h$, about the curvature of the loss in each logit.
      norm_sq: $c$, `[1, k]` or `[1, 1]`.
      is_coupled: whether the outputs have one normaliser.

    Returns:
      The `Coordinates`, and the minimiser of the quadratic loss of that curvature, all
      but at most of that norm.
    """
    basis, projections = spectrum.eigenvectors, spectrum.projections
    if is_coupled:
        curvature = jnp.maximum(curvature, LEAST_SHARE * curvature.max())
    s, h = jnp.maximum(spectrum.eigenvalues, 0)[:, None], curvature[None]
    flattest = FLATTEST * h * s.mean()
    shift = _multiplier(s, h, projections, norm_sq)
    shift = jnp.maximum(shift, jnp.where(flattest > 0, flattest, 1))
    inverse = 1 / (h * s + shift)
    kernel = dot(basis, inverse * projections)
    scales = jnp.sqrt(inverse), 1 / jnp.sqrt(curvature)
    return Coordinates(basis, *scales, norm_sq), kernel


def _multiplier(s, h, projections, norm_sq):
    """The multipliers with which the quadratic model's minimiser has the norm."""
    top = jnp.max(jnp.abs(projections), keepdims=True)
    # Without any load nothing is to be solved.
    projections = jnp.where(top > 0, projections, 1)
    if norm_sq.shape[1] == projections.shape[1]:
        loads = projections / h
        loads = jnp.where(jnp.any(loads != 0, 0, keepdims=True), loads, 1)
        return h * (solve_secular(s[:, 0] - s[0], loads, norm_sq) - s[:1])
    curvatures = (h * s).ravel()
    order = jnp.argsort(curvatures)
    gaps = curvatures[order] - curvatures[order[0]]
    root = solve_secular(gaps, projections.ravel()[order][:, None], norm_sq)
    return root - curvatures[order[0]]


def settle(
    coordinates: Coordinates,
    kernel: Float[Array, "d k"],
    filling: Float[Array, "d k"] | None,
    on_sphere: Bool[Array, ""],
    is_bound: Bool[Array, "1 m"],
) -> Float[Array, "d k"]:
    """Puts a kernel from the ball exactly where it belongs.

    Args:
      coordinates: in which it was searched for.
      kernel: what a search returned.
      filling: None leaves a kernel inside the ball; else its mean column is added to
        all columns, which no softmax sees, until the norm is reached
      on_sphere: where it has to be.
      is_bound: whether the loss falls beyond the sphere.

    Returns:
      The kernel; on the sphere where it was all but there and the loss falls outwards.
      To move an optimum just inside would spoil it.
    """
    norm_sq = coordinates.norm_sq
    is_near = column_length(kernel, norm_sq) ** 2 >= (1 - ON_SPHERE) * norm_sq
    moved = onto_sphere(coordinates, kernel)
    if filling is not None:
        centred = kernel - kernel.mean(1, keepdims=True)
        missing = norm_sq - column_length(centred, norm_sq) ** 2
        common = jnp.broadcast_to(filling.mean(1, keepdims=True), kernel.shape)
        length = column_length(common, norm_sq)
        factor = jnp.sqrt(jnp.maximum(missing, 0)) / jnp.where(length > 0, length, 1)
        kernel = jnp.where(on_sphere, centred + factor * common, kernel)
    return jnp.where(is_near & is_bound, moved, kernel)


def onto_sphere(
    coordinates: Coordinates, kernel: Float[Array, "d k"]
) -> Float[Array, "d k"]:
    """Moves a kernel as solutions move with their norm: most where the loss is flat.

    To scale it would bend the loss as much as it is stiff.
    """
    basis, norm_sq = coordinates.basis, coordinates.norm_sq
    direction = dot(basis, coordinates.scale**2 * dot(basis.T, kernel))
    missing = norm_sq - column_length(kernel, norm_sq) ** 2
    along = column_sum(direction * kernel, norm_sq)
    root = along**2 + column_sum(direction**2, norm_sq) * missing
    root = along + jnp.sqrt(jnp.maximum(root, 0))
    moved = kernel + missing / jnp.where(root > 0, root, 1) * direction
    length = column_length(moved, norm_sq)
    return moved * (jnp.sqrt(norm_sq) / jnp.where(length > 0, length, 1))
