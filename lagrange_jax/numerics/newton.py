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
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.numerics.search import NOISE, Point, Search, choose, inner, is_open

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
# From this tolerance on an answer is rough: a search that says to be done is believed.
ROUGH = 1e-4


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
    search: Search,
    **ends: Any,
) -> Search:
    """Goes on with a search for the minimum of a smooth function.

    Args:
      evaluate: `evaluate(params) -> Point`.
      multiply: `multiply(point, direction)`, the Hessian at a point times a direction.
      search: where to start; units in which the curvature is even serve best.
      **ends: what ends the search, see `is_open`; each product counts as an evaluation.

    Returns:
      The last state. What was left to be gained is not taken over, but found out,
      unless a rough answer is wanted.
    """
    length = lambda x: jnp.sqrt(inner(x, x))  # noqa: E731
    most = ends["max_evaluations"]

    def widest(best):
        # In units of even curvature this is how far a good part of the value lies.
        least = LEAST_RADIUS * jnp.sqrt(jnp.abs(best.value))
        return jnp.maximum(2 * length(best.params) + length(best.gradient), least)

    def body(state):
        (best, count, _, left), radius = state
        limit = most - count - 1
        step = _model_step(lambda v: multiply(best, v), best, radius, limit)
        size = length(step.step)
        gain = -inner(step.step, best.gradient + step.residual) / 2
        trial = evaluate(best.params + step.step)
        noise = NOISE * jnp.finfo(gain.dtype).eps * jnp.abs(trial.value)
        fall = best.value - trial.value
        # Where rounding hides what is gained the slopes at both ends tell it.
        slopes = -inner(step.step, best.gradient + trial.gradient) / 2
        is_hidden = (gain <= noise) & (jnp.abs(fall) <= noise)
        fall = jnp.where(is_hidden, slopes, fall)
        share = fall / jnp.where(gain > 0, gain, 1)
        is_accepted = (share >= LEAST_SHARE) & jnp.isfinite(
            inner(trial.gradient, trial.gradient)
        )
        grown = jnp.where((share > 0.75) & (size > 0.9 * radius), 2, 1) * radius
        shrunk = jnp.where(share >= 0.25, grown, size / 4)
        # After a step inside the ball the next one gains much less still.
        is_inside = size < 0.9 * radius
        is_seen = is_accepted & ~is_hidden
        left = jnp.where(is_inside, gain, jnp.where(is_seen, jnp.inf, left))
        best = choose(is_accepted, trial, best)
        is_stuck = ~is_accepted & ~(shrunk > SMALLEST_RADIUS * widest(best))
        return Search(best, count + 1 + step.count, is_stuck, left), shrunk

    is_doubted = (search.num_evaluations < most) & (ends["tolerance"] < ROUGH)
    left = jnp.where(is_doubted, jnp.inf, search.left)
    search = search._replace(is_stuck=jnp.zeros((), bool), left=left)
    state = search, widest(search.best)
    return lax.while_loop(lambda state: is_open(state[0], **ends), body, state)[0]


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
