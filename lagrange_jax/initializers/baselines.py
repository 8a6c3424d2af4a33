"""The cheap baseline that every solved head is to be compared with."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax.bounds import Constraint, Problem
from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.losses.record import Loss
from lagrange_jax.types import InitTransform

__all__ = ["zero_head"]


def zero_head(
    loss: Literal["squared_error", "cross_entropy"] | Loss = "squared_error",
) -> InitTransform:
    r"""Sets the kernel of the head to zero and its bias to the best constant.

    .. math:: W = 0, \qquad b = \arg\min_b \frac1N \sum_n a_n\, \ell(b, t_n)

    which is the mean for squared error, the log-odds of the classes for cross-entropy,
    the log mean for Poisson, the quantile for the pinball loss. How much of what a
    solved head earns is the bias? This tells.

    Args:
      loss: as in `lagrange`.

    Returns:
      An init transform; its info is the `HeadSolution`.

    Raises:
      ValueError: if the loss is unknown.
    """
    return lagrange(Constraint(_Zero(), "at_most"), loss=loss)


@dataclasses.dataclass(frozen=True)
class _Zero:
    """The radius of a kernel of zeros."""

    def __call__(self, problem: Problem) -> Float[Array, ""]:
        return jnp.zeros((), problem.spectrum.cross.dtype)
