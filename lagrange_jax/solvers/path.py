"""The head of a convex loss for many norms, in one call."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import (
    require_count,
    require_kind,
    require_real,
    require_shapes,
)
from lagrange_jax._compile import jit_once
from lagrange_jax.batches import as_batch
from lagrange_jax.bounds import Metric, Relation, require_norm, require_relation
from lagrange_jax.losses.classes import without_smoothing
from lagrange_jax.losses.record import Loss
from lagrange_jax.solvers.blocks import in_blocks
from lagrange_jax.solvers.convex import (
    DEFAULT_SEARCH,
    SearchOptions,
    read_loss,
    require_metric,
)
from lagrange_jax.solvers.examples import example_statistics
from lagrange_jax.solvers.fit import fit_head
from lagrange_jax.solvers.risk import make_risk, split_inputs
from lagrange_jax.solvers.solution import HeadSolution
from lagrange_jax.solvers.substitution import (
    changed,
    evened,
    make_center,
    restore,
    scale_features,
    shift_logits,
)
from lagrange_jax.types import Batch

__all__ = ["NormPath", "convex_path", "mean_loss"]


class NormPath(NamedTuple):
    """Heads of several norms, in the order of the norms.

    Attributes:
      norm_sq: the wanted norms `[m]`.
      heads: a `HeadSolution` of all norms, stacked along a leading axis.
      loss: mean loss on the examples, `[m]`.
      accuracy: share of the examples classified rightly, `[m]`; zero for a loss without
        classes.
      validation_loss: the same on the validation examples; None without them.
      validation_accuracy: likewise.
    """

    norm_sq: Float[Array, " m"]
    heads: HeadSolution
    loss: Float[Array, " m"]
    accuracy: Float[Array, " m"]
    validation_loss: Float[Array, " m"] | None
    validation_accuracy: Float[Array, " m"] | None


def convex_path(
    examples: Any,
    norm_sq: Float[Array, " m"],
    *,
    loss: Loss | str = "cross_entropy",
    validation: Any = None,
    num_outputs: int | None = None,
    relation: Relation = "equality",
    use_bias: bool = True,
    center: Float[Array, "d k"] | None = None,
    metric: Metric = "euclidean",
    search: SearchOptions = DEFAULT_SEARCH,
) -> NormPath:
    """Solves for the heads of many norms in one call, each from the one before.

    Args:
      examples: arrays `(features, targets)` or `(features, targets, weights)`, as in
        `solve_convex`.
      norm_sq: norms of the whole kernel, best in ascending order.
      loss: as in `solve_convex`.
      validation: arrays of the same kind, to be measured with every head; targets are
        not smoothed.
      num_outputs: as in `solve_convex`.
      relation: on the sphere (`"equality"`) or inside it (`"at_most"`).
      use_bias: as in `solve_convex`.
      center: as in `solve_convex`; norms are those of the change.
      metric: what norms are measured by, `"euclidean"` or `"feature_variance"`.
      search: as in `solve_convex`; steps for each norm.

    Returns:
      The `NormPath`.

    Raises:
      ValueError: if shapes do not agree or a norm is not positive.
    """
    require_relation(relation)
    require_metric(metric)
    require_kind("search", search, SearchOptions)
    search.require()
    batch = as_batch(examples)
    loss, k = read_loss(batch, loss, num_outputs)
    require_shapes({"norm_sq": "m"}, {"norm_sq": norm_sq})
    require_count("the number of norm_sq", len(norm_sq))
    norm_sq = require_norm(norm_sq, len(norm_sq))
    if validation is not None:
        validation = as_batch(validation)
        require_real("validation features", split_inputs(validation.inputs)[0])
    return _path(
        batch,
        norm_sq,
        validation,
        loss,
        k,
        search.batch_size,
        use_bias,
        make_center(center, batch, k),
        metric,
        relation=relation,
        tolerance=search.tolerance,
        max_steps=search.max_steps,
    )


_STATIC = "num_outputs", "batch_size", "use_bias", "metric", "relation"


@partial(jit_once, static_argnames=_STATIC)
def _path(
    batch,
    norm_sq,
    validation,
    loss,
    num_outputs,
    batch_size,
    use_bias,
    center,
    metric,
    **options,
):
    batch = changed(batch, shift_logits, center)
    batches = in_blocks(batch, batch_size)
    statistics = example_statistics(batches, loss, num_outputs, use_bias)
    statistics, scale = evened(statistics, metric)
    batch = changed(batch, scale_features, scale)
    batches = in_blocks(batch, batch_size)
    if validation is not None:
        validation = changed(validation, shift_logits, center)
        validation = changed(validation, scale_features, scale)
    plain = without_smoothing(loss)

    def step(start, norm):
        head = fit_head(
            batches,
            statistics,
            loss,
            norm,
            start=start,
            **options,
        )
        train = mean_loss(batch, loss, head, batch_size)
        if validation is None:
            return head.kernel, (head, *train, None, None)
        return head.kernel, (
            head,
            *train,
            *mean_loss(validation, plain, head, batch_size),
        )

    start = jnp.zeros_like(statistics.spectrum.cross)
    path = NormPath(norm_sq, *lax.scan(step, start, norm_sq)[1])
    return path._replace(heads=restore(path.heads, center, scale))


def mean_loss(
    batch: Batch, loss: Loss, head: HeadSolution, batch_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns mean loss and accuracy of a head; nan where nothing has weight."""
    count = len(batch.targets) if batch.weights is None else batch.weights.sum()
    risk = make_risk(
        in_blocks(batch, batch_size),
        loss,
        jnp.asarray(count, head.kernel.dtype),
        jnp.zeros(len(head.kernel), head.kernel.dtype),
    ).evaluate(head.kernel, head.bias)
    return risk.loss, risk.accuracy
