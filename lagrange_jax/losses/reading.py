"""What losses ask of their numbers and their targets."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lagrange_jax._checks import require_real
from lagrange_jax.losses.record import Targets

__all__ = ["as_columns", "as_number", "read_real"]


def as_number(
    name: str, value: Any, low: float, high: float, *, least: bool = False
) -> Any:
    """Returns a number between bounds; a traced one is not looked at.

    Args:
      name: what the caller calls it.
      value: the number.
      low: it is larger than this.
      high: it is less than this.
      least: whether it may be `low`.

    Raises:
      ValueError: if it is no scalar, or out of range.
    """
    if require_real(name, value) != ():
        raise ValueError(f"expected {name} as a number; got shape {np.shape(value)}.")
    if not isinstance(value, Tracer):
        if not (low < float(value) < high or (least and float(value) == low)):
            bracket = "[" if least else "("
            raise ValueError(
                f"expected {name} in {bracket}{low}, {high}); got {value}."
            )
    return value


def as_columns(
    targets: Array,
    num_columns: int,
    dtype: Any,
    *,
    num_outputs: int,
    wanted: str = "targets",
) -> Float[Array, "n t"]:
    """Returns targets as `[n, t]`; those of shape `[n]` are one column.

    Args:
      targets: an array.
      num_columns: t.
      dtype: of the result.
      num_outputs: of the head, for which they are.
      wanted: what messages call what is expected of shape `[n, t]`.

    Raises:
      ValueError: if the shape is another.
    """
    columns = targets[:, None] if targets.ndim == 1 else targets
    if columns.shape[1:] != (num_columns,):
        raise ValueError(
            f"expected {wanted} [n, {num_columns}], as the head has {num_outputs} "
            f"outputs; got {targets.dtype}{list(targets.shape)}."
        )
    return columns.astype(dtype)


def read_real(
    p: Any, targets: Array, k: int, dtype: Any, num_columns: int | None = None
) -> Targets:
    """Returns real targets as columns; those that are not finite are invalid."""
    num_columns = k if num_columns is None else num_columns
    values = as_columns(targets, num_columns, dtype, num_outputs=k)
    return Targets(values, jnp.isfinite(values).all(1))
