r"""L-BFGS for a function that is costly and known to the precision of its gradient.

One evaluation a step, so that a pass over data in memory and one over a stream are the
same loop. Near the minimum the loss no longer resolves a step in float32, the
gradient still does: there a step is judged by its slope alone.

References:
  J. Nocedal, S. J. Wright, "Numerical Optimization", 2006, algorithm 7.5.
  W. W. Hager, H. Zhang, "A new conjugate gradient method with guaranteed descent and
  an efficient line search", SIAM J. Optim. 16, 2005 (the approximate Wolfe condition).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Point", "Search", "minimize"]

# Pairs of steps and gradient changes that are kept.
MEMORY = 10
# A step counts as a decrease if the loss falls by this part of what its slope promised
DECREASE = 1e-4
# or, where rounding hides that, if the slope has not turned by more than this part.
OVERSHOOT = 0.8
# Rounding of a mean loss over many examples, in units of eps.
NOISE = 8
# A step this much shorter than the last one's model means that nothing is to be gained.
SMALLEST_STEP = 1e-4


class Point(NamedTuple):
    """Where a function was evaluated, and what it returned.

    Attributes:
      params: any pytree.
      value: the function there.
      gradient: its gradient, shaped as `params`.
      residual: how far from stationary; the search ends at its tolerance.
    """

    params: Any
    value: Float[Array, ""]
    gradient: Any
    residual: Float[Array, ""]


class Search(NamedTuple):
    """State of a search.

    Attributes:
      best: the point reached so far.
      direction: where to go from there.
      step: how far to try next.
      memory: L-BFGS state.
      num_evaluations: calls of the function.
      is_stuck: whether no step along the direction gains anything.
    """

    best: Point
    direction: Any
    step: Float[Array, ""]
    memory: Any
    num_evaluations: Int[Array, ""]
    is_stuck: Bool[Array, ""]


def minimize(
    evaluate: Callable[[Any], Point],
    start: Any,
    *,
    tolerance: Float[Array, ""] | float,
    max_evaluations: int,
    while_loop: Callable[..., Any] = lax.while_loop,
) -> Search:
    """Minimises a smooth function.

    Args:
      evaluate: `evaluate(params) -> Point`.
      start: the first params; units in which the curvature is even serve best.
      tolerance: ends the search once `residual` is at most this.
      max_evaluations: ends it in any case.
      while_loop: `jax.lax.while_loop`, or a Python loop of the same signature where
        `evaluate` cannot be traced.

    Returns:
      The last state; `best.residual` tells whether it converged.
    """
    lbfgs = optax.scale_by_lbfgs(MEMORY)

    def turn(point, memory):
        # Optax mixes Python floats with the gradient's type.
        with jax.numpy_dtype_promotion("standard"):
            ascent, memory = lbfgs.update(point.gradient, memory, point.params)
        return jax.tree.map(
            lambda x, p: -x.astype(p.dtype), ascent, point.params
        ), memory

    def is_open(search):
        return (
            ~(search.best.residual <= tolerance)
            & (search.num_evaluations < max_evaluations)
            & ~search.is_stuck
        )

    def advance(search, trial):
        accepted, shorter = _judge(search, trial)
        keep = lambda new, old: jax.tree.map(  # noqa: E731
            lambda a, b: jnp.where(accepted, a, b), new, old
        )
        best = keep(trial, search.best)
        direction, memory = keep(
            turn(trial, search.memory), (search.direction, search.memory)
        )
        step = jnp.where(accepted, 1, shorter)
        is_stuck = ~accepted & ~(step >= SMALLEST_STEP)
        count = search.num_evaluations + 1
        return Search(best, direction, step, memory, count, is_stuck)

    advance = jax.jit(advance)

    def body(search):
        params = jax.tree.map(
            lambda p, d: p + search.step.astype(p.dtype) * d,
            search.best.params,
            search.direction,
        )
        return advance(search, evaluate(params))

    first = evaluate(start)
    direction, memory = turn(first, lbfgs.init(start))
    one = jnp.ones((), first.value.dtype)
    search = Search(first, direction, one, memory, jnp.int32(1), jnp.zeros((), bool))
    return while_loop(is_open, body, search)


def _judge(search: Search, trial: Point):
    """Whether to accept a step, and the step to try if not."""
    best, step = search.best, search.step
    before = _inner(best.gradient, search.direction)
    after = _inner(trial.gradient, search.direction)
    noise = NOISE * jnp.finfo(best.value.dtype).eps * jnp.abs(best.value)
    falls = trial.value <= best.value + DECREASE * step * before
    flat = (trial.value <= best.value + noise) & (after <= -OVERSHOOT * before)
    accepted = (falls | flat) & jnp.isfinite(after)
    # Where the slope has turned, the secant finds its zero; else retreat by half.
    turned = jnp.isfinite(after) & (after > 0)
    secant = before / jnp.where(turned, before - after, 1)
    factor = jnp.clip(jnp.where(turned, secant, 0.5), 0.1, 0.5)
    return accepted, step * factor


def _inner(a: Any, b: Any) -> Float[Array, ""]:
    products = jax.tree.map(
        lambda x, y: jnp.vdot(x, y, precision=lax.Precision.HIGHEST), a, b
    )
    return jax.tree.reduce(jnp.add, products)
