"""From a batch of examples to the rows that a head is solved for."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lagrange_jax.losses.record import Loss, losses_and_slopes, read_targets
from lagrange_jax.types import Batch, Key, Model, Tap, Variables

__all__ = [
    "IGNORED",
    "Rows",
    "at_least_float32",
    "head_rows",
    "output_shape",
    "tap_head",
    "total_loss",
]

# The label by which text models mark a token that does not count.
IGNORED = -100


class Rows(NamedTuple):
    """What a head sees: one row an example, a token or a pixel.

    Attributes:
      features: `[n, d]`.
      targets: `[n, k]`, or labels `[n]`.
      weights: `[n]`, or None for all ones.
      offset: `[n, k]`, what the network adds to the head's output; None for nothing.
    """

    features: jax.Array
    targets: jax.Array
    weights: jax.Array | None
    offset: jax.Array | None


def at_least_float32(*arrays: Any) -> Any:
    """Returns float64 if an array is of that type, else float32."""
    is_double = any(x.dtype == jnp.float64 for x in arrays)
    return jnp.float64 if is_double else jnp.float32


def tap_head(model: Model, variables: Variables, inputs: Any, key: Key) -> Tap:
    """Returns the tap of the head, of any shape."""
    return model.taps(variables, inputs, key)[model.head]


def output_shape(
    model: Model, num_outputs: int, loss: Loss | None = None
) -> tuple[int, ...]:
    """Returns the trailing axes of the network's output that make up the head's k.

    Args:
      model: the network.
      num_outputs: k.
      loss: what the head is solved for; None for the squared error.

    Raises:
      ValueError: the network puts out log-probabilities, and that matters to the loss.
    """
    layout, is_blind = model.layout, loss is not None and loss.kind.is_shift_invariant
    if layout is not None and layout.is_shifted and not is_blind:
        name = "squared error" if loss is None else f"the loss {loss.kind.name!r}"
        raise ValueError(
            "the network puts out log-probabilities: the outputs of its head, less one "
            f"number a row. That leaves cross-entropy as it is, but not {name}; take "
            "loss='cross_entropy', or return the outputs of the head (logits)."
        )
    return (num_outputs,) if layout is None else layout.output_shape or (num_outputs,)


def head_rows(
    tap: Tap,
    batch: Batch,
    axes: tuple[int, ...],
    *,
    loss: Loss | None = None,
    ignore_index: int = IGNORED,
    dtype: Any = None,
) -> Rows:
    """Returns features, targets, weights and offset of a batch, row by row.

    Axes between examples and features (positions of a sequence, pixels) count as
    examples of their own, with weights of their own or those of their example.

    Args:
      tap: of the head.
      batch: where the targets and weights are.
      axes: the network's output axes that make up k.
      loss: what the targets are for; None for the squared error. If it takes labels,
        integers, booleans, and floating-point numbers where there are several outputs
        may be labels.
      ignore_index: the label that marks a row that does not count.
      dtype: of the arrays returned; None leaves them as they are.

    Raises:
      ValueError: if targets or weights do not fit the head.
    """
    lead, k = tap.outputs.shape[:-1], tap.outputs.shape[-1]
    targets, used = batch.targets, None
    takes_labels = loss is not None and loss.kind.takes_labels
    if takes_labels:
        targets, used = _as_labels(targets, lead, axes, ignore_index)
    elif loss is None:
        _require_floating(targets, k)
    width = k if loss is None else loss.kind.num_targets(k)
    rest = targets.shape[len(lead) :]
    width = math.prod(rest) if width is None else width
    if used is not None:  # labels, row by row
        pass
    elif targets.shape == (*lead, *rest) and width == math.prod(rest):
        targets = targets.reshape(-1, width)
    else:
        labels = f", or labels of shape {(*lead, *axes[:-1])}" if takes_labels else ""
        wanted = (*lead, *(axes if width == k else (width,)))
        raise ValueError(
            f"expected targets of shape {wanted}{labels}, as the head puts out; got "
            f"{batch.targets.shape}."
        )
    weights = _row_weights(batch.weights, lead)
    if used is not None:
        ones = jnp.ones(used.shape, jnp.float32) if weights is None else weights
        weights = jnp.where(used, ones, 0)
    features = tap.inputs.reshape(-1, tap.inputs.shape[-1])
    offset = None if tap.offset is None else tap.offset.reshape(-1, k)

    def cast(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return x if dtype is None or not is_float else x.astype(dtype)

    return jax.tree.map(cast, Rows(features, targets, weights, offset))


def total_loss(
    loss: Loss | None, rows: Rows, outputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the losses of the rows that count, and of their weights.

    Args:
      loss: the loss; None for the squared error.
      rows: from `head_rows`; offsets are a part of the outputs.
      outputs: `[n, k]`.
    """
    if loss is None:
        values = jnp.sum((outputs - rows.targets) ** 2, axis=1)
    else:
        targets = read_targets(loss, rows.targets, outputs.shape[1], outputs.dtype)
        values = losses_and_slopes(loss, outputs, targets.values)[0]
    if rows.weights is None:
        return values.sum(), jnp.asarray(len(values), values.dtype)
    weights = rows.weights.astype(values.dtype)
    # A row of weight zero must not matter even where its loss is not finite.
    return jnp.where(weights > 0, weights * values, 0).sum(), weights.sum()


def _require_floating(targets, num_outputs):
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(
            f"expected floating-point targets for squared error; got {targets.dtype}. "
            "Class labels need lagrange(loss='cross_entropy'), or "
            f"jax.nn.one_hot(labels, {num_outputs}); counts need "
            "targets.astype(jnp.float32)."
        )


def _as_labels(targets, lead, axes, ignore_index):
    """Returns labels as int32 or probabilities, and which rows count if labels.

    Labels are integers, booleans, or numbers like 2.0; other numbers in the place of a
    label are none, which the status tells. A last axis of one is dropped. With several
    output axes a row has several labels, and counts unless all of them are ignored.
    """
    is_label = not jnp.issubdtype(targets.dtype, jnp.floating)
    shape, num_classes = (*lead, *axes[:-1]), axes[-1]
    if targets.shape == (*shape, 1) and (is_label or num_classes > 1):
        targets = targets.reshape(shape)
    if targets.shape != shape:
        return (targets.astype(jnp.float32) if is_label else targets), None
    if not is_label and num_classes == 1:
        return targets, None  # the probability of the one class
    if not is_label:
        whole = targets == jnp.round(targets)
        targets = jnp.where(whole, targets, -1)
    targets = targets.astype(jnp.int32).reshape(-1, math.prod(axes[:-1]))
    used = (targets != ignore_index).any(1)
    # Of a row of several labels all count: an ignored one among them is invalid.
    targets = jnp.where(used[:, None], targets, 0)
    targets = jnp.where(targets == ignore_index, -1, targets)
    return (targets[:, 0] if len(axes) == 1 else targets), used


def _row_weights(weights, lead):
    if weights is None:
        return None
    if weights.shape != lead[: weights.ndim]:
        raise ValueError(
            f"expected weights of shape {lead[:1]}, or {lead} for one a row of the "
            f"head; got {weights.shape}."
        )
    rest = (1,) * (len(lead) - weights.ndim)
    return jnp.broadcast_to(weights.reshape(weights.shape + rest), lead).reshape(-1)
