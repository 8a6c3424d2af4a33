"""What two passes over the examples tell of a loss before any search."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lagrange_jax._checks import require_count, require_real
from lagrange_jax.losses.record import (
    Loss,
    Start,
    TargetMeans,
    bend,
    losses_and_slopes,
    start,
)
from lagrange_jax.solvers.risk import of_outputs, read_batch, split_inputs
from lagrange_jax.statistics.moments import init_moments, update_moments
from lagrange_jax.statistics.spectrum import Spectrum, decompose
from lagrange_jax.types import Batch, Batches

__all__ = ["ExampleStatistics", "example_statistics", "num_biases", "num_outputs_of"]

# An output whose loss bends less at the start than this part of the most bent is no
# measure of anything, and counts as that: a class without examples is one.
LEAST_BEND = 1e-6


class ExampleStatistics(NamedTuple):
    """Statistics of features and of the loss at the best constant prediction.

    Attributes:
      spectrum: spectrum of the features; its targets are the residuals at the start,
        minus the slopes of the loss, so that `cross` is minus the gradient at a zero
        kernel.
      start: the bias to start from, and where it may change.
      curvature: mean second derivative of the loss in each logit, positive; of the
        smoothest loss where one comes first.
      num_invalid: weighted examples whose targets the loss is not made for.
      smooth: parameters of the smoothest loss, see `Kind.smooth`; those of the loss
        where there is none.
    """

    spectrum: Spectrum
    start: Start
    curvature: Float[Array, " k"]
    num_invalid: Int[Array, ""]
    smooth: Any = ()


class _Sums(NamedTuple):
    """Sums of targets, and of what they are from one example and its squares."""

    total: Float[Array, " t"]
    differences: Float[Array, " t"]
    squares: Float[Array, " t"]
    count: Float[Array, ""]
    num_invalid: Int[Array, ""]


def example_statistics(
    batches: Batches, loss: Loss, num_outputs: int, use_bias: bool = True
) -> ExampleStatistics:
    """Returns the statistics of all batches, in two passes.

    Args:
      batches: as `read_batch` takes them.
      loss: the loss.
      num_outputs: k.
      use_bias: whether the head has a bias; without one moments are not centred.

    Returns:
      The `ExampleStatistics`.

    Raises:
      ValueError: if features or targets have the wrong shape.
    """
    features, _ = split_inputs(batches.first.inputs)
    require_real("features", features)
    if features.ndim != 2:
        raise ValueError(f"expected features [n, d]; got shape {features.shape}.")
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32
    means, num_invalid = _means(batches, loss, num_outputs, dtype)
    first = start(loss, means, num_outputs)
    if not use_bias:
        _require_no_thresholds(loss, first.bias, num_outputs)
        none = jnp.zeros_like(first.bias)
        first = Start(none, none > 0)
    shape, smooth = (features.shape[1], num_outputs), loss
    if loss.kind.smooth is not None:
        smooth = loss._replace(parameters=loss.kind.smooth(loss.parameters, means))
    moments, curvature = _at_start(batches, (loss, smooth), first.bias, shape, dtype)
    spectrum = decompose(moments, use_bias=use_bias)
    given = first, curvature, num_invalid, smooth.parameters
    return ExampleStatistics(spectrum, *given)


def _require_no_thresholds(loss, bias, num_outputs):
    if len(bias) != num_outputs:
        raise ValueError(
            f"{loss.kind.name} solves for {len(bias)} thresholds, which are the bias "
            "of the head: expected use_bias=True."
        )


def _means(batches, loss, num_outputs, dtype):
    """Means of the targets, and how many of them are none."""

    def step(state, batch, origin, loss):
        example = read_batch(batch, loss, num_outputs, dtype)
        targets, weights = example.targets, example.weights
        weights = jnp.ones(len(targets), dtype) if weights is None else weights
        differences = targets - origin[None]
        return _Sums(
            state.total + (weights[:, None] * targets).sum(0),
            state.differences + (weights[:, None] * differences).sum(0),
            state.squares + (weights[:, None] * differences**2).sum(0),
            state.count + weights.sum(),
            state.num_invalid + (~example.is_valid).sum(dtype=jnp.int32),
        )

    # Squares of targets far from zero would lose their digits.
    origin = read_batch(batches.first, loss, num_outputs, dtype).targets[0]
    origin = jnp.where(jnp.isfinite(origin), origin, 0)
    zeros, zero = jnp.zeros_like(origin), jnp.zeros((), dtype)
    state = _Sums(zeros, zeros, zeros, zero, jnp.zeros((), jnp.int32))
    sums = batches.fold(step, state, origin, loss)
    count = jnp.where(sums.count > 0, sums.count, 1)
    variance = sums.squares / count - (sums.differences / count) ** 2
    means = TargetMeans(sums.total / count, jnp.maximum(variance, 0), sums.count)
    return means, sums.num_invalid


def _at_start(batches, losses, bias, shape, dtype):
    """Moments of features and residuals, and the mean curvature, at a constant."""
    num_features, num_outputs = shape

    def step(state, batch, bias, loss, smooth):
        moments, bent = state
        example = read_batch(batch, loss, num_outputs, dtype)
        logits = jnp.broadcast_to(bias[None], (len(example.targets), len(bias)))
        if example.offset is not None:
            logits = logits + example.offset
        _, slopes = losses_and_slopes(loss, logits, example.targets)
        slopes = of_outputs(slopes, num_outputs)
        # Signs at random: what the outputs share cancels, the diagonal is left.
        signs = jax.random.rademacher(jax.random.key(0), slopes.shape, dtype)
        along = jnp.broadcast_to(signs, logits.shape)
        bend_row = bend(smooth, logits, example.targets, along)
        bend_row = signs * of_outputs(bend_row, num_outputs)
        if example.weights is not None:
            bend_row *= example.weights[:, None]
        moments = update_moments(moments, example.features, -slopes, example.weights)
        return moments, bent + bend_row.sum(0)

    state = (
        init_moments(num_features, num_outputs, dtype),
        jnp.zeros(num_outputs, dtype),
    )
    moments, bent = batches.fold(step, state, bias, *losses)
    curvature = bent / jnp.where(moments.count > 0, moments.count, 1)
    most = jnp.max(curvature)
    is_bent = jnp.isfinite(curvature) & (curvature > LEAST_BEND * most)
    return moments, jnp.where(is_bent, curvature, jnp.where(most > 0, most, 1))


def num_biases(batch: Batch, loss: Loss, num_outputs: int, dtype: Any) -> int:
    """Returns how many biases a loss solves for, from shapes alone."""

    def find(batch):
        targets = read_batch(batch, loss, num_outputs, dtype).targets[0]
        return start(loss, TargetMeans(targets, targets, targets[0]), num_outputs).bias

    return len(jax.eval_shape(find, batch))


def num_outputs_of(batch: Batch, loss: Loss, num_outputs: int | None) -> int:
    """Returns the number of outputs that the targets of a batch call for.

    Args:
      batch: the first batch.
      loss: reads the targets.
      num_outputs: k where targets do not tell it.

    Returns:
      k.

    Raises:
      ValueError: if nothing tells k, or labels that are known and have weight lie
        outside 0..k-1. Traced labels are judged by the status of the solution.
    """
    targets, weights = batch.targets, batch.weights
    is_label = not jnp.issubdtype(targets.dtype, jnp.floating) and targets.ndim == 1
    if num_outputs is None:
        num_outputs = loss.kind.num_outputs(targets)
    if num_outputs is None:
        raise ValueError(
            "labels do not tell how many classes there are; got "
            f"{targets.dtype}{list(targets.shape)}. Pass num_outputs=k, or "
            "num_outputs=1 for a binary head."
        )
    require_count("num_outputs", num_outputs)
    is_traced = isinstance(targets, Tracer) or isinstance(weights, Tracer)
    if is_traced or not (is_label and loss.kind.is_right):
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
