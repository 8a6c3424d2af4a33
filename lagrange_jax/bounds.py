"""A bound on the norm of the head: `Constraint`, and what chooses its radius."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lagrange_jax._checks import require_real
from lagrange_jax.statistics.spectrum import Spectrum
from lagrange_jax.types import Batch, Key

__all__ = ["Constraint", "Metric", "Problem", "Relation"]

Relation = Literal["equality", "at_most"]
Metric = Literal["euclidean", "output_variance", "feature_variance"]


class Problem(NamedTuple):
    """What is known of a head when its norm is chosen.

    Attributes:
      spectrum: the quadratic problem of the head.
      key: PRNG key, for a constraint that draws (cross-validation).
      examples: the head's inputs, targets and weights as a `Batch` of arrays, for a
        constraint with `needs_examples`; None where they were not kept.
      loss: the loss of the head where it is not the squared error.
    """

    spectrum: Spectrum
    key: Key | None = None
    examples: Batch | None = None
    loss: Any = None


class Constraint(NamedTuple):
    """A bound on the squared norm of the head's kernel.

    Attributes:
      radius_sq: `radius_sq(problem) -> c`, of shape `[k]` per output or `[]` global.
        The library's own are frozen records, so that equal constraints are equal and
        hash alike; any function of a `Problem` serves as well. A radius of zero asks
        for the zero kernel with its optimal bias.
      relation: `"equality"` (on the sphere) or `"at_most"` (in the ball).
      metric: `"euclidean"`; `"output_variance"` to measure a column by $w^T S w$ over
        the mean variance of the features; or `"feature_variance"` with the diagonal of
        S in its place, as if the features were standardised: the two agree where
        features are uncorrelated. A constant feature counts as one of mean variance.
        With `"output_variance"` columns that are collinear to rounding (duplicates,
        one-hot codes) end `INACCURATE`: that norm does not keep a head from making much
        of what tells them apart. Leave one of them out, or take another metric.
    """

    radius_sq: Callable[[Problem], Float[Array, "*k"]]
    relation: Relation = "equality"
    metric: Metric = "euclidean"

    @property
    def needs_examples(self) -> bool:
        """Whether the radius is chosen from the examples themselves."""
        return getattr(self.radius_sq, "needs_examples", False)


def make_constraint(
    radius_sq: Callable[[Problem], Float[Array, "*k"]],
    relation: Relation = "equality",
    metric: Metric = "euclidean",
) -> Constraint:
    """Returns the constraint; raises ValueError for an unknown relation or metric."""
    for name, value, known in (
        ("relation", relation, get_args(Relation)),
        ("metric", metric, get_args(Metric)),
    ):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"expected {name} to be one of {known}; got {value!r}.")
    return Constraint(radius_sq, relation, metric)


def require_norm(norm_sq: Any, num_outputs: int) -> Float[Array, "*k"]:
    """Returns `norm_sq` as an array of shape `[]` or `[num_outputs]`, or refuses it."""
    require_positive("norm_sq", norm_sq)
    return require_norm_shape(norm_sq, num_outputs)


def require_norm_shape(norm_sq: Any, num_outputs: int) -> Float[Array, "*k"]:
    """Returns the array; raises ValueError unless `[]` or `[num_outputs]`."""
    value = jnp.asarray(norm_sq)
    if value.shape not in ((), (num_outputs,)):
        raise ValueError(
            f"expected norm_sq of shape () for one sphere, or ({num_outputs},) for one "
            f"sphere an output; got {value.shape}."
        )
    return value


def require_relation(relation: str) -> None:
    """Refuses an unknown relation."""
    if not isinstance(relation, str) or relation not in get_args(Relation):
        raise ValueError(
            f"expected relation to be one of {get_args(Relation)}; got {relation!r}."
        )


def require_positive(name, value):
    """Refuses what is visibly wrong; a traced value is judged by the status."""
    require_real(name, value)
    if isinstance(value, Tracer):
        return
    if not np.all(np.isfinite(value) & (np.asarray(value) > 0)):
        raise ValueError(f"expected {name} > 0 and finite; got {value}.")


def hashable(value: Any) -> Any:
    """Returns a known array as a number or a tuple of them; a traced one as it is."""
    if isinstance(value, Tracer):
        return value
    as_tuple = lambda x: tuple(map(as_tuple, x)) if isinstance(x, list) else x  # noqa: E731
    return as_tuple(np.asarray(value).tolist())
