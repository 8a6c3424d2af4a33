r"""The minimiser on a sphere or an ellipsoid, from an eigendecomposition.

Where a projection of $r$ on an eigenvector is no larger than rounding, that of
$256\,\epsilon \|r\|$ times a tie-break kernel is added to it. The free part of the hard
case becomes the projection of that kernel on the bottom eigenspace, which does not
depend on the eigenvectors the library happened to pick; a weak but real projection
keeps its sign.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lagrange_jax.bounds import Relation
from lagrange_jax.numerics.linalg import column_length, dot, pseudo_inverse
from lagrange_jax.numerics.secular import solve_secular
from lagrange_jax.solvers.implicit import differentiable
from lagrange_jax.solvers.quadratic import metric_norm_sq
from lagrange_jax.statistics.spectrum import Factor, Spectrum, mean_variance

__all__ = ["Minimiser", "on_ellipsoid", "on_sphere"]

# Size of the tie-break relative to rounding: large enough to beat the rounding noise
# of r in the bottom eigenspace, small enough not to show in the loss.
TIE_BREAK = 256
# Projections and eigenvalue gaps that rounding alone may produce, in units of eps.
NOISE = 4
EQUAL = 4


class Minimiser(NamedTuple):
    """A minimiser under the constraint, and what is known of it.

    Attributes:
      kernel: the minimiser.
      multiplier: its multiplier.
      is_met: whether the constraint binds.
      is_hard_case: whether the tie-break decided a part of it.
    """

    kernel: Float[Array, "d k"]
    multiplier: Float[Array, "1 m"]
    is_met: Bool[Array, "1 m"]
    is_hard_case: Bool[Array, "1 m"]


def on_sphere(
    spectrum: Spectrum,
    norm_sq: Float[Array, "1 m"],
    relation: Relation,
    tie_break: Float[Array, "d k"],
) -> Minimiser:
    """Returns the minimiser on the sphere, or inside where the relation allows it.

    Args:
      spectrum: the problem, whole or thin.
      norm_sq: the wanted norm, one a column or one for all.
      relation: `"equality"` or `"at_most"`.
      tie_break: a kernel with unit columns.
    """
    frozen, wanted = lax.stop_gradient((spectrum, norm_sq))
    found, theta = _on_sphere(relation, frozen, wanted, tie_break)
    s, resolution = frozen.eigenvalues, frozen.resolution
    gaps = _gaps(s, resolution / len(s))
    inverse = 1 / (gaps[:, None] + theta)
    if relation == "at_most":
        inner = pseudo_inverse(s, resolution)[:, None]
        inverse = jnp.where(found.is_met, inverse, inner)
    kernel, multiplier = _differentiable(
        spectrum, norm_sq, (found.kernel, found.multiplier), inverse, found.is_met
    )
    return found._replace(kernel=kernel, multiplier=multiplier)


def _gaps(s, rounding):
    """Distances from the smallest eigenvalue; zero where rounding may be all."""
    unequal = s - s[0] > EQUAL * jnp.maximum(rounding, rounding[0])
    return jnp.where(unequal, s - s[0], 0)


def _on_sphere(relation, spectrum, wanted, tie_break) -> tuple[Minimiser, Array]:
    """The minimiser, and its multiplier plus the smallest eigenvalue."""
    s, resolution, projections, ties, to_kernel = _coordinates(spectrum, tie_break)
    eps = jnp.finfo(s.dtype).eps
    rounding = resolution / len(spectrum.resolution)  # of an eigenvalue
    gaps = _gaps(s, rounding)
    load = column_length(projections, wanted)
    # Without any load the tie-break alone decides, in the unit of S w.
    is_loaded = load > 0
    unit = jnp.where(s[-1] > 0, s[-1], 1) * jnp.sqrt(wanted)
    # A projection is known to eps of all of r, or of what its own direction may load.
    most = jnp.sqrt(rounding[:, None] / eps * spectrum.variance[None])
    noise = eps * jnp.where(is_loaded, jnp.minimum(load, most), unit)
    is_noise = jnp.abs(projections) <= NOISE * noise
    loads = jnp.where(is_noise, projections + TIE_BREAK * noise * ties, projections)
    theta = solve_secular(gaps, loads, wanted)
    inverse = 1 / (gaps[:, None] + theta)
    coordinates = loads * inverse
    multiplier = jnp.where(is_loaded, theta, 0) - s[0]
    is_met = jnp.full(wanted.shape, True)
    reached = column_length(projections * inverse, wanted) ** 2
    is_hard_case = reached < wanted * (1 - eps**0.5)
    if relation == "at_most":
        inner = projections * pseudo_inverse(s, resolution)[:, None]
        is_met = column_length(inner, wanted) ** 2 > wanted
        coordinates = jnp.where(is_met, coordinates, inner)
        multiplier = jnp.where(is_met, jnp.maximum(multiplier, 0), 0)
    kernel = to_kernel(coordinates)
    length = column_length(kernel, wanted)
    kernel = kernel * jnp.where(is_met, jnp.sqrt(wanted) / length, 1)
    return Minimiser(kernel, multiplier, is_met, is_met & is_hard_case), theta


def _coordinates(spectrum: Spectrum, tie_break):
    """Eigenpairs, projections, the tie-break in their basis, and the way back.

    A thin spectrum lacks directions without variance. Of these only the tie-break's
    own part matters: one more basis vector, another one for every column.
    """
    s, basis = spectrum.eigenvalues, spectrum.eigenvectors
    ties = dot(basis.T, tie_break)
    if not isinstance(spectrum.covariance, Factor):
        to_kernel: Callable = lambda rows: dot(basis, rows)  # noqa: E731
        return s, spectrum.resolution, spectrum.projections, ties, to_kernel
    if len(s) >= len(basis):
        raise ValueError(
            "expected fewer examples than features for the head of a thin spectrum; "
            f"got {len(s)} and {len(basis)}. Use decompose(compute_moments(...))."
        )
    rest = tie_break - dot(basis, ties)
    length = jnp.linalg.norm(rest, axis=0, keepdims=True)
    rest = rest / jnp.where(length > 0, length, 1)
    s = jnp.pad(jnp.maximum(s, 0), (1, 0))
    projections = jnp.pad(spectrum.projections, ((1, 0), (0, 0)))
    to_kernel = lambda rows: dot(basis, rows[1:]) + rest * rows[:1]  # noqa: E731
    resolution = jnp.pad(spectrum.resolution, (1, 0), mode="edge")
    return s, resolution, projections, jnp.concatenate([length, ties]), to_kernel


def _differentiable(spectrum, norm_sq, point, inverse, is_met):
    """Gives the point its derivative; a thin spectrum has none."""
    if isinstance(spectrum.covariance, Factor):
        return point
    data = spectrum.covariance, spectrum.cross, norm_sq
    basis = lax.stop_gradient(spectrum.eigenvectors)
    return differentiable(data, point, (basis, inverse, is_met))


def on_ellipsoid(
    spectrum: Spectrum,
    norm_sq: Float[Array, "1 m"],
    relation: Relation,
    tie_break: Float[Array, "d k"],
) -> Minimiser:
    """Returns the minimiser with the wanted output variance: least squares, rescaled.

    Arguments are those of `on_sphere`.
    """
    frozen = lax.stop_gradient(spectrum)
    inverse = pseudo_inverse(frozen.eigenvalues, frozen.resolution)[:, None]
    kernel = dot(frozen.eigenvectors, frozen.projections * inverse)
    zero = jnp.zeros_like(norm_sq)
    kernel, _ = _differentiable(spectrum, norm_sq, (kernel, zero), inverse, zero > 0)
    length = metric_norm_sq(spectrum, kernel, norm_sq, "output_variance")
    is_empty = length == 0
    kernel = jnp.where(is_empty, tie_break, kernel)
    length = jnp.where(
        is_empty,
        metric_norm_sq(spectrum, tie_break, norm_sq, "output_variance"),
        length,
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
    return Minimiser(scale * kernel, multiplier, is_met, is_met & is_empty)
