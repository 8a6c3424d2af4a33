"""What a head wants of one pass over the examples, so that heads can share it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lagrange_jax.initializers.rows import at_least_float32, tap_head
from lagrange_jax.models.params import get_head
from lagrange_jax.types import Batch, Batches, Model, Variables

__all__ = ["Plan", "collect", "has_few_rows", "moment_dtype", "run_plan"]


class Plan(NamedTuple):
    """A pass over the examples, and what is made of it.

    Attributes:
      finish: `finish(found, variables, batches) -> (variables, info)`, with the state
        after the fold, or what was collected, or None where the plan has neither.
      fold: `(state, step)` with `step(state, batch, variables) -> state`.
      collect: `collect(index, batch, variables)`, arrays to keep of each batch.
    """

    finish: Callable[..., tuple[Variables, Any]]
    fold: tuple[Any, Callable[..., Any]] | None = None
    collect: Callable[..., Any] | None = None


def run_plan(
    plan: Plan, variables: Variables, batches: Batches
) -> tuple[Variables, Any]:
    """Returns what an init transform returns: one pass, then the rest."""
    found = None
    if plan.fold is not None:
        state, step = plan.fold
        found = batches.fold(step, state, variables)
    elif plan.collect is not None:
        found = collect(batches, plan.collect, variables)
    return plan.finish(found, variables, batches)


def collect(batches: Batches, function: Callable[..., Any], variables: Variables):
    """Returns arrays of all batches, joined; refused where there is no one place."""
    if batches.collect is None:
        raise ValueError(
            "examples that are spread over devices cannot be kept in one place: pass "
            "lagrange(..., keep_features=False), for squared error a constraint that "
            'needs no examples, at_strength("gcv") say, or data on one device.'
        )
    return batches.collect(function, variables)


def moment_dtype(model: Model, variables: Variables, first: Batch) -> Any:
    """Returns float64 where parameters, features or targets are, else float32."""
    kernel = get_head(model, variables).kernel
    features = _features(model, variables, first)
    return at_least_float32(kernel, features, first.targets)


def has_few_rows(model: Model, variables: Variables, batches: Batches) -> bool:
    """Whether the head has, for sure, no more than half as many rows as features."""
    if batches.num_examples is None or batches.collect is None:
        return False
    *rows, num_features = _features(model, variables, batches.first).shape
    share = batches.num_examples / len(batches.first.targets)
    return 2 * math.prod(rows) * share <= num_features


def _features(model, variables, first):
    """Shape and dtype of the inputs of the head."""

    def tapped(variables, inputs, key):
        return tap_head(model, variables, inputs, key).inputs

    return jax.eval_shape(tapped, variables, first.inputs, jax.random.key(0))
