"""What searches for a minimum share: a point, a state, and a few operations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.numerics.linalg import dot

__all__ = ["NOISE", "Point", "Search", "choose", "inner", "is_open", "unseen"]

# Rounding of a mean loss over many examples, in units of eps.
NOISE = 8


class Point(NamedTuple):
    """Where a function was evaluated, and what it returned.

    Attributes:
      params: the argument.
      value: the function there.
      gradient: its gradient, shaped as `params`.
      residual: how far from stationary; a search ends at its tolerance.
      extra: whatever else the function wants to see again.
    """

    params: Float[Array, " n"]
    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    residual: Float[Array, ""]
    extra: Any = None


class Search(NamedTuple):
    """How a search ended.

    Attributes:
      best: the point reached so far.
      num_evaluations: calls of the function, or of what costs as much.
      is_stuck: whether no step gained anything.
      left: about what is still to be gained, infinite before that is known.
    """

    best: Point
    num_evaluations: Int[Array, ""]
    is_stuck: Bool[Array, ""]
    left: Float[Array, ""]


def inner(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns the inner product in full precision."""
    return dot(a, b)


def is_open(
    search: Search,
    *,
    tolerance: Float[Array, ""] | float,
    precision: Float[Array, ""] | float = jnp.inf,
    unit: Float[Array, ""] | float = 0.0,
    faintest: float = 0.0,
    max_evaluations: Int[Array, ""] | int,
) -> Bool[Array, ""]:
    """Returns whether a search has to go on.

    Args:
      search: its state.
      tolerance: of the residual; the search is settled where that is at most this
      precision: and what is left to be gained at most this part of the value.
      unit: values below it count as it.
      faintest: the search ends where no more than this part of the value is left.
      max_evaluations: ends the search in any case, as being stuck does.
    """
    value = jnp.maximum(jnp.abs(search.best.value), unit)
    is_settled = search.best.residual <= tolerance
    is_settled &= search.left <= precision * value
    is_settled |= search.left < faintest * value
    is_left = search.num_evaluations < max_evaluations
    return ~is_settled & is_left & ~search.is_stuck


def unseen(evaluate: Callable[[Any], Point], start: Float[Array, " n"]) -> Point:
    """Returns a start that is still to be evaluated: of infinite value, without slope.

    A search takes it as its first step, of no length. The program then holds the
    function once, not a second time for the start.
    """
    point = jax.eval_shape(evaluate, start)
    chex.assert_equal_shape([start, point.params, point.gradient])
    chex.assert_rank([point.value, point.residual], 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), point)
    infinite = jnp.full_like(zeros.value, jnp.inf)
    return zeros._replace(params=start, value=infinite, residual=infinite)


def choose(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    """Returns one pytree or the other."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
