r"""The optimal head for squared error, subject to a constraint on its norm.

The bias is free, so $b = m_t - W^T m_\phi$ exactly, and what is left is a quadratic
over a sphere. A point of the sphere is a *global* minimiser if and only if some
multiplier gives $(S + \mu I) w = r$ with $S + \mu I \succeq 0$; that is one root of
the secular equation for each output.

**Hard case.** Where $r$ has no part in the bottom eigenspace of $S$ (dead or
constant features, fewer examples than features, one-hot inputs) the minimisers form
a sphere. Where a projection of $r$ on an eigenvector is no larger than rounding, we add
to it that of $256\,\epsilon \|r\|$ times a tie-break kernel. The free part becomes the
projection of that kernel on the bottom eigenspace, which does not depend on the
eigenvectors the library happened to pick; a weak but real projection keeps its sign.

References:
  W. Gander, G. H. Golub, U. von Matt, "A constrained eigenvalue problem", Linear
  Algebra Appl. 114/115, 1989.
  J. J. Moré, D. C. Sorensen, "Computing a trust region step", 1983.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.certificate import (
    certificate,
    mean_variance,
    metric_norm_sq,
    objective,
    status_of,
)
from lagrange_jax.constraints import Relation, require_norm, require_relation
from lagrange_jax.implicit import differentiable
from lagrange_jax.linalg import column_length, dot, pseudo_inverse
from lagrange_jax.moments import Moments
from lagrange_jax.secular import solve_secular
from lagrange_jax.solution import HeadSolution
from lagrange_jax.spectrum import Spectrum, decompose

__all__ = ["solve_least_squares", "solve_spectrum"]

# Size of the tie-break relative to rounding: large enough to beat the rounding noise
# of r in the bottom eigenspace, small enough not to show in the loss.
TIE_BREAK = 256
# Projections and eigenvalue gaps that rounding alone may produce, in units of eps.
NOISE = 4
EQUAL = 4


@partial(jax.jit, static_argnames=("relation", "exact", "use_bias"))
def solve_least_squares(
    moments: Moments,
    norm_sq: Float[Array, "*k"] | float,
    *,
    relation: Relation = "equality",
    exact: bool = False,
    use_bias: bool = True,
    tie_break: Float[Array, "d k"] | None = None,
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

    Returns:
      The `HeadSolution`. Check `status`, or call `check`, before using the kernel.

    Raises:
      ValueError: if the shapes of moments, norm and tie-break do not agree, or a
        norm that is known while tracing is not positive.

    Example:
      Unconstrained, this slope would be 2; on the unit sphere it is 1.

      >>> features = jnp.array([[1.0], [2.0], [3.0]])
      >>> moments = lj.compute_moments(features, 2 * features + 1)
      >>> head = lj.solve_least_squares(moments, norm_sq=1.0)
      >>> lj.check(head)
      >>> print(f"{head.kernel[0, 0]:.3f} {head.bias[0]:.3f} {head.multiplier:.3f}")
      1.000 3.000 0.667
    """
    spectrum = decompose(moments, use_bias=use_bias)
    return solve_spectrum(
        spectrum, norm_sq, relation=relation, exact=exact, tie_break=tie_break
    )


def solve_spectrum(
    spectrum: Spectrum,
    norm_sq: Float[Array, "*k"] | float,
    *,
    relation: Relation = "equality",
    exact: bool = False,
    tie_break: Float[Array, "d k"] | None = None,
) -> HeadSolution:
    """Solves as `solve_least_squares` does, from an existing eigendecomposition.

    Use it to try many norms on the same data at the cost of one `eigh`. Arguments,
    result and errors are those of `solve_least_squares`.
    """
    shape, dtype = spectrum.projections.shape, spectrum.projections.dtype
    require_relation(relation)
    norm_sq = require_norm(norm_sq, shape[1]).astype(dtype)
    # Per-output quantities are rows [1, k], global ones [1, 1]; both broadcast.
    wanted = norm_sq.reshape(1, -1)
    usable = jnp.isfinite(wanted) & (wanted > 0)
    wanted = jnp.where(usable, wanted, 1)
    tie_break = _tie_break(tie_break, shape, dtype)
    solve = _on_ellipsoid if exact else _on_sphere
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
    return HeadSolution(
        kernel=kernel,
        bias=spectrum.mean_t - dot(spectrum.mean_x, kernel),
        objective=objective(spectrum, kernel),
        status=status_of(spectrum, usable, rows),
        **{name: row.reshape(norm_sq.shape) for name, row in rows.items()},
    )


def _tie_break(kernel, shape, dtype):
    """The tie-break with unit columns; a zero column is replaced by a random one."""
    default = jax.random.normal(jax.random.key(0), shape, dtype)
    if kernel is None:
        kernel = default
    if kernel.shape != shape:
        raise ValueError(
            f"expected a tie-break kernel of shape {shape} (features, outputs); got "
            f"{kernel.shape}."
        )
    kernel = lax.stop_gradient(kernel).astype(dtype)
    kernel = jnp.where(jnp.any(kernel != 0, axis=0, keepdims=True), kernel, default)
    return kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)


def _on_sphere(spectrum, norm_sq, relation, tie_break):
    """Minimiser on (or in) the sphere: kernel, multiplier, is_met, is_hard_case."""
    frozen, wanted = lax.stop_gradient((spectrum, norm_sq))
    s, basis, projections = frozen.eigenvalues, frozen.eigenvectors, frozen.projections
    eps = jnp.finfo(s.dtype).eps
    gaps = jnp.where(s - s[0] > EQUAL * eps * s[-1], s - s[0], 0)
    load = column_length(projections, wanted)
    # Without any load the tie-break alone decides, in the unit of S w.
    is_loaded = load > 0
    unit = jnp.where(s[-1] > 0, s[-1], 1) * jnp.sqrt(wanted)
    load = jnp.where(is_loaded, load, unit)
    is_noise = jnp.abs(projections) <= NOISE * eps * load
    tie = TIE_BREAK * eps * load * dot(basis.T, tie_break)
    loads = jnp.where(is_noise, projections + tie, projections)
    theta = solve_secular(gaps, loads, wanted)
    inverse = 1 / (gaps[:, None] + theta)
    coordinates = loads * inverse
    multiplier = jnp.where(is_loaded, theta, 0) - s[0]
    is_met = jnp.full(wanted.shape, True)
    is_hard_case = column_length(projections * inverse, wanted) ** 2 < wanted * (
        1 - eps**0.5
    )
    if relation == "at_most":
        inner_inverse = pseudo_inverse(s)[:, None]
        inner = projections * inner_inverse
        is_met = column_length(inner, wanted) ** 2 > wanted
        coordinates = jnp.where(is_met, coordinates, inner)
        inverse = jnp.where(is_met, inverse, inner_inverse)
        multiplier = jnp.where(is_met, jnp.maximum(multiplier, 0), 0)
    kernel = dot(basis, coordinates)
    length = column_length(kernel, wanted)
    kernel = kernel * jnp.where(is_met, jnp.sqrt(wanted) / length, 1)
    kernel, multiplier = differentiable(
        (spectrum.covariance, spectrum.cross, norm_sq),
        (kernel, multiplier),
        (basis, inverse, is_met),
    )
    return kernel, multiplier, is_met, is_met & is_hard_case


def _on_ellipsoid(spectrum, norm_sq, relation, tie_break):
    """Minimiser with the wanted output variance: the free solution, rescaled."""
    frozen = lax.stop_gradient(spectrum)
    inverse = pseudo_inverse(frozen.eigenvalues)[:, None]
    kernel = dot(frozen.eigenvectors, frozen.projections * inverse)
    zero = jnp.zeros_like(norm_sq)
    kernel, _ = differentiable(
        (spectrum.covariance, spectrum.cross, norm_sq),
        (kernel, zero),
        (frozen.eigenvectors, inverse, zero > 0),
    )
    length = metric_norm_sq(spectrum, kernel, norm_sq, exact=True)
    is_empty = length == 0
    kernel = jnp.where(is_empty, tie_break, kernel)
    length = jnp.where(
        is_empty, metric_norm_sq(spectrum, tie_break, norm_sq, exact=True), length
    )
    # Constant features put out nothing: no scale reaches the wanted variance.
    scale = jnp.sqrt(norm_sq / jnp.where(length > 0, length, 1))
    is_met = jnp.full(norm_sq.shape, True)
    # On the ellipsoid S w = r / scale; without a load any w is optimal if mu M = -S.
    pull = jnp.where(is_empty, 0, 1 / scale)
    if relation == "at_most":
        is_met = (scale < 1) & ~is_empty
        scale = jnp.where(is_empty, 0, jnp.minimum(scale, 1))
        pull = jnp.where(is_met, pull, 1)
    multiplier = mean_variance(spectrum) * (pull - 1)
    return scale * kernel, multiplier, is_met, is_met & is_empty
