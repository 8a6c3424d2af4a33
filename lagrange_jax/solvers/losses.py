r"""Cross-entropy of an affine head over batches: one pass for loss and gradient.

With k > 1 outputs the loss is $-\sum_j t_j \log p_j$ for $p = \mathrm{softmax}(z)$;
with one output it is the binary $-t \log p - (1 - t) \log(1 - p)$ for
$p = \mathrm{sigmoid}(z)$. In both the derivative in the logits $z$ is $p - t$.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from lagrange_jax._checks import require_count
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.types import Batch, Batches

__all__ = [
    "LogLoss",
    "as_probabilities",
    "clean",
    "is_distribution",
    "make_log_loss",
    "num_outputs_of",
]

# How far probabilities may be from one in sum: those of a model in half precision.
SUM_TOLERANCE = 1e-2


class LogLoss(NamedTuple):
    """The loss of a head and its gradient, means over the weighted examples.

    Attributes:
      loss: mean loss.
      kernel: gradient in the kernel.
      bias: gradient in the bias.
      accuracy: share of the examples whose likeliest class is the predicted one.
    """

    loss: Float[Array, ""]
    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    accuracy: Float[Array, ""]


def as_probabilities(
    targets: Array, num_outputs: int, label_smoothing: Any, dtype: Any
) -> Float[Array, "n k"]:
    """Returns targets as probabilities of the outputs.

    Args:
      targets: integer labels `[n]`, or probabilities `[n, k]` (or `[n]` for k = 1).
      num_outputs: k.
      label_smoothing: share of each target that is spread evenly over the classes.
      dtype: of the result.

    Returns:
      The probabilities. An integer outside 0..k-1 becomes a row of zeros (of itself,
      for k = 1), which `is_distribution` finds.

    Raises:
      ValueError: if the shape of the targets does not fit the head.
    """
    is_label = jnp.issubdtype(targets.dtype, jnp.integer)
    if num_outputs == 1 and targets.ndim == 1:
        targets = targets[:, None].astype(dtype)
    elif is_label and targets.ndim == 1:
        targets = jax.nn.one_hot(targets, num_outputs, dtype=dtype)
    if targets.shape[1:] != (num_outputs,):
        raise ValueError(
            f"expected integer labels [n] or probabilities [n, {num_outputs}], as the "
            f"head has {num_outputs} outputs; got {targets.dtype}{list(targets.shape)}."
        )
    even = 0.5 if num_outputs == 1 else 1 / num_outputs
    smoothing = jnp.asarray(label_smoothing, dtype)
    return (1 - smoothing) * targets.astype(dtype) + smoothing * even


def is_distribution(probabilities: Float[Array, "n k"]) -> Bool[Array, " n"]:
    """Whether each row is one: no entry below zero and all together one."""
    if probabilities.shape[1] == 1:
        return ((probabilities >= 0) & (probabilities <= 1))[:, 0]
    total = probabilities.sum(1)
    return (probabilities >= 0).all(1) & (jnp.abs(total - 1) <= SUM_TOLERANCE)


def make_log_loss(
    batches: Batches,
    num_outputs: int,
    count: Float[Array, ""],
    mean_x: Float[Array, " d"],
    label_smoothing: Any = 0.0,
) -> Callable[[Float[Array, "d k"], Float[Array, " k"]], LogLoss]:
    """Returns `evaluate(kernel, bias)` of features that are centred as they come.

    Args:
      batches: features `[n, d]`, targets as in `as_probabilities`, example weights.
      num_outputs: k.
      count: total weight of the examples.
      mean_x: what is taken from the features. Features far from zero would else
        cost the logits their digits; the bias is that at this point.
      label_smoothing: see `as_probabilities`.

    Returns:
      A function that goes once over the batches.
    """
    dtype = mean_x.dtype

    def step(state, batch, kernel, bias, mean_x, label_smoothing):
        features, targets, weights = clean(batch, dtype)
        targets = as_probabilities(targets, num_outputs, label_smoothing, dtype)
        features = features - mean_x[None]
        logits = dot(features, kernel) + bias[None]
        losses, errors, hits = _by_logits(logits, targets)
        if weights is not None:
            losses, hits = weights * losses, weights * hits
            errors = weights[:, None] * errors
        sums = LogLoss(losses.sum(), dot(features.T, errors), errors.sum(0), hits.sum())
        return jax.tree.map(jnp.add, state, sums)

    def evaluate(kernel, bias):
        zero = jnp.zeros((), dtype)
        state = LogLoss(zero, jnp.zeros_like(kernel), jnp.zeros_like(bias), zero)
        sums = batches.fold(step, state, kernel, bias, mean_x, label_smoothing)
        return jax.tree.map(lambda x: x / count, sums)

    return evaluate


def clean(batch: Batch, dtype: Any) -> tuple[Array, Array, Array | None]:
    """Returns features, targets and weights; examples of no weight become zeros."""
    features, targets, weights = batch.inputs.astype(dtype), batch.targets, None
    if batch.weights is not None:
        weights = batch.weights.astype(dtype)
        zero = partial(_where_used, weights != 0)
        features, targets = zero(features), zero(targets)
    return features, targets, weights


def _where_used(used, array):
    used = used.reshape(-1, *[1] * (array.ndim - 1))
    return jnp.where(used, array, jnp.zeros((), array.dtype))


def _by_logits(logits, targets):
    """Loss, derivative in the logits, and whether the guess is right, by example."""
    if logits.shape[1] == 1:
        losses = (jax.nn.softplus(logits) - targets * logits)[:, 0]
        hits = ((logits > 0) == (targets > 0.5))[:, 0]
        return losses, jax.nn.sigmoid(logits) - targets, hits.astype(losses.dtype)
    top = logits.max(1, keepdims=True)
    powers = jnp.exp(logits - top)
    total = powers.sum(1, keepdims=True)
    losses = (jnp.log(total) + top)[:, 0] - (targets * logits).sum(1)
    hits = logits.argmax(1) == targets.argmax(1)
    return losses, powers / total - targets, hits.astype(losses.dtype)


def num_outputs_of(batch: Batch, num_outputs: int | None) -> int:
    """Returns the number of outputs that the targets of a batch call for.

    Args:
      batch: targets are labels `[n]` or probabilities `[n, k]`.
      num_outputs: k where labels do not tell it.

    Returns:
      k.

    Raises:
      ValueError: if nothing tells k, or labels that are known and have weight lie
        outside 0..k-1. Traced labels are judged by the status of the solution.
    """
    targets, weights = batch.targets, batch.weights
    is_label = jnp.issubdtype(targets.dtype, jnp.integer)
    if num_outputs is None:
        if is_label or targets.ndim != 2:
            raise ValueError(
                "labels do not tell how many classes there are; got "
                f"{targets.dtype}{list(targets.shape)}. Pass num_outputs=k, or "
                "num_outputs=1 for a binary head."
            )
        return targets.shape[1]
    require_count("num_outputs", num_outputs)
    if not is_label or isinstance(targets, Tracer) or isinstance(weights, Tracer):
        return num_outputs
    used = np.asarray(targets) if weights is None else targets[np.asarray(weights) > 0]
    top = max(num_outputs - 1, 1)
    low, high = np.min(used, initial=0), np.max(used, initial=0)
    if low < 0 or high > top:
        raise ValueError(
            f"expected labels in 0..{top} for num_outputs={num_outputs}; got "
            f"{low}..{high}."
        )
    return num_outputs
