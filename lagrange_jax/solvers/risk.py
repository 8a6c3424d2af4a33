r"""The mean loss of an affine head over batches: one pass for value and gradient.

Features are centred as they come. Those far from zero would else cost the logits their
digits; the bias is that at the centre.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lagrange_jax.losses.record import Loss, bend, losses_and_slopes, read_targets
from lagrange_jax.numerics.linalg import dot, dot_of_columns
from lagrange_jax.types import Batch, Batches

__all__ = [
    "Example",
    "Risk",
    "RiskFunctions",
    "make_risk",
    "of_outputs",
    "read_batch",
    "read_logits",
]

# A loss that bends downwards by this part of its mean curvature is not convex.
CONCAVE = 1e-3


class Example(NamedTuple):
    """A batch as a solver reads it; examples of no weight are zeros.

    Attributes:
      features: `[n, d]`.
      targets: as the loss reads them.
      weights: `[n]`, or None for all ones.
      offset: what is added to the logits `[n, k]`; None for nothing.
      is_valid: whether each example's targets are such as the loss is made for, and its
        weight not negative; those of no weight are.
    """

    features: Float[Array, "n d"]
    targets: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    offset: Float[Array, "n k"] | None
    is_valid: Array


class Risk(NamedTuple):
    """The loss of a head and its gradient, means over the weighted examples.

    Attributes:
      loss: mean loss.
      kernel: gradient in the kernel.
      bias: gradient in the bias.
      accuracy: share of the examples whose likeliest class is the true one; zero for a
        loss without classes.
    """

    loss: Float[Array, ""]
    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    accuracy: Float[Array, ""]


class RiskFunctions(NamedTuple):
    """The mean loss as functions of the head; each goes once over the batches.

    Attributes:
      evaluate: `evaluate(kernel, bias) -> Risk`.
      multiply: `multiply(head, direction) -> (kernel, bias)`, the Hessian at a head
        `(kernel, bias)` times a direction of the same shapes.
      is_concave: `is_concave(kernel, bias)`, whether the loss of an example bends
        downwards along a random direction of its logits.
    """

    evaluate: Callable[..., Risk]
    multiply: Callable[..., tuple[Array, Array]]
    is_concave: Callable[..., Bool[Array, ""]]


def read_batch(batch: Batch, loss: Loss, num_outputs: int, dtype: Any) -> Example:
    """Returns a batch as the loss reads it.

    Args:
      batch: inputs are features `[n, d]`, or `(features, offset)` with an offset of the
        logits, `[n, k]` or `[n]` for one output.
      loss: reads the targets.
      num_outputs: k.
      dtype: of all numbers.

    Returns:
      The `Example`.
    """
    features, offset = split_inputs(batch.inputs)
    features, targets, weights = features.astype(dtype), batch.targets, None
    if offset is not None:
        offset = offset.astype(dtype).reshape(len(features), num_outputs)
    if batch.weights is not None:
        weights = batch.weights.astype(dtype)
        zero = partial(_where_used, weights != 0)
        features, targets = zero(features), zero(targets)
        offset = None if offset is None else zero(offset)
    values, is_valid = read_targets(loss, targets, num_outputs, dtype)
    if weights is not None:
        is_valid = (is_valid & (weights >= 0)) | (weights == 0)
        values = _where_used(weights != 0, values)
    return Example(features, values, weights, offset, is_valid)


def split_inputs(inputs: Any) -> tuple[Array, Array | None]:
    """Returns features and offset of a batch's inputs."""
    return inputs if isinstance(inputs, tuple) else (inputs, None)


def of_outputs(rows: Float[Array, "n b"], num_outputs: int) -> Float[Array, "n k"]:
    """Returns derivatives in the head's outputs, from those in the logits.

    These are the same, unless the loss makes of one output several logits, each with a
    bias of its own.
    """
    if rows.shape[1] == num_outputs:
        return rows
    return rows.sum(1, keepdims=True)


def _where_used(used, array):
    used = used.reshape(-1, *[1] * (array.ndim - 1))
    return jnp.where(used, array, jnp.zeros((), array.dtype))


def read_logits(
    batch: Batch, head: tuple[Array, Array], mean_x: Float[Array, " d"], loss: Loss
) -> tuple[Float[Array, "n d"], Float[Array, "n b"], Example]:
    """Returns centred features, logits, and the batch as the loss reads it.

    Args:
      batch: as `read_batch` takes it.
      head: kernel, and bias at the centre.
      mean_x: the centre, taken from the features.
      loss: the loss.
    """
    kernel, bias = head
    example = read_batch(batch, loss, kernel.shape[1], mean_x.dtype)
    features = example.features - mean_x[None]
    logits = dot(features, kernel) + bias[None]
    if example.offset is not None:
        logits += example.offset
    return features, logits, example


def make_risk(
    batches: Batches, loss: Loss, count: Float[Array, ""], mean_x: Float[Array, " d"]
) -> RiskFunctions:
    """Returns the mean loss of a head as functions.

    Args:
      batches: as `read_batch` takes them.
      loss: the loss.
      count: total weight of the examples.
      mean_x: what is taken from the features.

    Returns:
      The `RiskFunctions`.
    """
    zero = jnp.zeros((), mean_x.dtype)
    mean = partial(jax.tree.map, lambda x: x / count)

    def evaluate(kernel, bias):
        zeros = Risk(zero, jnp.zeros_like(kernel), jnp.zeros_like(bias), zero)
        return mean(batches.fold(_add_risk, zeros, (kernel, bias), mean_x, loss))

    def multiply(head, direction):
        zeros = jax.tree.map(jnp.zeros_like, head)
        return mean(batches.fold(_add_product, zeros, head, direction, mean_x, loss))

    def is_concave(kernel, bias):
        found = batches.fold(_add_bends, (zero, zero), (kernel, bias), mean_x, loss)
        lowest, total = found
        return lowest < -CONCAVE * total / count

    return RiskFunctions(evaluate, multiply, is_concave)


def _add_risk(state, batch, head, mean_x, loss):
    features, logits, example = read_logits(batch, head, mean_x, loss)
    losses, slopes = losses_and_slopes(loss, logits, example.targets)
    hits = jnp.zeros_like(losses)
    if loss.kind.is_right is not None:
        hits = loss.kind.is_right(loss.parameters, logits, example.targets)
    both = jnp.stack([losses, hits.astype(losses.dtype)], 1)
    loss_sum, hit_sum = _weigh(example, both).sum(0)
    slopes = _weigh(example, slopes)
    pull = dot_of_columns(features, of_outputs(slopes, head[0].shape[1]))
    sums = Risk(loss_sum, pull, slopes.sum(0), hit_sum)
    return jax.tree.map(jnp.add, state, sums)


def _add_product(state, batch, head, direction, mean_x, loss):
    features, logits, example = read_logits(batch, head, mean_x, loss)
    change = dot(features, direction[0]) + direction[1][None]
    bent = _weigh(example, bend(loss, logits, example.targets, change))
    pull = dot_of_columns(features, of_outputs(bent, head[0].shape[1]))
    return jax.tree.map(jnp.add, state, (pull, bent.sum(0)))


def _add_bends(state, batch, head, mean_x, loss):
    """The lowest second derivative along a random direction, and the sum of sizes."""
    _, logits, example = read_logits(batch, head, mean_x, loss)
    signs = jax.random.rademacher(jax.random.key(1), logits.shape, logits.dtype)
    bent = jnp.sum(signs * bend(loss, logits, example.targets, signs), 1)
    if example.weights is not None:
        bent = jnp.where(example.weights > 0, bent, 0)
    lowest, total = state
    return jnp.minimum(lowest, bent.min()), total + jnp.abs(bent).sum()


def _weigh(example, rows):
    return rows if example.weights is None else example.weights[:, None] * rows
