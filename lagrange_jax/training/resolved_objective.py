"""A head that is solved anew at every step, under `make_train` or in any loop.

One forward pass serves the solve and the gradient: the head is affine in the features
that the training pass taps, so the loss is computed of them once the head is known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lagrange_jax._checks import require_count, require_kind
from lagrange_jax.batches import as_batches
from lagrange_jax.initializers.rows import (
    Rows,
    head_rows,
    output_shape,
    tap_head,
    total_loss,
)
from lagrange_jax.losses.named import as_loss
from lagrange_jax.losses.record import Loss
from lagrange_jax.losses.regression import SQUARED_ERROR
from lagrange_jax.models.params import get_head, set_head
from lagrange_jax.training.objective import Objective, ratio
from lagrange_jax.training.resolver import Resolver, ResolverState, resolve_head
from lagrange_jax.transforms.masks import head_only
from lagrange_jax.types import Batch, InitTransform, Model, Tap

__all__ = ["COLLECTION", "ResolvedObjective", "resolved_objective"]

COLLECTION = "resolved_head"
"""Where the variables hold the head's memory, under the name "state"."""


class ResolvedObjective(NamedTuple):
    """What training needs for a head that is not trained but solved.

    Attributes:
      objective: the resolver's loss. Its gradient is that of the body at the solved
        head, and zero for the head; the variables that it returns hold the head, and
        its memory in a collection of their own, "resolved_head".
      init: the last member of the `chain` of initialisations; it makes the memory.
      mask: from parameters to booleans, true for the body: for `optax.masked`, where
        weight decay or noise would move the head.
    """

    objective: Objective
    init: InitTransform
    mask: Callable[[Any], Any]


def resolved_objective(
    model: Model, resolver: Resolver | None = None, *, eval_batch_size: int = 1024
) -> ResolvedObjective:
    r"""Returns a loss with the head of `model` solved at every step.

    It is the mean over the rows of the head (examples, or their positions) of the
    resolver's loss, $\|f(x) - t\|^2$ say, by the weights of examples; labels of -100
    do not count. A head of the last step belongs to the body before its update.

    Args:
      model: the network, made with `as_model(..., tap_mode="training")`.
      resolver: from `resolve_head`, which is also the default.
      eval_batch_size: examples in one pass of a measurement; it bounds memory.

    Returns:
      The `ResolvedObjective`.

    Raises:
      ValueError: if the model's taps are those of an inference pass.

    Example:
      >>> network = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])
      >>> model = lj.linen.as_model(network, (2, 3), tap_mode="training")
      >>> inputs = jax.random.normal(jax.random.key(0), (64, 3))
      >>> batch = lj.Batch(inputs, jnp.sin(inputs[:, :1]))
      >>> solved = lj.training.resolved_objective(model)
      >>> start = lj.chain(solved.init)
      >>> variables, _ = lj.initialize(jax.random.key(1), model, start, batch)
      >>> objective = solved.objective
      >>> before = objective.loss(variables, batch)
      >>> key = jax.random.key(2)
      >>> loss, variables, gradient = objective.gradient(variables, batch, key)
      >>> print(bool(objective.loss(variables, batch) < 0.2 * before))
      True
    """
    require_kind("model", model, Model)
    require_count("eval_batch_size", eval_batch_size)
    if model.tap_mode != "training":
        raise ValueError(
            'expected a model made with as_model(..., tap_mode="training"), whose '
            f"features are those that are trained on; got {model.tap_mode!r}."
        )
    resolver = resolve_head() if resolver is None else resolver

    def loss(variables, batch):
        variables, memory = _split(variables)
        kernel = memory.head.kernel
        axes = output_shape(model, kernel.shape[1])

        def add(totals, block):
            outputs = model.apply(variables, block.inputs)
            lead = outputs.shape[: outputs.ndim - len(axes)]
            outputs = outputs.reshape(*lead, -1)
            rows = _rows(model, resolver, kernel, Tap(outputs, outputs), block)
            found = total_loss(_searched(resolver, kernel), rows, rows.features)
            return jax.tree.map(jnp.add, totals, found)

        zeros = (jnp.zeros(()), jnp.zeros(()))
        return ratio(*as_batches(batch, eval_batch_size).fold(add, zeros))

    def gradient(variables, batch, key):
        variables, memory = _split(variables)

        def of_body(params):
            given = {**variables, "params": params}
            tap, updated = _train_and_tap(model, given, batch.inputs, key)
            rows = _rows(model, resolver, memory.head.kernel, tap, batch)
            value, state = _solve(resolver, memory, rows)
            return value, (updated, state)

        value_and_grad = jax.value_and_grad(of_body, has_aux=True)
        (value, (updated, state)), found = value_and_grad(variables["params"])
        updated = set_head(model, updated, *state.head)
        return value, _join(updated, state), found

    def init(key, model, variables, batches):
        return _join(variables, resolver.init(get_head(model, variables))), None

    def mask(params):
        return jax.tree.map(lambda is_head: not is_head, head_only(model.head)(params))

    return ResolvedObjective(Objective(loss, gradient), init, mask)


def _searched(resolver: Resolver, kernel) -> Loss | None:
    """The loss of so many outputs; None for squared error, which has a closed form."""
    loss = resolver.loss
    return None if loss.kind == SQUARED_ERROR else as_loss(loss, kernel.shape[1])


def _train_and_tap(model: Model, variables, inputs, key):
    """Returns the tap of the head in a training pass, and the updated variables."""
    if model.tap_train is not None:
        taps, updated = model.tap_train(variables, inputs, key)
        return taps[model.head], updated
    _, updated = model.apply_train(variables, inputs, key)
    return tap_head(model, variables, inputs, key), updated


def _rows(model: Model, resolver: Resolver, kernel, tap: Tap, batch: Batch) -> Rows:
    axes = output_shape(model, kernel.shape[1])
    loss = _searched(resolver, kernel)
    return head_rows(tap, batch, axes, loss=loss, dtype=kernel.dtype)


def _solve(resolver: Resolver, memory: ResolverState, rows: Rows):
    """Returns the mean loss of a batch at the head that knows it, and the memory."""
    state = resolver.update(memory, *rows)
    kernel, bias = state.head
    outputs = rows.features @ kernel + (0 if bias is None else bias[None])
    outputs = outputs if rows.offset is None else outputs + rows.offset
    return ratio(*total_loss(_searched(resolver, kernel), rows, outputs)), state


def _split(variables):
    """Returns the network's own variables, and the memory of the head."""
    if COLLECTION not in variables:
        raise ValueError(
            "expected variables that hold the head's memory; initialise with "
            "chain(..., solved.init)."
        )
    network = {name: x for name, x in variables.items() if name != COLLECTION}
    return network, variables[COLLECTION]["state"]


def _join(variables, state: ResolverState):
    return {**variables, COLLECTION: {"state": state}}
