"""A bound on the norm of the head: `Constraint`, and the checks of its parts."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lagrange_jax._checks import require_real
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["Constraint", "Relation"]

Relation = Literal["equality", "at_most"]


class Constraint(NamedTuple):
    """A bound on the squared norm of the head's kernel.

    Attributes:
      norm_sq: `norm_sq(spectrum) -> c`, of shape `[k]` per output or `[]` global.
        Most constraints read only the shape of the spectrum; a constraint whose
        norm the data choose reads all of it.
      relation: `"equality"` or `"at_most"`.
      exact: whether the norm is the output's variance instead of the kernel's
        Euclidean norm.
    """

    norm_sq: Callable[[Spectrum], Float[Array, "*k"]]
    relation: Relation = "equality"
    exact: bool = False


def require_norm(norm_sq: Any, num_outputs: int) -> Float[Array, "*k"]:
    """Returns `norm_sq` as an array of shape `[]` or `[num_outputs]`, or refuses it."""
    require_positive("norm_sq", norm_sq)
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
