"""The search that suits the size of a problem: L-BFGS, and Newton's after it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.numerics.lbfgs import minimize
from lagrange_jax.numerics.newton import minimize_newton
from lagrange_jax.numerics.search import NOISE, Point, Search, choose

__all__ = ["find_minimum"]

# Problems of more numbers than this are left to L-BFGS, the faster search at every size
# (experiments/benchmarks/README.md); Newton's ends nearer the optimum, and knows it.
NEWTON_SIZE = 2000
# L-BFGS that gains less than this part of a rounding error leaves the rest to Newton's.
FAINTEST = 1e-5


def find_minimum(
    evaluate: Callable[[Float[Array, " n"]], Point],
    multiply: Callable[[Point, Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    direction: Float[Array, " n"],
    while_loop: Callable[..., Any],
    **ends: Any,
) -> Search:
    """Minimises by L-BFGS; where the size allows it, Newton's method then goes on.

    Args:
      evaluate: as in `minimize_newton`.
      multiply: likewise.
      start: as in `minimize`.
      direction: likewise.
      while_loop: `jax.lax.while_loop`, or that of a stream, which only L-BFGS enters.
      **ends: what ends either search, see `is_open`.

    Returns:
      The last state of the `Search`.
    """
    options: Any = dict(while_loop=while_loop, **ends)
    if while_loop is not lax.while_loop or len(start) > NEWTON_SIZE:
        return minimize(evaluate, start, direction, **options)
    eps = float(jnp.finfo(start.dtype).eps)
    found = minimize(evaluate, start, direction, faintest=FAINTEST * eps, **options)
    last = minimize_newton(evaluate, multiply, found, **ends)
    # Where nothing could be gained any more, rounding may have spoilt the slope.
    noise = NOISE * eps * jnp.abs(found.best.value)
    is_spoilt = last.is_stuck & (last.best.residual > found.best.residual)
    is_spoilt &= last.best.value >= found.best.value - noise
    return choose(is_spoilt, found, last)
