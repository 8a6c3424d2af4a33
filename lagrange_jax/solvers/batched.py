"""Many small heads under `vmap`: together where that pays.

A CPU takes the `eigh` of a batch of small matrices one after the other. Here all heads
are solved together in tridiagonal form; those that this does not show to be right, such
as those of the hard case, are solved one by one as any head is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from lagrange_jax.bounds import Relation
from lagrange_jax.solvers.small_heads import solve_small_heads
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.statistics.changes import rescaled

__all__ = ["solve_batched"]

# Where it pays on a CPU; see experiments/benchmarks/README.md.
FEWEST_HEADS = 1000
SIZES = range(3, 65)
# How many are taken at once: what they need stays in the cache.
LANES = 256
# How many are solved one by one in one go.
GROUP = 64


def solve_batched(
    solve_one: Callable[..., HeadSolution], relation: Relation, *problem: Any
) -> HeadSolution:
    """Solves a problem by `solve_one`; under `vmap` many together where that pays.

    Derivatives are those of `solve_one`.

    Args:
      solve_one: of a whole spectrum, the norms and a tie-break.
      relation: of the norms.
      *problem: its arguments.

    Returns:
      The `HeadSolution`.
    """

    @custom_vmap
    def solve(problem):
        return solve_one(*problem)

    @solve.def_vmap
    def solve_mapped(size, is_mapped, problem):
        spectrum_is_mapped, *_ = is_mapped[0]
        if spectrum_is_mapped.covariance:
            found = solve_all(_broadcast(size, is_mapped[0], problem))
        else:  # many norms at the cost of one eigendecomposition
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped[0])
            found = jax.vmap(solve_one, axes, axis_size=size)(*problem)
        return found, jax.tree.map(lambda _: True, found)

    @custom_vmap
    def solve_all(problem):
        return _solve_all(solve_one, relation, problem)

    @solve_all.def_vmap
    def solve_all_mapped(size, is_mapped, problem):
        problem = _broadcast(size, is_mapped[0], problem)
        batch = problem[0].cross.shape[:2]
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), problem)
        found = solve_all(flat)
        found = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)
        return found, jax.tree.map(lambda _: True, found)

    differentiable = jax.custom_vjp(solve)
    differentiable.defvjp(
        lambda problem: jax.vjp(lambda problem: solve_one(*problem), problem),
        lambda pull_back, cotangent: pull_back(cotangent),
    )
    return differentiable(problem)


def _broadcast(size, is_mapped, problem):
    def broadcast(x, mapped):
        return x if mapped else jnp.broadcast_to(x, (size, *jnp.shape(x)))

    return jax.tree.map(broadcast, problem, is_mapped)


def _solve_all(solve_one, relation, problem):
    size, d, _ = problem[0].cross.shape
    one_by_one = jax.vmap(solve_one)
    if size < FEWEST_HEADS or d not in SIZES:
        return one_by_one(*problem)

    def together(*problem):
        some = lambda part: solve_small_heads(relation, *part[:2])  # noqa: E731
        found, is_sure = _in_slices(some, problem, size)
        return _solve_rest(solve_one, problem, found, ~is_sure)

    return lax.platform_dependent(
        *problem, cpu=together, default=lambda *problem: one_by_one(*problem)
    )


def _in_slices(function, problem, size):
    """Applies a function to slices of a batch; the last two may overlap."""
    lanes = min(LANES, size)

    def part(i):
        begin = jnp.minimum(i * lanes, size - lanes)
        take = lambda x: lax.dynamic_slice_in_dim(x, begin, lanes)  # noqa: E731
        return begin, function(jax.tree.map(take, problem))

    def step(i, results):
        begin, found = part(i)
        put = lambda x, y: lax.dynamic_update_slice_in_dim(x, y, begin, 0)  # noqa: E731
        return jax.tree.map(put, results, found)

    shapes = jax.eval_shape(lambda: part(0)[1])
    empty = jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), shapes)
    return lax.fori_loop(0, -(-size // lanes), step, empty)


def _solve_rest(solve_one, problem, found, is_left):
    """Solves those that are left, some at a time; most batches have none."""

    def solve_afresh(spectrum, *rest):
        # Decomposed here: the spectrum's own eigenpairs would have to be there for all.
        return solve_one(rescaled(spectrum, jnp.ones_like(spectrum.mean_x)), *rest)

    def solve_some(state):
        found, is_left = state
        index = jnp.nonzero(is_left, size=GROUP, fill_value=len(is_left))[0]
        some = jax.tree.map(lambda x: x.at[index].get(mode="clip"), problem)
        solved = jax.vmap(solve_afresh)(*some)
        put = lambda x, y: x.at[index].set(y, mode="drop")  # noqa: E731
        return jax.tree.map(put, found, solved), is_left.at[index].set(False)

    return lax.while_loop(lambda state: state[1].any(), solve_some, (found, is_left))[0]
