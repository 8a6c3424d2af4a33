r"""A bound about another centre or in another metric, as the ordinary one.

With $W = W_0 + D V$ a bound on $\|D^{-1} (W - W_0)\|$ is one on $\|V\|$: the features
are multiplied by D, and $W_0^T (\phi_n - \phi_0)$ is an offset of the logits. The point
$\phi_0$ near the features keeps the offset small; the bias is free and takes the rest.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax._checks import require_shapes
from lagrange_jax.bounds import Metric
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.solvers.examples import ExampleStatistics
from lagrange_jax.solvers.risk import split_inputs
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.statistics.changes import evening_scale, rescaled
from lagrange_jax.types import Batch, Batches

__all__ = [
    "Center",
    "changed",
    "evened",
    "make_center",
    "map_batches",
    "require_center",
    "restore",
    "scale_features",
    "shift_logits",
]


class Center(NamedTuple):
    r"""A kernel that a bound is centred at.

    Attributes:
      kernel: $W_0$.
      bias: $-W_0^T \phi_0$.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]


def require_center(center: Any, shape: tuple[int, ...]) -> None:
    """Refuses a centre of another shape than the kernel."""
    d, k = shape
    require_shapes({"center": "d k"}, {"center": center}, d=d, k=k)


def make_center(kernel: Any, first: Batch, num_outputs: int) -> Center | None:
    """Returns the centre with its bias, from a batch of the examples; None for None."""
    if kernel is None:
        return None
    features, _ = split_inputs(first.inputs)
    require_center(kernel, (features.shape[1], num_outputs))
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32
    kernel, features = jnp.asarray(kernel, dtype), features.astype(dtype)
    if first.weights is None:
        return Center(kernel, -dot(features.mean(0), kernel))
    weights = jnp.where(first.weights > 0, first.weights, 0).astype(dtype)
    features = jnp.where(weights[:, None] > 0, features, 0)
    total = weights.sum()
    mean = dot(weights, features) / jnp.where(total > 0, total, 1)
    return Center(kernel, -dot(mean, kernel))


def shift_logits(batch: Batch, center: Center) -> Batch:
    """Returns a batch of features with the centre's logits added to their offset."""
    features, offset = split_inputs(batch.inputs)
    dtype = center.kernel.dtype
    logits = dot(features.astype(dtype), center.kernel) + center.bias[None]
    if offset is not None:
        logits = logits + offset.astype(dtype).reshape(logits.shape)
    return batch._replace(inputs=(features, logits))


def scale_features(batch: Batch, scale: Float[Array, " d"]) -> Batch:
    """Returns a batch with every feature multiplied by its factor."""
    features, offset = split_inputs(batch.inputs)
    features = features.astype(scale.dtype) * scale[None]
    return batch._replace(inputs=features if offset is None else (features, offset))


def changed(
    examples: Batch | Batches, function: Callable[..., Batch], constant: Any
) -> Any:
    """Returns examples after `function(batch, constant)`; as they are for None.

    Arrays are changed at once, batches of a stream at every pass.
    """
    if constant is None:
        return examples
    if isinstance(examples, Batch):
        return function(examples, constant)
    return map_batches(examples, lambda _, *args: function(*args), constant)


def evened(
    statistics: ExampleStatistics, metric: Metric
) -> tuple[ExampleStatistics, Float[Array, " d"] | None]:
    """Returns statistics in which the metric is Euclidean, and factors of features."""
    if metric == "euclidean":
        return statistics, None
    scale = evening_scale(statistics.spectrum)
    spectrum = rescaled(statistics.spectrum, scale)
    return statistics._replace(spectrum=spectrum), scale


def restore(
    head: HeadSolution, center: Center | None, scale: Float[Array, " d"] | None
) -> HeadSolution:
    """Returns the head of the examples as they were; leading axes are a path."""
    kernel, bias = head.kernel, head.bias
    if scale is not None:
        kernel = kernel * jnp.expand_dims(scale, (*range(kernel.ndim - 2), -1))
    if center is not None:
        lead = tuple(range(kernel.ndim - 2))
        kernel = kernel + jnp.expand_dims(center.kernel, lead)
        bias = bias + jnp.expand_dims(center.bias, lead)
    return head._replace(kernel=kernel, bias=bias)


def map_batches(
    batches: Batches, function: Callable[..., Batch], *constants: Any
) -> Batches:
    """Returns the batches after a function, which is called at every pass.

    Args:
      batches: the batches.
      function: `function(index, batch, *constants) -> batch`.
      *constants: arrays that the function needs.
    """
    n = len(constants)

    @functools.cache  # one function a step, so that a stream compiles it once
    def mapped(step):
        def mapped_step(state, batch, *rest):
            state, index = state
            batch = function(index, batch, *rest[:n])
            return step(state, batch, *rest[n:]), index + 1

        return mapped_step

    def fold(step, state, *rest):
        return batches.fold(mapped(step), (state, jnp.int32(0)), *constants, *rest)[0]

    first = function(0, batches.first, *constants)
    return Batches(fold, first, batches.while_loop)
