r"""Smoother losses on the way to one that hardly bends.

A loss with a scale below which it is smooth and above which it is linear, such as a
quantile's, has curvature at the examples within that scale alone: far from the optimum
these tell nothing, and a search crawls from kink to kink. It starts with a scale as
large as the targets are spread and takes the solution from scale to scale.

References:
  Y. Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103, 2005.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lagrange_jax.losses.record import Loss

__all__ = ["num_stages", "smoother"]

# No number of the loss changes by more than this factor at once.
FACTOR = 4.0


def num_stages(loss: Loss, smooth: Any, dtype: DTypeLike) -> Int[Array, ""]:
    """Returns how many smoother losses come first.

    Args:
      loss: the loss.
      smooth: parameters of the smoothest one.
      dtype: of the numbers.
    """
    ratios = jax.tree.leaves(_ratios(loss, smooth, dtype))
    widest = jnp.max(jnp.abs(jnp.log(jnp.stack(ratios))))
    number = jnp.ceil(widest / jnp.log(FACTOR))
    return jnp.where(jnp.isfinite(number), number, 0).astype(jnp.int32)


def smoother(
    loss: Loss, smooth: Any, share: Float[Array, ""], dtype: DTypeLike
) -> Loss:
    """Returns the loss of that share of the way to the smoothest one, in logarithms."""
    change = lambda p, ratio: jnp.asarray(p, dtype) * ratio**share  # noqa: E731
    ratios = _ratios(loss, smooth, dtype)
    return loss._replace(parameters=jax.tree.map(change, loss.parameters, ratios))


def _ratios(loss, smooth, dtype):
    divide = lambda p, s: jnp.asarray(s, dtype) / jnp.asarray(p, dtype)  # noqa: E731
    return jax.tree.map(divide, loss.parameters, smooth)
