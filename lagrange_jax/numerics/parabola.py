"""The minimum of a curve known at some points, and whether it really is one."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Minimum", "parabola_minimum"]


class Minimum(NamedTuple):
    """The minimum of a curve.

    Attributes:
      position: where the parabola through the lowest point and its neighbours is
        lowest; the lowest point itself if that is at the edge.
      index: index of the lowest point.
      is_edge: whether the lowest point lacks a finite neighbour on either side, so
        that the minimum of the curve may lie anywhere beyond.
    """

    position: Float[Array, ""]
    index: Int[Array, ""]
    is_edge: Bool[Array, ""]


def parabola_minimum(
    positions: Float[Array, " m"], values: Float[Array, " m"]
) -> Minimum:
    """Finds the minimum of a curve on a grid and between its points.

    Args:
      positions: strictly increasing, evenly spaced or not; at least three.
      values: the curve; values that are not finite count as infinitely high.

    Returns:
      The `Minimum`. The position lies between the neighbours of the lowest point.

    Raises:
      ValueError: if there are fewer than three points, or lengths differ.
    """
    if positions.shape != values.shape or len(positions) < 3:
        raise ValueError(
            "expected positions and values of one length, three at least; got "
            f"{positions.shape} and {values.shape}."
        )
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    index = jnp.argmin(values)
    middle = jnp.clip(index, 1, len(positions) - 2)
    around = middle + jnp.arange(-1, 2)
    x, y = positions[around], values[around]
    is_edge = (middle != index) | ~jnp.isfinite(y).all()
    y = jnp.where(is_edge, jnp.zeros_like(y), y)
    # Slopes of the two chords, a falling and a rising one; where the parabola's
    # slope, linear between the midpoints of the chords, is zero, there it is lowest.
    slopes, midpoints = jnp.diff(y) / jnp.diff(x), (x[1:] + x[:-1]) / 2
    rise = slopes[1] - slopes[0]
    share = -slopes[0] / jnp.where(rise > 0, rise, 1)
    lowest = midpoints[0] + share * (midpoints[1] - midpoints[0])
    refined = jnp.where(rise > 0, lowest, x[1])
    return Minimum(jnp.where(is_edge, positions[index], refined), index, is_edge)
