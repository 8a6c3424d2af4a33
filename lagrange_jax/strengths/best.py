"""The strength of least validation loss, and what is known where a grid ends."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from lagrange_jax._checks import require_real, require_shapes
from lagrange_jax.numerics.parabola import parabola_minimum

__all__ = ["BestStrength", "best_strength", "require_strengths"]


class BestStrength(NamedTuple):
    """The strengths of least validation loss.

    Attributes:
      strength: the best strength of each curve; NaN where every loss is NaN or
        infinite.
      is_censored: whether it lies at the edge of the grid, or next to a strength at
        which training diverged: the optimum is there or beyond.
      bound: where the optimum of a censored curve is known to lie beyond, on the side
        of `strength`: an optimum between this and the edge would also have been
        reported at the edge. None, in a record made by hand, stands for `strength`
        itself, on the side of the strengths at which it is found.
    """

    strength: Float[Array, "*curves"]
    is_censored: Bool[Array, "*curves"]
    bound: Float[Array, "*curves"] | None = None


def best_strength(
    losses: Float[ArrayLike, "..."],
    strengths: Float[ArrayLike, " strengths"],
    *,
    axis: int = 0,
    refine: bool = True,
) -> BestStrength:
    """Finds the strength of least validation loss, curve by curve.

    For what the spectrum of a head predicts without a validation curve, see
    `choose_strength`.

    Args:
      losses: validation losses, say `[strengths, sizes, seeds]`; losses that are not
        finite (a run diverged) count as infinitely high.
      strengths: the grid, positive and strictly increasing.
      axis: the axis of `losses` that runs over the strengths.
      refine: whether to take the lowest point of the parabola, in the logarithm of
        the strength, through the best grid point and its neighbours, or that grid
        point itself.

    Returns:
      The `BestStrength`, of the shape of `losses` without `axis`.

    Raises:
      ValueError: if there are fewer than three strengths, not one a loss, or they are
        not positive and increasing.
    """
    num_axes = len(require_real("losses", losses))
    if not -num_axes <= axis < num_axes:
        raise ValueError(
            f"expected an axis of the losses, {num_axes} deep; got {axis}."
        )
    require_strengths(strengths)
    losses, strengths = jnp.asarray(losses), jnp.asarray(strengths)
    require_shapes({"strengths": "m"}, {"strengths": strengths}, m=losses.shape[axis])
    return _best_strength(losses, strengths, axis, refine)


def require_strengths(strengths: Float[ArrayLike, " strengths"]) -> None:
    """Checks that a grid, where its values are known, is positive and increasing.

    Raises:
      TypeError: if it is not an array of real numbers.
      ValueError: if it is not positive, finite and strictly increasing.
    """
    require_real("strengths", strengths)
    if isinstance(strengths, Tracer):
        return
    values = np.asarray(strengths, float)
    fits = values.ndim == 1 and np.isfinite(values).all() and (values > 0).all()
    if not fits or (np.diff(values) <= 0).any():
        raise ValueError(
            "expected strengths as a grid, positive and strictly increasing, since "
            f"optima are sought in the logarithm; got {values.tolist()}. Leave a "
            "strength of 0 out, and sort the losses with the strengths."
        )


@partial(jax.jit, static_argnums=(2, 3))
def _best_strength(losses, strengths, axis, refine):
    losses = jnp.moveaxis(losses, axis, -1)
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        losses = losses.astype(jnp.float32)
    strengths = strengths.astype(losses.dtype)
    find = partial(parabola_minimum, jnp.log(strengths))
    for _ in range(losses.ndim - 1):
        find = jax.vmap(find)
    minimum, values = find(losses), jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    grid_point, last = strengths[minimum.index], len(strengths) - 1
    inside = jnp.where(minimum.is_edge, grid_point, jnp.exp(minimum.position))
    best = inside if refine else grid_point
    # Half a step back from the side on which the neighbour is missing.
    right = jnp.minimum(minimum.index + 1, last)
    above = jnp.take_along_axis(values, right[..., None], -1)[..., 0]
    is_high = (minimum.index == last) | ((minimum.index > 0) & ~jnp.isfinite(above))
    back = strengths[jnp.where(is_high, jnp.maximum(minimum.index - 1, 0), right)]
    bound = jnp.where(minimum.is_edge, jnp.sqrt(grid_point * back), best)
    is_known = jnp.isfinite(values).any(-1)
    best, bound = (jnp.where(is_known, x, jnp.nan) for x in (best, bound))
    return BestStrength(best, minimum.is_edge, bound)
