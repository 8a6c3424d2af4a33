"""The Lagrangian head as an init transform, for squared error and other losses."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from lagrange_jax._checks import require_count, require_shapes
from lagrange_jax._compile import jit_once
from lagrange_jax.bounds import Constraint, Problem, hashable
from lagrange_jax.constraints.cross_validation import cross_validated_norm
from lagrange_jax.constraints.from_data import loss_within
from lagrange_jax.initializers.plan import (
    Plan,
    has_few_rows,
    moment_dtype,
    run_plan,
)
from lagrange_jax.initializers.rows import (
    IGNORED,
    head_rows,
    output_shape,
    tap_head,
)
from lagrange_jax.initializers.static import as_static
from lagrange_jax.initializers.transforms import require_batches
from lagrange_jax.initializers.verify import place_head
from lagrange_jax.losses.grouped import along_last_axis
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss
from lagrange_jax.models.params import get_head
from lagrange_jax.solvers.convex import (
    DEFAULT_SEARCH,
    SearchOptions,
    require_metric,
    solve_examples,
)
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.substitution import map_batches, require_center
from lagrange_jax.statistics.gram import decompose_gram
from lagrange_jax.statistics.moments import (
    compute_moments,
    init_moments,
    update_moments,
)
from lagrange_jax.statistics.spectrum import decompose
from lagrange_jax.types import Batch, InitTransform

__all__ = ["lagrange"]


def lagrange(
    constraint: Constraint | None = None,
    *,
    loss: Literal["squared_error", "cross_entropy"] | Loss = "squared_error",
    center: Literal["current"] | Float[ArrayLike, "d k"] | None = None,
    search: SearchOptions = DEFAULT_SEARCH,
    keep_features: bool = True,
    ignore_index: int = IGNORED,
) -> InitTransform:
    r"""Solves for the head: the least initial loss that the norm allows.

    All layers below keep their values. Where the solve fails (non-finite features,
    say) the head keeps its values too, and `info.status` tells why; `check(info)`
    raises.

    *Squared error.* One pass over the batches collects the moments of the head's
    inputs; one eigendecomposition and a secular equation give the globally optimal
    kernel and bias, see `solve_least_squares`. Of arrays with at most half as many
    rows as the head has features, the features are kept and their Gram matrix is
    decomposed, which has no derivative.

    *Another convex loss*, cross-entropy say. A search among the kernels of the norm,
    see `solve_convex`. For cross-entropy targets are labels or probabilities; a head
    with one output is a binary one. Of a loss that is not convex (`losses.gaussian()`,
    means and log-variances) a stationary point, which the status tells.

    *A bound about a given head* (`center`). The norm is that of the change: the least
    loss within a distance of a pretrained head, of zero-shot prototypes, of
    yesterday's task. The bias is free.

    Args:
      constraint: the norm constraint. None takes for squared error `loss_within()`,
        which measured best in the study `rul` whatever the scale of the
        targets, and for other losses `cross_validated_norm()`.
      loss: `"squared_error"`, `"cross_entropy"`, or a `Loss` such as
        `losses.softmax(label_smoothing=0.1)`. Of a head with several output axes it
        sees the last one, and is summed over the others.
      center: `"current"` for the kernel that the head has, or a kernel `[d, k]`; None
        for zero.
      search: options of the search; squared error needs none.
      keep_features: whether the features of all examples are computed once and kept
        for the search, N x d numbers; else every evaluation takes all examples through
        the network, and memory is that of a batch.
      ignore_index: the label of rows that do not count, in losses of classes.

    Returns:
      An init transform; its info is the `HeadSolution`.

    Raises:
      ValueError: if the loss is unknown, or the constraint is none or not for it.
    """
    if not isinstance(constraint, Constraint | None):
        raise ValueError(
            "expected a constraint, such as constraints.variance_scaling() or "
            f"constraints.fixed_norm(1.0); got {constraint!r}."
        )
    require_count("ignore_index", ignore_index, least=-(2**31))
    center = _read_center(center)
    if isinstance(loss, str) and loss == "squared_error":
        constraint = loss_within() if constraint is None else constraint
        return _Lagrange(_squared_error, _Options(constraint, center))
    if isinstance(loss, str) and loss != "cross_entropy":
        raise ValueError(
            "expected loss to be 'squared_error', 'cross_entropy' or a Loss, such as "
            f"losses.softmax(label_smoothing=0.1); got {loss!r}."
        )
    search.require()
    constraint = cross_validated_norm() if constraint is None else constraint
    require_metric(constraint.metric)
    if constraint.needs_examples and not keep_features:
        raise ValueError(
            "this constraint goes over the features too often to compute them anew: "
            "name a norm, constraints.fixed_norm(c, per_output=False) say, or keep the "
            "features."
        )
    options = constraint, center, as_loss(loss), search, keep_features, ignore_index
    return _Lagrange(_convex, _Options(*options))


def _read_center(center):
    """The centre as something that is hashed; raises where it is none."""
    if center is None or (isinstance(center, str) and center == "current"):
        return center
    if isinstance(center, str):
        raise ValueError(
            f"expected center 'current' or a kernel [d, k]; got {center!r}."
        )
    require_shapes({"center": "d k"}, {"center": center})
    return hashable(center)


@dataclasses.dataclass(frozen=True)
class _Lagrange:
    """An init transform that equals another one of the same options."""

    make: Callable[..., Plan]
    options: Any

    def plan(self, key, model, variables, first) -> Plan:
        """What the transform wants of one pass over the examples."""
        return self.make(self.options, key, model, variables, first)

    def __call__(self, key, model, variables, batches):
        batches, options = require_batches(batches, "lagrange"), self.options
        if has_few_rows(model, variables, batches):
            options = options._replace(by_gram=True)
        plan = self.make(options, key, model, variables, batches.first)
        return run_plan(plan, variables, batches)


class _Options(NamedTuple):
    constraint: Constraint
    center: Any
    loss: Any = None
    search: SearchOptions = DEFAULT_SEARCH
    keep_features: bool = True
    ignore_index: int = IGNORED
    by_gram: bool = False


def _squared_error(options: _Options, key, model, variables, first) -> Plan:
    kernel, bias = get_head(model, variables)
    (d, k), axes = kernel.shape, output_shape(model, kernel.shape[1])
    dtype, constraint = moment_dtype(model, variables, first), options.constraint
    keeps_rows = constraint.needs_examples or options.by_gram

    def tap(batch, variables, key):
        tap = tap_head(model, variables, batch.inputs, key)
        rows = head_rows(tap, batch, axes, dtype=dtype)
        targets = rows.targets
        if rows.offset is not None:
            targets = targets - rows.offset
        return Batch(rows.features, targets, rows.weights)

    def collect(index, batch, variables):
        return tap(batch, variables, jax.random.fold_in(key, index))

    def step(state, batch, variables):
        moments, key = state
        key, tap_key = jax.random.split(key)
        return update_moments(moments, *tap(batch, variables, tap_key)), key

    def finish(found, variables, batches):
        data, last = (found, key) if keeps_rows else found
        kept = data if constraint.needs_examples else None
        if keeps_rows and not options.by_gram:
            data = compute_moments(*data)
        center = _center(options.center, kernel, dtype)
        static = as_static(constraint), bias is not None
        solution = _solve(data, last, kernel, center, kept, *static)
        return place_head(model, variables, solution, first=batches.first, key=last)

    if keeps_rows:
        return Plan(finish, collect=collect)
    return Plan(finish, fold=((init_moments(d, k, dtype), key), step))


@functools.partial(jit_once, static_argnames=("constraint", "use_bias"))
def _solve(data, key, kernel, center, examples, constraint, use_bias):
    # One program for arrays and streams: what fails ends in a status in both.
    constraint = getattr(constraint, "held", constraint)
    if isinstance(data, Batch):
        spectrum = decompose_gram(*data, use_bias=use_bias)
    else:
        spectrum = decompose(data, use_bias=use_bias)
    problem = Problem(spectrum, key, examples)
    return solve_least_squares(problem, constraint, tie_break=kernel, center=center)


def _center(center, kernel, dtype):
    """The kernel that the bound is about; None for zero."""
    if center is None:
        return None
    center = kernel if isinstance(center, str) else jnp.asarray(center, dtype)
    require_center(center, kernel.shape)
    return center.astype(dtype)


def _convex(options: _Options, key, model, variables, first) -> Plan:
    kernel, bias = get_head(model, variables)
    k = kernel.shape[1]
    axes = output_shape(model, k, options.loss)
    tap_key, fold_key = jax.random.split(key)
    loss = along_last_axis(options.loss, axes)
    dtype = moment_dtype(model, variables, first)
    read: Any = dict(loss=loss, ignore_index=options.ignore_index)

    def tap(index, batch, variables):
        key = jax.random.fold_in(tap_key, index)
        found = tap_head(model, variables, batch.inputs, key)
        rows = head_rows(found, batch, axes, dtype=dtype, **read)
        inputs = rows.features
        if rows.offset is not None:
            inputs = rows.features, rows.offset
        return Batch(inputs, rows.targets, rows.weights)

    def finish(kept, variables, batches):
        solution = solve_examples(
            map_batches(batches, tap, variables) if kept is None else kept,
            options.constraint,
            loss,
            k,
            use_bias=bias is not None,
            tie_break=kernel.astype(dtype),
            center=_center(options.center, kernel, dtype),
            search=options.search,
            key=fold_key,
        )
        _require_one_bias(solution.bias, k)
        return place_head(
            model,
            variables,
            solution,
            first=batches.first,
            key=jax.random.fold_in(tap_key, 0),
            **read,
        )

    return Plan(finish, collect=tap if options.keep_features else None)


def _require_one_bias(bias, num_outputs):
    if len(bias) != num_outputs:
        raise ValueError(
            f"this loss solves for {len(bias)} thresholds, and the head has no place "
            "for them. Solve for them with solve_convex on the features, or take "
            "losses.ordinal_thresholds(shares); then lagrange(loss=losses.ordinal("
            "thresholds)), and the same thresholds in the model."
        )
