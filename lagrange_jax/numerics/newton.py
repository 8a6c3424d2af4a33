r"""Newton's method in a trust region, by conjugate gradients.

Each step minimises the quadratic model inside a ball, as far as products with the
Hessian are worth it; no Hessian is formed and nothing is asked of its sign. The step
is judged by what the function lost compared with the model, and the ball follows.
Near the minimum the value no longer resolves a step in float32, the gradient still
does: there it is judged by the residual.

References:
  T. Steihaug, "The conjugate gradient method and trust regions in large scale
  optimization", SIAM J. Numer. Anal. 20, 1983.
  J. Nocedal, S. J. Wright, "Numerical Optimization", 2006, algorithms 4.1 and 7.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.numerics.search import NOISE, Point, Search, choose, inner, unseen

__all__ = ["minimize_newton"]

# A step counts if the function falls by this part of what the model promised.
LEAST_SHARE = 1e-4
# Conjugate gradients stop at this part of the gradient, or earlier near the minimum.
FORCING = 0.1
# Products with the Hessian in one step at most.
MAX_PRODUCTS = 200
# Curvature below this part of the largest met, in units of eps, is rounding.
FLAT = 64
# The first ball is no smaller than this part of the root of the value.
LEAST_RADIUS = 0.1
# A ball this much smaller than the first one means that nothing is to be gained.
SMALLEST_RADIUS = 1e-7


class _Step(NamedTuple):
    """Where conjugate gradients are: step, model residual, direction, products."""

    step: Float[Array, " n"]
    residual: Float[Array, " n"]
    direction: Float[Array, " n"]
    count: Int[Array, ""]
    steepest: Float[Array, ""]
    is_done: Bool[Array, ""]


def minimize_newton(
    evaluate: Callable[[Float[Array, " n"]], Point],
    multiply: Callable[[Point, Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    *,
    tolerance: Float[Array, ""] | float,
    precision: Float[Array, ""] | float,
    max_evaluations: Int[Array, ""] | int,
) -> Search:
    """Minimises a smooth function whose Hessian can be multiplied with.

    Args:
      evaluate: `evaluate(params) -> Point`.
      multiply: `multiply(point, direction)`, the Hessian at a point times a direction.
      start: the first params; units in which the curvature is even serve best.
      tolerance: ends the search once `residual` is at most this,
      precision: and the last step gained no more than this part of the value.
      max_evaluations: ends it in any case; each product counts as one.

    Returns:
      The last state.
    """
    length = lambda x: jnp.sqrt(inner(x, x))  # noqa: E731
    # The start is evaluated inside the loop, as a first step of no length: the program
    # then holds the function once.
    first = unseen(evaluate, start)

    def is_open(state):
        search, _ = state
        is_settled = (search.best.residual <= tolerance) & (
            search.left <= precision * jnp.abs(search.best.value)
        )
        is_left = search.num_evaluations < max_evaluations
        return ~is_settled & is_left & ~search.is_stuck

    def body(state):
        search, radius = state
        best = search.best
        limit = max_evaluations - search.num_evaluations - 1
        step = _model_step(lambda v: multiply(best, v), best, radius, limit)
        size = length(step.step)
        gain = -inner(step.step, best.gradient + step.residual) / 2
        trial = evaluate(best.params + step.step)
        is_first = jnp.isinf(best.value)
        noise = NOISE * jnp.finfo(gain.dtype).eps * jnp.abs(trial.value)
        fall = best.value - trial.value
        # Where rounding hides what is gained the slopes at both ends tell it.
        slopes = -inner(step.step, best.gradient + trial.gradient) / 2
        is_hidden = (gain <= noise) & (jnp.abs(fall) <= noise) & ~is_first
        fall = jnp.where(is_hidden, slopes, fall)
        share = fall / jnp.where(gain > 0, gain, 1)
        is_accepted = (share >= LEAST_SHARE) & jnp.isfinite(
            inner(trial.gradient, trial.gradient)
        )
        grown = jnp.where((share > 0.75) & (size > 0.9 * radius), 2, 1) * radius
        shrunk = jnp.where(share >= 0.25, grown, size / 4)
        widest = 2 * length(trial.params) + length(trial.gradient)
        # In units of even curvature this is how far a good part of the value lies.
        widest = jnp.maximum(widest, LEAST_RADIUS * jnp.sqrt(jnp.abs(trial.value)))
        is_stuck = ~is_accepted & ~(shrunk > SMALLEST_RADIUS * widest)
        count = search.num_evaluations + 1 + step.count
        # After a step inside the ball the next one gains much less still.
        is_inside = (size < 0.9 * radius) & ~is_first
        left = jnp.where(is_inside, gain, jnp.where(is_accepted, jnp.inf, search.left))
        search = Search(choose(is_accepted, trial, best), count, is_stuck, left)
        return search, jnp.where(is_first, widest, shrunk)

    search = Search(first, jnp.int32(0), jnp.zeros((), bool), first.value)
    return lax.while_loop(is_open, body, (search, first.value))[0]


def _model_step(multiply, best, radius, limit) -> _Step:
    """Minimises the model in the ball by conjugate gradients (Steihaug)."""
    gradient = best.gradient
    size_sq = inner(gradient, gradient)
    forcing = jnp.clip(jnp.sqrt(best.residual), FORCING / 10, FORCING)
    limit = jnp.minimum(limit, MAX_PRODUCTS)

    def is_open(state):
        rest = inner(state.residual, state.residual)
        return ~state.is_done & (state.count < limit) & (rest > forcing**2 * size_sq)

    def body(state):
        step, residual, direction, count, steepest, _ = state
        product = multiply(direction)
        chex.assert_equal_shape([product, direction])
        curvature = inner(direction, product)
        rest = inner(residual, residual)
        to_edge = _distance_to_edge(step, direction, radius)
        length = rest / jnp.where(curvature > 0, curvature, 1)
        # Rounding bends a direction that nothing depends on, either way.
        steepest = jnp.maximum(steepest, curvature / inner(direction, direction))
        flattest = FLAT * jnp.finfo(rest.dtype).eps * steepest
        is_flat = jnp.abs(curvature) <= flattest * inner(direction, direction)
        # A function that is flat from the start has a slope all the same.
        is_flat &= count > 0
        leaves = ~(curvature > 0) | (length >= to_edge)
        length = jnp.where(is_flat, 0, jnp.where(leaves, to_edge, length))
        residual = residual + length * product
        ratio = inner(residual, residual) / rest
        direction = ratio * direction - residual
        step = step + length * state.direction
        return _Step(step, residual, direction, count + 1, steepest, leaves | is_flat)

    zero = jnp.zeros_like(gradient)
    start = _Step(
        zero,
        gradient,
        -gradient,
        jnp.int32(0),
        jnp.zeros_like(size_sq),
        jnp.zeros((), bool),
    )
    return lax.while_loop(is_open, body, start)


def _distance_to_edge(step, direction, radius):
    """How far along the direction the ball ends."""
    a, b = inner(direction, direction), inner(step, direction)
    missing = jnp.maximum(radius**2 - inner(step, step), 0)
    root = jnp.sqrt(b**2 + a * missing)
    # Of the two forms of the root the one without cancellation.
    other = root + jnp.abs(b)
    other = jnp.where(other > 0, other, 1)
    return jnp.where(b > 0, missing / other, other / jnp.where(a > 0, a, 1))
