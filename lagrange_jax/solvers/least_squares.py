r"""The optimal head for squared error, subject to a constraint on its norm.

The bias is free, so $b = m_t - W^T m_\phi$ exactly, and what is left is a quadratic
over a sphere. A point of the sphere is a *global* minimiser if and only if some
multiplier gives $(S + \mu I) w = r$ with $S + \mu I \succeq 0$; that is one root of
the secular equation for each output.

**Hard case.** Where $r$ has no part in the bottom eigenspace of $S$ (dead or
constant features, fewer examples than features, one-hot inputs) the minimisers form
a sphere. The free part of the kernel is then the projection of a tie-break kernel on
the bottom eigenspace, see `sphere`.

**Three routes** give the same head:

| route | beside the moments | choose it |
| --- | --- | --- |
| `method="eigh"` | one `eigh` | as a rule: many norms, gradients, small d |
| `method="tridiagonal"` | about half of it | once, for d of a hundred or more |
| `decompose_gram` | `eigh` of N x N | for fewer examples than features |

References:
  W. Gander, G. H. Golub, U. von Matt, "A constrained eigenvalue problem", Linear
  Algebra Appl. 114/115, 1989.
  J. J. Moré, D. C. Sorensen, "Computing a trust region step", 1983.
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lagrange_jax._checks import require_real, require_record
from lagrange_jax.bounds import Relation, require_norm, require_relation
from lagrange_jax.numerics.linalg import column_length, dot
from lagrange_jax.solvers.certificate import (
    certificate,
    metric_norm_sq,
    objective,
    status_of,
)
from lagrange_jax.solvers.implicit import without_derivative
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.solvers.spectral import on_ellipsoid, on_sphere
from lagrange_jax.solvers.tridiagonal_sphere import (
    on_tridiagonal_sphere,
    tridiagonal_spectrum,
)
from lagrange_jax.statistics.moments import Moments
from lagrange_jax.statistics.spectrum import (
    Factor,
    Spectrum,
    decompose,
    quadratic,
    require_spectrum,
)

__all__ = [
    "require_tie_break",
    "solve_least_squares",
    "solve_spectrum",
    "unit_tie_break",
]

Method = Literal["eigh", "tridiagonal"]
# LAPACK's tridiagonal form wants at least this many features; fewer cost nothing.
SMALLEST_TRIDIAGONAL = 3


def solve_least_squares(
    moments: Moments,
    norm_sq: Float[ArrayLike, "*k"],
    *,
    relation: Relation = "equality",
    exact: bool = False,
    use_bias: bool = True,
    tie_break: Float[ArrayLike, "d k"] | None = None,
    method: Method = "eigh",
) -> HeadSolution:
    r"""Solves for the globally optimal head under a norm constraint.

    .. math:: \min_{W, b} \frac1N \sum_n a_n \|W^T \phi_n + b - t_n\|^2
              \quad\text{s.t.}\quad \|w_j\|^2 = c_j
              \text{ (or } \le c_j), \text{ or } \|W\|_F^2 = c.

    Jittable and vmappable over every array. Differentiable once in reverse mode, in
    the moments (hence in features, targets and example weights) and in the norm, by
    implicit differentiation of the KKT system: right at repeated eigenvalues too, but
    for the directions that the data leave free in the hard case, which have none.

    Args:
      moments: statistics of features and targets.
      norm_sq: $c > 0$. Shape `[k]`: one sphere an output; `[]`: one for the kernel.
      relation: `"equality"`, or `"at_most"` for a ball, whose interior solution is
        the minimum-norm unconstrained one.
      exact: measure a column by $w^T S w \,/\, (\mathrm{tr} S / d)$ instead of
        $\|w\|^2$. The multiplier then belongs to $(S + \mu M) w = r$ with the
        metric $M = S d / \mathrm{tr} S$.
      use_bias: whether the head has a bias.
      tie_break: a kernel whose projection fills what the data leave free; the
        model's own random kernel, as a rule. None: a fixed random one.
      method: `"eigh"`, or `"tridiagonal"`, which takes about half of its time for d of
        some hundred or more, but has no derivative and does not serve `exact`.

    Returns:
      The `HeadSolution`. Check `status`, or call `check`, before using the kernel.

    Raises:
      ValueError: if the shapes of moments, norm and tie-break do not agree, a norm
        that is known while tracing is not positive, or the method is unknown or asked
        for what it cannot do.

    Example:
      Unconstrained, this slope would be 2; on the unit sphere it is 1.

      >>> features = jnp.array([[1.0], [2.0], [3.0]])
      >>> moments = lj.compute_moments(features, 2 * features + 1)
      >>> head = lj.solve_least_squares(moments, norm_sq=1.0)
      >>> lj.check(head)
      >>> print(f"{head.kernel[0, 0]:.3f} {head.bias[0]:.3f} {head.multiplier:.3f}")
      1.000 3.000 0.667
    """
    require_record("moments", moments, Moments)
    _require_method(method, exact)
    _require_norms(norm_sq, relation, tie_break, moments.cov_xt.shape)
    return _solve_moments(
        moments, norm_sq, tie_break, relation, exact, use_bias, method
    )


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _solve_moments(moments, norm_sq, tie_break, relation, exact, use_bias, method):
    if method == "eigh" or len(moments.cov_xx) < SMALLEST_TRIDIAGONAL:
        return solve_spectrum(
            decompose(moments, use_bias=use_bias),
            norm_sq,
            relation=relation,
            exact=exact,
            tie_break=tie_break,
        )
    moments, norm_sq = without_derivative(
        'method="tridiagonal" has no derivative; use method="eigh" under jax.grad.',
        (moments, norm_sq),
    )
    matrix, spectrum = tridiagonal_spectrum(quadratic(moments, use_bias=use_bias))
    solve = partial(on_tridiagonal_sphere, matrix)
    return _solve(solve, spectrum, norm_sq, relation, exact, tie_break)


def solve_spectrum(
    spectrum: Spectrum,
    norm_sq: Float[ArrayLike, "*k"],
    *,
    relation: Relation = "equality",
    exact: bool = False,
    tie_break: Float[ArrayLike, "d k"] | None = None,
) -> HeadSolution:
    """Solves as `solve_least_squares` does, from an existing eigendecomposition.

    Use it to try many norms on the same data at the cost of one `eigh`, and with
    `decompose_gram` for fewer examples than features; a thin spectrum has no
    derivative. Arguments, result and errors are those of `solve_least_squares`.
    """
    require_spectrum(spectrum)
    _require_norms(norm_sq, relation, tie_break, spectrum.cross.shape)
    if isinstance(spectrum.covariance, Factor):
        spectrum, norm_sq = without_derivative(
            "the head of a thin spectrum has no derivative; use decompose instead of "
            "decompose_gram under jax.grad.",
            (spectrum, norm_sq),
        )
    solve = on_ellipsoid if exact else on_sphere
    return _solve(solve, spectrum, norm_sq, relation, exact, tie_break)


def _solve(solve, spectrum, norm_sq, relation, exact, tie_break):
    """Solves, and adds the evidence."""
    shape, dtype = spectrum.cross.shape, spectrum.cross.dtype
    norm_sq = require_norm(norm_sq, shape[1]).astype(dtype)
    # Per-output quantities are rows [1, k], global ones [1, 1]; both broadcast.
    wanted = norm_sq.reshape(1, -1)
    usable = jnp.isfinite(wanted) & (wanted > 0)
    wanted = jnp.where(usable, wanted, 1)
    tie_break = unit_tie_break(tie_break, shape, dtype)
    kernel, multiplier, is_met, is_hard_case = solve(
        spectrum, wanted, relation, tie_break
    )
    reached = metric_norm_sq(spectrum, kernel, wanted, exact)
    rows = dict(
        multiplier=multiplier,
        norm_sq=reached,
        norm_error=jnp.where(is_met, jnp.abs(reached / wanted - 1), 0),
        is_hard_case=is_hard_case,
        **certificate(spectrum, kernel, multiplier, wanted, exact),
    )
    solution = dict(
        kernel=kernel,
        bias=spectrum.mean_t - dot(spectrum.mean_x, kernel),
        objective=objective(spectrum, kernel),
        **{name: row.reshape(norm_sq.shape) for name, row in rows.items()},
    )
    return HeadSolution(**solution, status=status_of(spectrum, usable, solution))


def unit_tie_break(
    kernel: Float[ArrayLike, "d k"] | None, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "d k"]:
    """Returns a tie-break with unit columns; random where there is none or a zero."""
    default = jax.random.uniform(jax.random.key(0), shape, dtype, minval=-1)
    if kernel is None:
        kernel = default
    kernel = lax.stop_gradient(jnp.asarray(kernel, dtype))
    kernel = jnp.where(jnp.any(kernel != 0, axis=0, keepdims=True), kernel, default)
    return kernel / column_length(kernel, kernel[:1])


def _require_norms(norm_sq, relation, tie_break, shape):
    require_relation(relation)
    require_norm(norm_sq, shape[1])
    require_tie_break(tie_break, shape)


def require_tie_break(tie_break: Any, shape: tuple[int, ...]) -> None:
    """Refuses a tie-break of another shape than the kernel."""
    if tie_break is not None and require_real("tie_break", tie_break) != shape:
        raise ValueError(
            f"expected a tie_break of shape {shape} (features, outputs); got "
            f"{tie_break.shape}."
        )


def _require_method(method, exact):
    if method not in get_args(Method):
        raise ValueError(
            f"expected method to be one of {get_args(Method)}; got {method!r}."
        )
    if method == "tridiagonal" and exact:
        raise ValueError('expected exact=False with method="tridiagonal"; use "eigh".')
