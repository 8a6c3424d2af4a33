r"""Coordinates of all kernels of a norm, in which a search needs no constraint.

On the sphere $W = \sqrt c\, A / \|A\|$; in the ball $W = A / (1 + \|A\|^2 / 4c)$, which
maps all of space smoothly onto it, $\|A\| = 2 \sqrt c$ onto the sphere. Where a convex
function of W is locally least over all A in the ball's coordinates, it is least over
the ball: on the sphere they turn an outward slope into curvature, an inward one into
the way back in.

In $A = Q (s + \nu)^{-1/2} V$ a function with the curvature $S + \nu I$, such as a
quadratic loss with the multiplier $\nu$, has that of the identity.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax.bounds import Relation
from lagrange_jax.numerics.linalg import column_length, dot
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["ON_SPHERE", "NormCoordinates", "make_coordinates", "settle"]

# Directions flatter than this part of the mean variance are not stretched further.
FLATTEST = 1e-3
# The sphere is reached quadratically from inside: nearer than this is on it.
ON_SPHERE = 1e-3
# From the sphere itself the coordinates of the ball see no way in.
INSIDE = 0.9


class NormCoordinates(NamedTuple):
    """A way to write kernels.

    Attributes:
      to_kernel: `to_kernel(coordinates) -> kernel`, smooth, of a norm that fits.
      start: coordinates of the kernel to start from.
    """

    to_kernel: Callable[[Float[Array, "d k"]], Float[Array, "d k"]]
    start: Float[Array, "d k"]


def make_coordinates(
    spectrum: Spectrum,
    multiplier: Float[Array, ""],
    kernel: Float[Array, "d k"],
    norm_sq: Float[Array, "1 m"],
    relation: Relation,
) -> NormCoordinates:
    r"""Returns coordinates in which the curvature is even.

    Args:
      spectrum: spectrum of the features.
      multiplier: $\nu$, about the curvature that the constraint adds.
      kernel: where to start; no column is zero.
      norm_sq: $c$, `[1, k]` or `[1, 1]`.
      relation: on the sphere or in the ball.

    Returns:
      The `NormCoordinates`.
    """
    s, basis = spectrum.eigenvalues, spectrum.eigenvectors
    s = jnp.maximum(s, 0)
    flattest = FLATTEST * s.mean()
    shift = jnp.maximum(multiplier, jnp.where(flattest > 0, flattest, 1))
    scale = 1 / jnp.sqrt(s + shift)[:, None]
    length = column_length(kernel, norm_sq)
    radius = jnp.sqrt(norm_sq)
    if relation == "equality":
        start = kernel * (radius / length)
    else:
        share = jnp.minimum(length / radius, 1)
        share = jnp.minimum(share / (1 + jnp.sqrt(1 - share**2)), INSIDE)
        start = kernel * (2 * radius * share / length)

    def to_kernel(coordinates):
        raw = dot(basis, scale * coordinates)
        length = column_length(raw, norm_sq)
        if relation == "equality":
            return raw * (radius / length)
        return raw / (1 + length**2 / (4 * norm_sq))

    return NormCoordinates(to_kernel, dot(basis.T, start) / scale)


def settle(
    kernel: Float[Array, "d k"],
    norm_sq: Float[Array, "1 m"],
    filling: Float[Array, "d k"] | None,
) -> Float[Array, "d k"]:
    """Puts a kernel from the ball exactly where it belongs.

    Args:
      kernel: what a search returned.
      norm_sq: the wanted norm.
      filling: None leaves a kernel inside the ball; else its mean column is added to
        all columns, which no softmax sees, until the norm is reached.

    Returns:
      The kernel; on the sphere where it was all but there.
    """
    length_sq = column_length(kernel, norm_sq) ** 2
    near = length_sq >= (1 - ON_SPHERE) * norm_sq
    scaled = kernel * jnp.sqrt(norm_sq / jnp.where(near, length_sq, 1))
    if filling is not None:
        centred = kernel - kernel.mean(1, keepdims=True)
        missing = norm_sq - column_length(centred, norm_sq) ** 2
        common = jnp.broadcast_to(filling.mean(1, keepdims=True), kernel.shape)
        length = column_length(common, norm_sq)
        factor = jnp.sqrt(jnp.maximum(missing, 0)) / jnp.where(length > 0, length, 1)
        kernel = centred + factor * common
    return jnp.where(near, scaled, kernel)
