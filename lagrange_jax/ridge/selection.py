"""The strength that the data choose for a head.

A criterion is a function `criterion(spectrum, strength) -> [k]`, to be minimised:
`negative_log_evidence`, `gcv`, or `leave_one_out(features, targets)`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from lagrange_jax._checks import require_shapes
from lagrange_jax.numerics.parabola import parabola_minimum
from lagrange_jax.ridge.marginal_likelihood import negative_log_evidence
from lagrange_jax.ridge.path import multiplier_to_strength
from lagrange_jax.statistics.spectrum import Spectrum, require_spectrum

__all__ = ["Criterion", "StrengthChoice", "choose_strength"]

Criterion = Callable[[Spectrum, Float[Array, "*k"]], Float[Array, " k"]]
"""`criterion(spectrum, strength)`, one value an output, to be minimised."""

# Points of the first grid: a factor of about two a step over twenty decades, so that
# no basin of a criterion is missed. Two zooms leave steps of 0.3 percent, and the
# parabola makes of them 1e-6 in double precision.
NUM_POINTS = 64
NUM_ZOOMS = 2
# A multiplier this many times the largest eigenvalue leaves a millionth of the head.
LARGEST = 1e6


class StrengthChoice(NamedTuple):
    """A strength chosen from the data.

    Attributes:
      strength: the strength, `[]` for all outputs or one an output `[k]`.
      value: the criterion there, summed over the outputs that share the strength.
      edge: 0 if the criterion has its minimum inside the range; -1 at its lower
        edge, where the data call for no strength; 1 at its upper edge, where they
        call for no head. At an edge the strength is that edge, not an optimum.
    """

    strength: Float[Array, "*k"]
    value: Float[Array, "*k"]
    edge: Int[Array, "*k"]


def choose_strength(
    spectrum: Spectrum,
    criterion: Criterion = negative_log_evidence,
    *,
    per_output: bool = False,
    bounds: tuple[float, float] | None = None,
) -> StrengthChoice:
    """Minimises a criterion over the strength: grid, two finer grids, parabola.

    Args:
      spectrum: spectrum of the features, whole or thin.
      criterion: `negative_log_evidence`, `gcv`, `leave_one_out(features, targets)`
        or any other function `(spectrum, strength) -> [k]`.
      per_output: one strength an output, or one for all (the sum over outputs is
        minimised).
      bounds: smallest and largest strength; None for the whole range in which
        strengths make a difference, from the rounding error of the eigenvalues to a
        million times the largest one.

    Returns:
      The `StrengthChoice`. Look at `edge` before using it.

    Raises:
      TypeError: if the criterion is no function.
      ValueError: if the bounds are not two rising numbers greater than zero.
    """
    require_spectrum(spectrum)
    if not callable(criterion):
        raise TypeError(
            "expected criterion as a function (spectrum, strength); got "
            f"{type(criterion).__name__}."
        )
    _require_bounds(bounds)
    if not isinstance(criterion, Partial):
        criterion = Partial(criterion)
    return _choose(spectrum, criterion, bounds, per_output)


def _require_bounds(bounds):
    if bounds is None:
        return
    require_shapes({"bounds": "2"}, {"bounds": jnp.stack([*map(jnp.asarray, bounds)])})
    if any(isinstance(bound, Tracer) for bound in bounds):
        return
    low, high = map(float, bounds)
    if not 0 < low < high < float("inf"):
        raise ValueError(
            "expected bounds as two rising strengths greater than zero, for they are "
            f"searched on a logarithmic scale; got {bounds}."
        )


@partial(jax.jit, static_argnames="per_output")
def _choose(spectrum, criterion, bounds, per_output):
    spectrum = lax.stop_gradient(spectrum)
    k, dtype = spectrum.projections.shape[1], spectrum.projections.dtype

    def evaluate(positions):
        strengths = jnp.exp(positions if per_output else positions[:, 0])
        values = jax.vmap(lambda strength: criterion(spectrum, strength))(strengths)
        return values if per_output else values.sum(1, keepdims=True)

    low, high = _range(spectrum) if bounds is None else bounds
    ends = jnp.log(jnp.stack([jnp.asarray(low, dtype), jnp.asarray(high, dtype)]))
    left, right = jnp.broadcast_to(ends[:, None], (2, k if per_output else 1))
    minimum, bracket = _search(evaluate, left, right)
    side = jnp.where(minimum.index < NUM_POINTS // 2, -1, 1)
    edge, position = jnp.where(minimum.is_edge, side, 0), minimum.position
    for _ in range(NUM_ZOOMS):
        minimum, bracket = _search(evaluate, *bracket)
    position = jnp.where(edge == 0, minimum.position, position)
    value = evaluate(position[None])[0]
    shape = (k,) if per_output else ()
    return StrengthChoice(
        jnp.exp(position).reshape(shape), value.reshape(shape), edge.reshape(shape)
    )


def _search(evaluate, left, right):
    """The lowest point of a grid in each column, and its neighbours."""
    grid = jnp.linspace(left, right, NUM_POINTS)
    minimum = jax.vmap(parabola_minimum, 1)(grid, evaluate(grid))
    around = minimum.index[None] + jnp.array([[-1], [1]])
    around = jnp.clip(around, 0, NUM_POINTS - 1)
    return minimum, jnp.take_along_axis(grid, around, axis=0)


def _range(spectrum):
    """Strengths from what rounding can tell from zero to what leaves no head."""
    s = spectrum.eigenvalues
    top = jnp.where(s[-1] > 0, s[-1], 1)
    least = jnp.min(jnp.where(spectrum.resolution > 0, spectrum.resolution, jnp.inf))
    low = jnp.where(jnp.isfinite(least), least, jnp.finfo(s.dtype).eps * top)
    return multiplier_to_strength(low), multiplier_to_strength(LARGEST * top)
