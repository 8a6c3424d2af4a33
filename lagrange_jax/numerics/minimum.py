"""The search that suits the size of a problem: Newton's method or L-BFGS."""

from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.numerics.lbfgs import minimize
from lagrange_jax.numerics.newton import minimize_newton
from lagrange_jax.numerics.search import Point, Search

__all__ = ["find_minimum"]

# Problems of more numbers than this are left to L-BFGS: measured, the faster search at
# every size (experiments/benchmarks/README.md), but Newton's ends nearer the optimum.
NEWTON_SIZE = 2000


def find_minimum(
    evaluate: Callable[[Float[Array, " n"]], Point],
    multiply: Callable[[Point, Float[Array, " n"]], Float[Array, " n"]],
    start: Float[Array, " n"],
    while_loop: Callable[..., Any],
    **options: Any,
) -> Search:
    """Minimises by the search that suits the size; a stream has but one.

    Args:
      evaluate: as in `minimize_newton`.
      multiply: likewise.
      start: the first params.
      while_loop: `jax.lax.while_loop`, or that of a stream, which only L-BFGS enters.
      **options: tolerance, precision and max_evaluations.

    Returns:
      The last state of the `Search`.
    """
    if while_loop is lax.while_loop and len(start) <= NEWTON_SIZE:
        return minimize_newton(evaluate, multiply, start, **options)
    return minimize(evaluate, start, while_loop=while_loop, **options)
