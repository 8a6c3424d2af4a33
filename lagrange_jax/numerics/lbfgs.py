r"""L-BFGS for a function that is costly and known to the precision of its gradient.

One evaluation a step, so that a pass over data in memory and one over a stream are the
same loop; Optax's line search takes several, in a loop that a stream cannot enter.
Near the minimum the loss no longer resolves a step in float32, the gradient still
does: there a step is judged by its slope alone. A pair of step and gradient change
along which the function does not curve upwards is left out, and where the memory
misleads the search starts again from the gradient.

References:
  J. Nocedal, S. J. Wright, "Numerical Optimization", 2006, algorithm 7.4.
  W. W. Hager, H. Zhang, "A new conjugate gradient method with guaranteed descent and
  an efficient line search", SIAM J. Optim. 16, 2005 (the approximate Wolfe condition).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax.numerics.search import (
    NOISE,
    Point,
    Search,
    choose,
    inner,
    is_open,
    unseen,
)

__all__ = ["minimize"]

# Pairs of steps and gradient changes that are kept.
MEMORY = 10
# A step counts as a decrease if the loss falls by this part of what its slope promised
DECREASE = 1e-4
# or, where rounding hides that, if the slope has not turned by more than this part.
OVERSHOOT = 0.8
# A pair counts if the cosine of step and gradient change is at least this.
LEAST_CURVATURE = 1e-6
# What is left to be gained counts as no less than this part of what it was before.
FADING = 0.5
# A gradient alone tells no length: no step along it is longer than this many params.
REACH = 2
# A step this much shorter than the last one's model means that nothing is to be gained.
SMALLEST_STEP = 1e-4


class _Memory(NamedTuple):
    """The last pairs, the latest last; a pair of weight zero is none."""

    steps: Float[Array, "m n"]
    changes: Float[Array, "m n"]
    weights: Float[Array, " m"]
    scale: Float[Array, ""]


class _State(NamedTuple):
    """A search under way: where to go next, how far, and what is remembered."""

    search: Search
    direction: Float[Array, " n"]
    step: Float[Array, ""]
    memory: _Memory


def minimize(
    evaluate: Callable[[Float[Array, " n"]], Point],
    start: Float[Array, " n"],
    direction: Float[Array, " n"],
    *,
    while_loop: Callable[..., Any] = lax.while_loop,
    **ends: Any,
) -> Search:
    """Minimises a smooth function.

    Args:
      evaluate: `evaluate(params) -> Point`.
      start: the first params; units in which the curvature is even serve best.
      direction: the first step; the gradient's where that is no descent, or zero.
      while_loop: `jax.lax.while_loop`, or a Python loop of the same signature where
        `evaluate` cannot be traced.
      **ends: what ends the search, see `is_open`.

    Returns:
      The last state; `best.residual` tells whether it converged.
    """
    advance = jax.jit(_advance)

    def body(state):
        params = state.search.best.params + state.step * state.direction
        return advance(state, evaluate(params))

    first = unseen(evaluate, start)
    pairs = jnp.zeros((MEMORY, len(start)), start.dtype)
    one = jnp.ones((), start.dtype)
    memory = _Memory(pairs, pairs, pairs[:, 0], one)
    search = Search(first, jnp.int32(0), jnp.zeros((), bool), first.value)
    state = _State(search, direction, jnp.zeros_like(one), memory)
    return while_loop(lambda state: is_open(state.search, **ends), body, state).search


def _advance(state: _State, trial: Point) -> _State:
    (best, count, _, left), direction, step, memory = state
    is_accepted, factor = _judge(best, trial, direction, step)
    # The given step is too long to tell of the curvature or of what is left.
    is_near = is_accepted & (count > 1)
    memory = choose(is_near, _remember(memory, best, trial), memory)
    shorter = step * factor
    is_empty = ~jnp.any(memory.weights > 0)
    # A direction that leads nowhere is that of the memory: without it the gradient's.
    smallest = jnp.where(is_empty, SMALLEST_STEP**2, SMALLEST_STEP)
    is_lost = ~is_accepted & ~(shorter >= smallest)
    is_stuck = is_lost & is_empty
    memory = memory._replace(weights=jnp.where(is_lost, 0, memory.weights))
    at = choose(is_accepted, trial, best)
    turned = _direction(memory, at.gradient)
    turned = jnp.where(jnp.isinf(best.value), state.direction, turned)
    is_descent = inner(turned, at.gradient) < 0
    turned = jnp.where(is_descent, turned, -memory.scale * at.gradient)
    is_known = jnp.any(memory.weights > 0) | (jnp.isinf(best.value) & is_descent)
    turned = jnp.where(is_known, 1, _within(turned, at.params)) * turned
    is_new = is_accepted | is_lost
    direction = jnp.where(is_new, turned, direction)
    # From the slopes at both ends, which resolve what the values do not.
    gain = jnp.abs(inner(step * state.direction, best.gradient + trial.gradient)) / 2
    gain = jnp.maximum(gain, FADING * jnp.where(jnp.isinf(left), 0, left))
    left = jnp.where(is_near, gain, left)
    search = Search(at, count + 1, is_stuck, left)
    return _State(search, direction, jnp.where(is_new, 1, shorter), memory)


def _within(step, params):
    """The factor by which to shorten a step whose length nothing is known of."""
    size, reach = jnp.sqrt(inner(step, step)), REACH * jnp.sqrt(inner(params, params))
    return jnp.where((reach > 0) & (size > reach), reach / size, 1)


def _remember(memory: _Memory, old: Point, new: Point) -> _Memory:
    """Adds the pair of a step, unless the function does not curve upwards along it."""
    step, change = new.params - old.params, new.gradient - old.gradient
    product = inner(step, change)
    sizes = inner(step, step) * inner(change, change)
    is_curved = product > LEAST_CURVATURE * jnp.sqrt(sizes)
    weight = 1 / jnp.where(is_curved, product, 1)
    scale = product / jnp.where(is_curved, inner(change, change), 1)
    push = lambda rows, row: jnp.concatenate([rows[1:], row[None]])  # noqa: E731
    pushed = _Memory(
        push(memory.steps, step),
        push(memory.changes, change),
        push(memory.weights, weight),
        scale,
    )
    return choose(is_curved, pushed, memory)


def _direction(memory: _Memory, gradient: Float[Array, " n"]) -> Float[Array, " n"]:
    """Minus the inverse Hessian of the memory times the gradient, in two loops."""
    steps, changes, weights, scale = memory

    def down(i, state):
        vector, shares = state
        j = MEMORY - 1 - i
        share = weights[j] * inner(steps[j], vector)
        return vector - share * changes[j], shares.at[j].set(share)

    def up(j, vector):
        share = shares[j] - weights[j] * inner(changes[j], vector)
        return vector + share * steps[j]

    start = gradient, jnp.zeros_like(weights)
    vector, shares = lax.fori_loop(0, MEMORY, down, start)
    return -lax.fori_loop(0, MEMORY, up, scale * vector)


def _judge(
    best: Point, trial: Point, direction: Float[Array, " n"], step: Float[Array, ""]
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether to accept a step, and by how much to shorten it if not."""
    before, after = inner(best.gradient, direction), inner(trial.gradient, direction)
    noise = NOISE * jnp.finfo(best.value.dtype).eps * jnp.abs(best.value)
    falls = trial.value <= best.value + DECREASE * step * before
    flat = (trial.value <= best.value + noise) & (after <= -OVERSHOOT * before)
    is_accepted = (falls | flat) & jnp.isfinite(after)
    # Where the slope has turned, the secant finds its zero; else retreat by half.
    turned = jnp.isfinite(after) & (after > 0)
    secant = before / jnp.where(turned, before - after, 1)
    return is_accepted, jnp.clip(jnp.where(turned, secant, 0.5), 0.1, 0.5)
