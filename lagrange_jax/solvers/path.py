"""The cross-entropy head for many norms, in one call."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_count, require_real, require_shapes
from lagrange_jax.batches import as_batch, as_batches
from lagrange_jax.bounds import Relation, require_norm, require_relation
from lagrange_jax.solvers.classes import class_statistics
from lagrange_jax.solvers.cross_entropy import fit_head, require_search
from lagrange_jax.solvers.losses import make_log_loss, num_outputs_of
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.types import Batch

__all__ = ["NormPath", "cross_entropy_path", "mean_log_loss"]


class NormPath(NamedTuple):
    """Heads of several norms, in the order of the norms.

    Attributes:
      norm_sq: the wanted norms `[m]`.
      heads: a `HeadSolution` of all norms, stacked along a leading axis.
      loss: mean cross-entropy on the examples, `[m]`.
      accuracy: share of the examples classified rightly, `[m]`.
      validation_loss: the same on the validation examples; None without them.
      validation_accuracy: likewise.
    """

    norm_sq: Float[Array, " m"]
    heads: HeadSolution
    loss: Float[Array, " m"]
    accuracy: Float[Array, " m"]
    validation_loss: Float[Array, " m"] | None
    validation_accuracy: Float[Array, " m"] | None


def cross_entropy_path(
    examples: Any,
    norm_sq: Float[Array, " m"],
    *,
    validation: Any = None,
    num_outputs: int | None = None,
    relation: Relation = "equality",
    use_bias: bool = True,
    label_smoothing: Any = 0.0,
    tolerance: float | None = None,
    max_passes: int = 1000,
    batch_size: int = 4096,
) -> NormPath:
    """Solves for the heads of many norms in one call, each from the one before.

    Args:
      examples: arrays `(features, targets)` or `(features, targets, weights)`, as in
        `solve_cross_entropy`.
      norm_sq: norms of the whole kernel, best in ascending order.
      validation: arrays of the same kind, to be measured with every head.
      num_outputs: as in `solve_cross_entropy`, as are all further arguments.
      relation: see there.
      use_bias: see there.
      label_smoothing: see there; validation targets are not smoothed.
      tolerance: see there.
      max_passes: see there; for each norm.
      batch_size: see there.

    Returns:
      The `NormPath`.

    Raises:
      ValueError: if shapes do not agree or a norm is not positive.
    """
    require_relation(relation)
    require_search(label_smoothing, tolerance, max_passes)
    require_count("batch_size", batch_size)
    batch = as_batch(examples)
    k = num_outputs_of(batch, num_outputs)
    require_shapes({"norm_sq": "m"}, {"norm_sq": norm_sq})
    require_count("the number of norm_sq", len(norm_sq))
    norm_sq = require_norm(norm_sq, len(norm_sq))
    if validation is not None:
        validation = as_batch(validation)
        require_real("validation features", validation.inputs)
    return _path(
        batch,
        norm_sq,
        validation,
        k,
        batch_size,
        use_bias,
        label_smoothing,
        relation=relation,
        tolerance=tolerance,
        max_passes=max_passes,
    )


@partial(jax.jit, static_argnames=("num_outputs", "batch_size", "use_bias", "relation"))
def _path(
    batch,
    norm_sq,
    validation,
    num_outputs,
    batch_size,
    use_bias,
    label_smoothing,
    **options,
):
    batches = as_batches(batch, batch_size)
    statistics = class_statistics(batches, num_outputs, use_bias, label_smoothing)

    def step(start, norm):
        head = fit_head(
            batches,
            statistics,
            norm,
            use_bias=use_bias,
            label_smoothing=label_smoothing,
            start=start,
            **options,
        )
        train = mean_log_loss(batch, head, batch_size)
        if validation is None:
            return head.kernel, (head, *train, None, None)
        return head.kernel, (head, *train, *mean_log_loss(validation, head, batch_size))

    start = jnp.zeros_like(statistics.spectrum.cross)
    return NormPath(norm_sq, *lax.scan(step, start, norm_sq)[1])


def mean_log_loss(
    batch: Batch, head: HeadSolution, batch_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns mean loss and accuracy of a head; nan where nothing has weight."""
    d, k = head.kernel.shape
    count = len(batch.targets) if batch.weights is None else batch.weights.sum()
    loss = make_log_loss(
        as_batches(batch, batch_size),
        k,
        jnp.asarray(count, head.kernel.dtype),
        jnp.zeros(d, head.kernel.dtype),
    )(head.kernel, head.bias)
    return loss.loss, loss.accuracy
