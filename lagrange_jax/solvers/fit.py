r"""The optimal head for a convex loss, subject to a constraint on its norm.

.. math:: \min_{W, b} L(W, b) = \frac1N \sum_n a_n\, \ell(W^T \phi_n + b, t_n)
          \quad\text{s.t.}\quad \|W\|_F^2 = c \text{ (or } \le c)

is convex over the ball. A point with $\nabla_W L + 2 \mu W = 0$, $\nabla_b L = 0$ and
$\mu \ge 0$ is its global minimiser: an L2-regularised fit of strength $2\mu$. Nothing
has to be found out about the strength: the norm is kept by the coordinates,
$W = 2 \sqrt{c}\, Y / (1 + \|Y\|^2)$, a smooth image of all of space, in the ball.

**Start and scale.** At a zero kernel the loss has a curvature of about $h_j S$ in the
column j. The minimiser of that quadratic model under the norm is found from one
eigendecomposition: the first step leads there, in coordinates in which the model is the
identity, and is shortened where the loss is more curved.

**Search.** L-BFGS; where the head is small and the examples are at hand, Newton's
method with conjugate gradients goes on from there.

**Beyond the optimum.** An equality that the ball's solution does not reach is filled,
for softmax, with a vector added to all k > 1 columns, which changes no probability. For
other losses the search goes on over the sphere, which is not convex there.

References:
  D. Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44,
  1992 (the curvature bound).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax.bounds import Relation
from lagrange_jax.losses.record import Loss
from lagrange_jax.numerics.linalg import column_length, dot
from lagrange_jax.numerics.minimum import find_minimum
from lagrange_jax.numerics.search import Point
from lagrange_jax.solvers.convex_certificate import (
    as_stationary,
    convex_status,
    make_scales,
    proven_gap,
)
from lagrange_jax.solvers.convex_problem import ConvexProblem
from lagrange_jax.solvers.coordinates import (
    ON_SPHERE,
    make_coordinates,
    onto_sphere,
    settle,
)
from lagrange_jax.solvers.examples import ExampleStatistics
from lagrange_jax.solvers.least_squares import require_tie_break, unit_tie_break
from lagrange_jax.solvers.solution import HeadSolution, Status
from lagrange_jax.types import Batches

__all__ = ["default_tolerance", "fit_head"]

# This share of the radius seeds directions that data leave free, on the sphere.
SEED = 1e-3
# A search ends once a step gains no more than this part of the tolerance in the loss.
PRECISION = 0.01
# A search that ends short of its tolerance counts as solved up to so many of them.
SETTLED = 10


def fit_head(
    batches: Batches,
    statistics: ExampleStatistics,
    loss: Loss,
    norm_sq: Float[Array, "*k"],
    *,
    relation: Relation | Bool[Array, ""] = "equality",
    tie_break: Float[Array, "d k"] | None = None,
    start: Float[Array, "d k"] | None = None,
    tolerance: Float[Array, ""] | float | None = None,
    max_steps: Int[Array, ""] | int = 10_000,
) -> HeadSolution:
    """Solves from statistics of the same batches.

    Args:
      batches: as `read_batch` takes them.
      statistics: what `example_statistics` returned for them.
      loss: the loss.
      norm_sq: the wanted norm, `[]` or `[k]`.
      relation: on the sphere or in the ball; traced: whether on the sphere.
      tie_break: a kernel that fills what the data leave free; None: a fixed random one.
      start: a kernel to start from, such as the solution for a neighbouring norm;
        zeros count as None.
      tolerance: of the relative KKT residual; None for 1e-5, or 1e-8 in double.
      max_steps: evaluations of the loss, or of what costs as much, at most.

    Returns:
      The `HeadSolution`.
    """
    dtype = statistics.spectrum.cross.dtype
    tolerance = default_tolerance(dtype) if tolerance is None else tolerance
    wanted = norm_sq.astype(dtype).reshape(1, -1)
    is_known = jnp.isfinite(wanted) & (wanted >= 0)
    # The only kernel of norm zero is zero: then the bias alone is searched for.
    is_zero = wanted == 0
    wanted = jnp.where(is_known & ~is_zero, wanted, 1)
    given = statistics.spectrum, statistics.curvature, wanted
    coordinates, first = make_coordinates(*given, loss.kind.is_shift_invariant)
    coordinates = coordinates._replace(factor=jnp.where(is_zero, 0.0, 1.0))
    if start is not None:
        first = jnp.where(jnp.any(start != 0), start, first)
    scales = make_scales(statistics, wanted)
    given = batches, statistics, scales, loss, coordinates, wanted, relation
    problem = ConvexProblem(*given, tolerance, max_steps)
    require_tie_break(tie_break, first.shape)
    tie_break = unit_tie_break(tie_break, first.shape, dtype)
    is_near = start is not None and jnp.any(start != 0)
    found = _search(problem, first, statistics.start.bias, tie_break, is_near)
    return _solution(problem, *found, tie_break, is_known, norm_sq.shape)


def default_tolerance(dtype: Any) -> float:
    """Returns the tolerance of the relative KKT residual."""
    return 1e-8 if dtype == jnp.float64 else 1e-5


def _solution(problem, end, is_beyond, tie_break, is_known, shape):
    """The head that a search ended at, with what tells whether it is right."""
    statistics, can_fill = problem.statistics, problem.can_fill
    tolerance, on_sphere = SETTLED * problem.tolerance, problem.on_sphere
    filling = tie_break if can_fill and not problem.is_ball else None
    is_bound, bias = problem.is_bound(end), end.bias
    kernel = settle(problem.coordinates, end.kernel, filling, on_sphere, is_bound)
    kernel = problem.coordinates.factor * kernel
    found = problem.evaluate(problem.risk(), kernel, bias)
    rows = problem.rows(kernel, found, on_sphere, tolerance, can_fill)
    solution = dict(
        kernel=kernel,
        bias=bias - dot(statistics.spectrum.mean_x, kernel),
        objective=found.loss,
        **{name: row.reshape(shape) for name, row in rows.items()},
    )
    is_concave = problem.is_concave(kernel, bias)
    is_certain = problem.loss.kind.convexity != "none"
    gap = proven_gap(problem.scales, rows, found) if is_certain else jnp.inf
    evidence = problem.residual(rows, found, end.left), tolerance, gap, is_concave
    status = convex_status(statistics, is_known, solution, *evidence)
    # Why a search on the sphere, where nothing is convex, did not converge.
    is_beyond &= (status == Status.NOT_CONVERGED) & jnp.any(rows["multiplier"] < 0)
    status = jnp.where(is_beyond, jnp.int32(Status.NOT_GLOBAL), status)
    solution = HeadSolution(**solution, status=status)
    return solution if is_certain else as_stationary(solution)


class _End(NamedTuple):
    """A search's head, its slope in the kernel, and what is about left to gain."""

    kernel: Any
    bias: Any
    slope: Any
    left: Any


def _search(problem, kernel, bias, tie_break, is_near) -> tuple[_End, Array]:
    """Searches the ball, and then the sphere where an equality is still to be met.

    Smoother losses come first, in the turns below zero, unless a start is given that
    is near. Returns where that ended, and whether the sphere was searched.
    """
    total, never = problem.num_smoother(is_near), jnp.zeros((), bool)
    if problem.loss.kind.smooth is None and not problem.may_leave:
        return _minimize(problem, kernel, bias, never), never

    def is_open(state):
        end, turn = state
        if not problem.may_leave:
            return turn <= 0
        length_sq = column_length(end.kernel, problem.norm_sq) ** 2
        is_met = length_sq >= (1 - ON_SPHERE) * problem.norm_sq
        is_met &= problem.is_bound(end)
        is_met = jnp.all(is_met | (problem.coordinates.factor == 0))
        return (turn <= 0) | ((turn == 1) & ~is_met & problem.on_sphere)

    def body(state):
        (kernel, bias, *_), turn = state
        here = problem.smoothed(jnp.maximum(-turn, 0), total)
        if not problem.may_leave:
            return _minimize(here, kernel, bias, never), turn + 1
        seed = SEED * jnp.sqrt(problem.norm_sq) * tie_break
        empty = column_length(kernel, problem.norm_sq) == 0
        seeded = jnp.where(empty, seed, kernel)
        outwards = onto_sphere(problem.coordinates, seeded)
        kernel = jnp.where(turn > 0, outwards, kernel)
        return _minimize(here, kernel, bias, turn > 0), turn + 1

    start = _End(kernel, bias, jnp.zeros_like(kernel), jnp.zeros((), kernel.dtype))
    end, turn = problem.batches.while_loop(is_open, body, (start, -total))
    return end, turn > 1


def _minimize(problem, kernel, bias, on_sphere) -> _End:
    """Where the loss is least in the ball or on the sphere."""
    coordinates, risk = problem.coordinates, problem.risk()
    unit = jnp.where(problem.statistics.start.is_free, coordinates.bias_scale, 0)
    start = coordinates.of_kernel(kernel, on_sphere), jnp.zeros_like(bias)
    flat, unravel = ravel_pytree(start)
    # In the ball from its centre: no worse than a constant, wherever the model leads.
    first, direction = jnp.where(on_sphere, flat, 0), jnp.where(on_sphere, 0, flat)
    to_kernel = lambda values: coordinates.to_kernel(values, on_sphere)  # noqa: E731

    def evaluate(params):
        values, change = unravel(params)
        kernel, pull_back = jax.vjp(to_kernel, values)
        head = kernel, bias + unit * change
        found = problem.evaluate(risk, *head)
        gradient, _ = ravel_pytree((pull_back(found.kernel)[0], unit * found.bias))
        residual = _residual(problem, kernel, found, on_sphere)
        return Point(params, found.loss, gradient, residual, (head, found.kernel))

    def multiply(point, direction):
        head, slope = point.extra
        values, _ = unravel(point.params)
        along, change = unravel(direction)
        # The second derivative of the coordinates counts too.
        pull = lambda values, slope: jax.vjp(to_kernel, values)[1](slope)[0]  # noqa: E731
        kernel_change = jax.jvp(to_kernel, (values,), (along,))[1]
        bent = risk.multiply(head, (kernel_change, unit * change))
        product = jax.jvp(pull, (values, slope), (along, bent[0]))[1]
        return ravel_pytree((product, unit * bent[1]))[0]

    options = dict(
        tolerance=problem.tolerance,
        precision=PRECISION * problem.tolerance,
        unit=problem.scales.loss,
        max_evaluations=problem.max_steps,
    )
    loop = problem.batches.while_loop
    found = find_minimum(evaluate, multiply, first, direction, loop, **options)
    (kernel, bias), slope = found.best.extra
    return _End(kernel, bias, slope, found.left)


def _residual(problem, kernel, found, on_sphere):
    """How far a point of the search is from solved."""
    rows = problem.rows(kernel, found, on_sphere)
    within = problem.residual(rows, found)
    return jnp.where(on_sphere, rows["stationarity"].max(), within)
