"""The Lagrangian head as an init transform, for squared error and other losses."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lagrange_jax.batches import as_batches
from lagrange_jax.bounds import Constraint, Problem
from lagrange_jax.constraints.cross_validation import cross_validated_norm
from lagrange_jax.constraints.from_data import loss_within
from lagrange_jax.initializers.rows import at_least_float32, head_rows, tap_head
from lagrange_jax.initializers.static import as_static
from lagrange_jax.initializers.transforms import require_batches
from lagrange_jax.initializers.verify import place_head
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss
from lagrange_jax.models.params import get_head
from lagrange_jax.solvers.convex import (
    DEFAULT_SEARCH,
    SearchOptions,
    require_euclidean,
)
from lagrange_jax.solvers.examples import example_statistics
from lagrange_jax.solvers.fit import fit_head
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.statistics.moments import init_moments, update_moments
from lagrange_jax.statistics.spectrum import decompose
from lagrange_jax.types import Batch, Batches, InitTransform

__all__ = ["lagrange"]


def lagrange(
    constraint: Constraint | None = None,
    *,
    loss: Literal["squared_error", "cross_entropy"] | Loss = "squared_error",
    search: SearchOptions = DEFAULT_SEARCH,
    keep_features: bool = True,
) -> InitTransform:
    r"""Solves for the head: the least initial loss that the norm allows.

    All layers below keep their values. Where the solve fails (non-finite features,
    say) the head keeps its values too, and `info.status` tells why; `check(info)`
    raises.

    *Squared error.* One pass over the batches collects the moments of the head's
    inputs; one eigendecomposition and a secular equation give the globally optimal
    kernel and bias, see `solve_least_squares`.

    *Another convex loss*, cross-entropy say. A search among the kernels of the norm,
    see `solve_convex`. For cross-entropy targets are labels or probabilities; a head
    with one output is a binary one. Of a loss that is not convex (`losses.gaussian()`,
    means and log-variances) a stationary point, which the status tells.

    Args:
      constraint: the norm constraint. None takes for squared error `loss_within()`,
        which measured best in the study `rul` whatever the scale of the
        targets, and for other losses `cross_validated_norm()`.
      loss: `"squared_error"`, `"cross_entropy"`, or a `Loss` such as
        `losses.softmax(label_smoothing=0.1)`.
      search: options of the search; squared error needs none.
      keep_features: whether the features of all examples are computed once and kept
        for the search, N x d numbers; else every evaluation takes all examples through
        the network, and memory is that of a batch.

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
    if isinstance(loss, str) and loss == "squared_error":
        constraint = loss_within() if constraint is None else constraint
        return _Lagrange(_squared_error, (constraint,))
    if isinstance(loss, str) and loss != "cross_entropy":
        raise ValueError(
            "expected loss to be 'squared_error', 'cross_entropy' or a Loss, such as "
            f"losses.softmax(label_smoothing=0.1); got {loss!r}."
        )
    search.require()
    constraint = cross_validated_norm() if constraint is None else constraint
    require_euclidean(constraint)
    if constraint.needs_examples and not keep_features:
        raise ValueError(
            "this constraint goes over the features too often to compute them anew: "
            "name a norm, constraints.fixed_norm(c, per_output=False) say, or keep the "
            "features."
        )
    return _Lagrange(_convex, (constraint, as_loss(loss), search, keep_features))


@dataclasses.dataclass(frozen=True)
class _Lagrange:
    """An init transform that equals another one of the same options."""

    make: Callable[..., InitTransform]
    options: tuple[Any, ...]

    def __call__(self, key, model, variables, batches):
        return self.make(*self.options)(key, model, variables, batches)


def _squared_error(constraint: Constraint) -> InitTransform:
    def init(key, model, variables, batches):
        kernel, bias = get_head(model, variables)
        dtype = _moment_dtype(model, variables, require_batches(batches, "lagrange"))

        def step(state, batch, variables):
            moments, key = state
            key, tap_key = jax.random.split(key)
            tap = tap_head(model, variables, batch.inputs, tap_key)
            rows = head_rows(tap, batch, dtype=dtype)
            targets = rows.targets
            if rows.offset is not None:
                targets = targets - rows.offset
            return update_moments(moments, rows.features, targets, rows.weights), key

        num_features, num_outputs = kernel.shape
        moments = init_moments(num_features, num_outputs, dtype)
        fold = require_batches(batches, "lagrange").fold
        moments, _ = fold(step, (moments, key), variables)
        options = as_static(constraint), bias is not None
        solution = _solve_moments(moments, key, kernel, *options)
        return place_head(model, variables, solution, first=batches.first, key=key)

    return init


@functools.partial(jax.jit, static_argnames=("constraint", "use_bias"))
def _solve_moments(moments, key, kernel, constraint, use_bias):
    # One program for arrays and streams: what fails ends in a status in both.
    constraint = getattr(constraint, "held", constraint)
    problem = Problem(decompose(moments, use_bias=use_bias), key)
    return solve_least_squares(problem, constraint, tie_break=kernel)


def _convex(
    constraint: Constraint, loss: Loss, search: SearchOptions, keep_features: bool
) -> InitTransform:
    def init(key, model, variables, batches):
        kernel, bias = get_head(model, variables)
        num_outputs = kernel.shape[1]
        tap_key, fold_key = jax.random.split(key)
        batches, kept = require_batches(batches, "lagrange"), None
        first, counted = batches.first, as_loss(loss, num_outputs)
        tap = _tap(model, variables, batches, counted)
        if keep_features:
            kept = _collect(batches, tap, variables, tap_key)
            batches = as_batches(kept, search.batch_size)
        else:
            batches = _tap_anew(batches, tap, variables, tap_key)
        statistics = example_statistics(
            batches, counted, num_outputs, use_bias=bias is not None
        )
        _require_one_bias(statistics.start.bias, num_outputs)
        problem = Problem(statistics.spectrum, fold_key, kept, counted)
        solution = fit_head(
            batches,
            statistics,
            counted,
            constraint.radius_sq(problem),
            relation=constraint.relation,
            tie_break=kernel.astype(statistics.curvature.dtype),
            tolerance=search.tolerance,
            max_steps=search.max_steps,
        )
        return place_head(
            model,
            variables,
            solution,
            first=first,
            key=jax.random.fold_in(tap_key, 0),
            loss=counted,
        )

    return init


def _require_one_bias(bias, num_outputs):
    if len(bias) != num_outputs:
        raise ValueError(
            f"this loss solves for {len(bias)} thresholds, and the head has no place "
            "for them. Solve for them with solve_convex on the features, or take "
            "losses.ordinal_thresholds(shares); then lagrange(loss=losses.ordinal("
            "thresholds)), and the same thresholds in the model."
        )


def _tap(model, variables, batches, loss):
    """Returns the function that makes of a batch of inputs one of features."""
    dtype = _moment_dtype(model, variables, batches)

    def tap(index, batch, variables, key):
        key = jax.random.fold_in(key, index)
        found = tap_head(model, variables, batch.inputs, key)
        rows = head_rows(found, batch, loss=loss, dtype=dtype)
        inputs = rows.features
        if rows.offset is not None:
            inputs = rows.features, rows.offset
        return Batch(inputs, rows.targets, rows.weights)

    return tap


def _collect(batches, tap, variables, key) -> Batch:
    """The inputs of the head, computed once and kept."""
    if batches.collect is None:
        raise ValueError(
            "examples that are spread over devices cannot be kept in one place: pass "
            "lagrange(..., keep_features=False), or data on one device."
        )
    return batches.collect(tap, variables, key)


def _tap_anew(batches, tap, variables, key) -> Batches:
    """The inputs of the head, computed at every pass."""

    @functools.cache  # one function a step, so that a stream compiles it once
    def tapped(step):
        def step_of_tap(state, batch, variables, key, *constants):
            state, index = state
            batch = tap(index, batch, variables, key)
            return step(state, batch, *constants), index + 1

        return step_of_tap

    def fold(step, state, *constants):
        state = (state, jnp.int32(0))
        return batches.fold(tapped(step), state, variables, key, *constants)[0]

    first = tap(0, batches.first, variables, key)
    return Batches(fold, first, batches.while_loop)


def _moment_dtype(model, variables, batches):
    """float64 where parameters, features or targets are, else float32."""
    first = batches.first

    def tapped(variables, inputs, key):
        return tap_head(model, variables, inputs, key).inputs

    features = jax.eval_shape(tapped, variables, first.inputs, jax.random.key(0))
    kernel = get_head(model, variables).kernel
    return at_least_float32(kernel, features, first.targets)
