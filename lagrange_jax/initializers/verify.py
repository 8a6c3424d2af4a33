"""Does the network's own loss agree with that of the head that was solved?"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lagrange_jax.initializers.rows import (
    IGNORED,
    at_least_float32,
    head_rows,
    output_shape,
    tap_head,
    total_loss,
)
from lagrange_jax.losses.record import Loss
from lagrange_jax.models.params import get_head, set_head
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.solvers.solution import Status, is_usable
from lagrange_jax.types import Batch, Key, Model, Variables

__all__ = ["place_head"]

# Relative difference of two losses that are the same.
_AGREEMENT = 1e-3
# Rounding of a network's output, in units of eps of its coarsest numbers.
_ROUNDING = 8


def place_head(
    model: Model,
    variables: Variables,
    solution: Any,
    *,
    first: Batch,
    key: Key,
    loss: Loss | None = None,
    ignore_index: int = IGNORED,
) -> tuple[Variables, Any]:
    """Writes a solved head, unless the solve failed or the network disagrees.

    The network is run once more on the first batch, with the new head. Its mean loss
    has to be that of `features @ kernel + bias + offset` to a relative 1e-3, and to
    what the network's own numbers are rounded to (bfloat16, say).

    Args:
      model: the network.
      variables: its variables with the old head.
      solution: the new head: a record with kernel, bias and status.
      first: a batch of examples.
      key: what the network draws from where it is tapped in training mode.
      loss: what the head was solved for; None for the squared error.
      ignore_index: the label of rows that do not count.

    Returns:
      The variables, and the solution with its status.
    """
    old = get_head(model, variables)
    kernel = solution.kernel.astype(old.kernel.dtype)
    bias = None if old.bias is None else solution.bias.astype(old.bias.dtype)
    placed = set_head(model, variables, kernel, bias)
    read_rows = partial(head_rows, loss=loss, ignore_index=ignore_index)
    agrees = _agrees(model, variables, placed, first, key, loss, read_rows)
    is_solved = is_usable(solution.status)
    mismatch = jnp.asarray(Status.MISMATCH, solution.status.dtype)
    status = jnp.where(is_solved & ~agrees, mismatch, solution.status)
    is_used = is_usable(status)
    keep = lambda new, old: jnp.where(is_used, new, old)  # noqa: E731
    return (
        set_head(
            model,
            variables,
            keep(kernel, old.kernel),
            None if bias is None else keep(bias, old.bias),
        ),
        solution._replace(status=status),
    )


def _agrees(model, variables, placed, first, key, loss, read_rows):
    tap = tap_head(model, variables, first.inputs, key)
    kernel, bias = get_head(model, placed)
    dtype = at_least_float32(kernel, first.targets)
    axes = output_shape(model, kernel.shape[1], loss)
    rows = read_rows(tap, first, axes, dtype=dtype)
    expected = dot(rows.features.astype(dtype), kernel.astype(dtype))
    if bias is not None:
        expected = expected + bias.astype(dtype)[None]
    if rows.offset is not None:
        expected = expected + rows.offset
    if model.tap_mode == "training":
        found, _ = model.apply_train(placed, first.inputs, key)
    else:
        found = model.apply(placed, first.inputs)
    nothing = rows._replace(targets=jnp.zeros_like(expected))
    size = jnp.sqrt(_mean(*total_loss(None, nothing, expected)))
    rounding = _eps(tap.inputs.dtype, kernel.dtype, found.dtype) * _ROUNDING * size
    wanted = _mean(*total_loss(loss, rows, expected))
    found = found.reshape(expected.shape).astype(dtype)
    found = _mean(*total_loss(loss, rows, found))
    share = 2 * jnp.sqrt(jnp.abs(wanted)) if loss is None else 2.0
    allowed = _AGREEMENT * jnp.abs(wanted) + rounding * (share + rounding)
    return jnp.abs(found - wanted) <= allowed


def _mean(total, weight):
    return total / jnp.where(weight > 0, weight, 1)


def _eps(*dtypes: Any) -> float:
    """Of the coarsest numbers that a network multiplies."""
    eps = max(float(jnp.finfo(dtype).eps) for dtype in dtypes)
    # Unless asked for more, accelerators multiply in bfloat16 or TF32.
    return eps if jax.default_backend() == "cpu" else max(eps, 2.0**-8)
