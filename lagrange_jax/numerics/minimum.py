"""The search that suits the size of a problem: L-BFGS, and Newton's after it."""

from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.numerics.lbfgs import minimize
from lagrange_jax.numerics.newton import minimize_newton
from lagrange_jax.numerics.search import Point, Search

__all__ = ["find_minimum"]

# Problems of more numbers than this are left to L-BFGS, the faster search at every size
# (experiments/benchmarks/README.md); Newton's ends nearer the optimum, and knows it.
NEWTON_SIZE = 2000


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
    found = minimize(evaluate, start, direction, while_loop=while_loop, **ends)
    if while_loop is not lax.while_loop or len(start) > NEWTON_SIZE:
        return found
    return minimize_newton(evaluate, multiply, found, **ends)
