r"""The optimal head for squared error, subject to a constraint on its norm.

The bias is free, so $b = m_t - W^T m_\phi$ exactly, and what is left is a quadratic
over a sphere. A point of the sphere is a *global* minimiser if and only if some
multiplier gives $(S + \mu I) w = r$ with $S + \mu I \succeq 0$; that is one root of
the secular equation for each output.

**Hard case.** Where $r$ has no part in the bottom eigenspace of $S$ (dead or
constant features, fewer examples than features, one-hot inputs) the minimisers form
a sphere. The free part of the kernel is then the projection of a tie-break kernel on
the bottom eigenspace, see `spectral`.

References:
  W. Gander, G. H. Golub, U. von Matt, "A constrained eigenvalue problem", Linear
  Algebra Appl. 114/115, 1989.
  J. J. Moré, D. C. Sorensen, "Computing a trust region step", 1983.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import require_kind, require_real
from lagrange_jax.bounds import Constraint, Problem, require_norm_shape
from lagrange_jax.numerics.linalg import column_length, dot, scattered
from lagrange_jax.solvers.batched import solve_batched
from lagrange_jax.solvers.implicit import without_derivative
from lagrange_jax.solvers.quadratic import (
    certificate,
    metric_norm_sq,
    norm_rounding,
    objective,
    quadratic_status,
)
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.solvers.spectral import on_ellipsoid, on_sphere
from lagrange_jax.solvers.substitution import require_center, scale_features
from lagrange_jax.statistics.changes import (
    evening_scale,
    rescaled,
    residual_spectrum,
)
from lagrange_jax.statistics.moments import Moments
from lagrange_jax.statistics.spectrum import (
    Factor,
    Spectrum,
    column_variances,
    decompose,
    require_spectrum,
)

__all__ = ["require_tie_break", "solve_least_squares", "unit_tie_break"]


def solve_least_squares(
    data: Moments | Spectrum | Problem,
    constraint: Constraint,
    *,
    tie_break: Float[ArrayLike, "d k"] | None = None,
    center: Float[ArrayLike, "d k"] | None = None,
) -> HeadSolution:
    r"""Solves for the globally optimal head under a norm constraint.

    .. math:: \min_{W, b} \frac1N \sum_n a_n \|W^T \phi_n + b - t_n\|^2
              \quad\text{s.t.}\quad \|w_j\|^2 = c_j
              \text{ (or } \le c_j), \text{ or } \|W\|_F^2 = c.

    With a `center` $W_0$ the norm is that of the change, $\|W - W_0\|$.

    Jittable and vmappable over every array. Differentiable once in reverse mode, in
    the moments (hence in features, targets and example weights) and in the norm, by
    implicit differentiation of the KKT system: right at repeated eigenvalues too, but
    for the directions that the data leave free in the hard case, which have none.

    Args:
      data: statistics of features and targets of a head with bias; or a spectrum, to
        try many norms at the cost of one `eigh`, for a head without bias
        (`decompose(moments, use_bias=False)`), and for fewer examples than features
        (`decompose_gram`, which has no derivative); or a `Problem`, for a constraint
        that reads the examples.
      constraint: the norm, such as `fixed_norm(1.0)`. With the metric
        `"output_variance"` the multiplier belongs to $(S + \mu M) w = r$ with
        $M = S d / \mathrm{tr} S$; with `"feature_variance"`, likewise with the diagonal
        of S in M.
      tie_break: a kernel whose projection fills what the data leave free; the
        model's own random kernel, as a rule. None: a fixed random one.
      center: the kernel that the bound is about: of yesterday, of zero-shot
        prototypes. None for zero. `norm_sq`, multiplier and residual of the solution,
        and what a constraint reads of the data, are those of the change.

    Returns:
      The `HeadSolution`. Check `status`, or call `check`, before using the kernel.

    Raises:
      TypeError: if data or constraint are of another kind.
      ValueError: if the shapes of data, norm and tie-break do not agree.

    Example:
      Unconstrained, this slope would be 2; on the unit sphere it is 1.

      >>> features = jnp.array([[1.0], [2.0], [3.0]])
      >>> moments = lj.compute_moments(features, 2 * features + 1)
      >>> head = lj.solve_least_squares(moments, lj.constraints.fixed_norm(1.0))
      >>> lj.check(head)
      >>> print(f"{head.kernel[0, 0]:.3f} {head.bias[0]:.3f} {head.multiplier[0]:.3f}")
      1.000 3.000 0.667
    """
    problem = _as_problem(data)
    require_kind("constraint", constraint, Constraint)
    shape = problem.spectrum.cross.shape
    require_tie_break(tie_break, shape)
    problem, center, scale = _substitute(problem, center, constraint.metric)
    whole, seen = problem.spectrum, problem
    if center is not None:
        seen = _from_center(problem, center)
    radius_sq = require_norm_shape(constraint.radius_sq(seen), shape[1])
    spectra = whole, seen.spectrum
    if isinstance(whole.covariance, Factor):
        spectra, radius_sq = without_derivative(
            "the head of a thin spectrum has no derivative; use decompose instead of "
            "decompose_gram under jax.grad.",
            (spectra, radius_sq),
        )
    metric = constraint.metric if scale is None else "euclidean"
    relation = constraint.relation
    head = _solve(*spectra, radius_sq, tie_break, center, relation, metric)
    if scale is None:
        return head
    return head._replace(kernel=scale[:, None] * head.kernel)


def _substitute(problem, center, metric):
    """The problem in units in which the metric is that of one of the two solvers."""
    spectrum, examples = problem.spectrum, problem.examples
    if center is not None:
        require_center(center, spectrum.cross.shape)
        center = jnp.asarray(center, spectrum.cross.dtype)
    if metric != "feature_variance":
        return problem, center, None
    scale = evening_scale(spectrum)
    if examples is not None:
        examples = scale_features(examples, scale)
    problem = problem._replace(spectrum=rescaled(spectrum, scale), examples=examples)
    return problem, None if center is None else center / scale[:, None], scale


def _from_center(problem, center):
    """The problem as a kernel leaves it over."""
    spectrum, examples = residual_spectrum(problem.spectrum, center), problem.examples
    if examples is not None:
        features = jnp.asarray(examples.inputs).astype(center.dtype)
        left = examples.targets.astype(center.dtype) - dot(features, center)
        examples = examples._replace(targets=left)
    return problem._replace(spectrum=spectrum, examples=examples)


def _as_problem(data) -> Problem:
    """Returns what is known of the head; of moments their spectrum."""
    if isinstance(data, Moments):
        return Problem(decompose(data))
    problem = data if isinstance(data, Problem) else Problem(data)
    if not isinstance(problem.spectrum, Spectrum):
        raise TypeError(
            f"expected data as Moments, Spectrum or Problem; got {type(data).__name__}."
        )
    require_spectrum(problem.spectrum)
    return problem


@partial(jax.jit, static_argnames=("relation", "metric"))
def _solve(whole, spectrum, norm_sq, tie_break, center, relation, metric):
    tie_break = unit_tie_break(tie_break, spectrum.cross.shape, spectrum.cross.dtype)
    is_thin = isinstance(spectrum.covariance, Factor)
    if center is not None or metric != "euclidean" or is_thin:
        return _solve_one(whole, spectrum, norm_sq, tie_break, center, relation, metric)

    def solve_one(spectrum, norm_sq, tie_break):
        return _solve_one(
            spectrum, spectrum, norm_sq, tie_break, None, relation, metric
        )

    return solve_batched(solve_one, relation, spectrum, norm_sq, tie_break)


def _solve_one(whole, spectrum, norm_sq, tie_break, center, relation, metric):
    """Solves for the change of a centre, and adds the evidence.

    What the loss is compared with and rounded at is the problem as a whole.
    """
    norm_sq = norm_sq.astype(spectrum.cross.dtype)
    # Per-output quantities are rows [1, k], global ones [1, 1]; both broadcast.
    row = norm_sq.reshape(1, -1)
    usable, is_zero = jnp.isfinite(row) & (row >= 0), row == 0
    wanted = jnp.where(usable & ~is_zero, row, 1)
    solve = on_sphere if metric == "euclidean" else on_ellipsoid
    kernel, multiplier, is_met, is_hard_case = solve(
        spectrum, wanted, relation, tie_break
    )
    reached = metric_norm_sq(spectrum, kernel, wanted, metric)
    rounding = norm_rounding(spectrum, kernel, wanted, metric) / wanted
    known = None if center is None else _size_of_targets(whole, center)
    rows = dict(
        multiplier=multiplier,
        norm_sq=reached,
        norm_error=jnp.where(is_met, jnp.abs(reached / wanted - 1), 0),
        is_hard_case=is_hard_case,
        **certificate(spectrum, kernel, multiplier, wanted, metric, known),
    )
    # The only kernel of norm zero: optimal, whatever its residual.
    rows = jax.tree.map(lambda x: jnp.where(is_zero, jnp.zeros_like(x), x), rows)
    rows["is_global"] |= is_zero
    kernel = jnp.where(is_zero, 0, kernel)
    kernel = kernel if center is None else center + kernel
    solution = dict(
        kernel=kernel,
        bias=whole.mean_t - dot(whole.mean_x, kernel),
        objective=objective(whole, kernel),
        **{name: value.reshape(norm_sq.shape) for name, value in rows.items()},
    )
    status = quadratic_status(
        whole, usable, solution, lax.stop_gradient(rounding).reshape(norm_sq.shape)
    )
    return HeadSolution(**solution, status=status)


def _size_of_targets(spectrum, center):
    """Mean square of what the targets of a centred problem are the difference of."""
    spread = jnp.sqrt(column_variances(spectrum))[:, None] * center
    spread = column_length(spread, spectrum.cross[:1])[0]
    return lax.stop_gradient((jnp.sqrt(spectrum.variance) + spread) ** 2)


def unit_tie_break(
    kernel: Float[ArrayLike, "d k"] | None, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "d k"]:
    """Returns a tie-break with unit columns; random where there is none or a zero."""
    default = scattered(shape, dtype)
    if kernel is None:
        kernel = default
    kernel = lax.stop_gradient(jnp.asarray(kernel, dtype))
    kernel = jnp.where(jnp.any(kernel != 0, axis=0, keepdims=True), kernel, default)
    return kernel / column_length(kernel, kernel[:1])


def require_tie_break(tie_break: Any, shape: tuple[int, ...]) -> None:
    """Refuses a tie-break of another shape than the kernel."""
    found = shape if tie_break is None else require_real("tie_break", tie_break)
    if found != shape:
        raise ValueError(
            f"expected a tie_break of shape {shape} (features, outputs); got {found}."
        )
