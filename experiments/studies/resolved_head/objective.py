r"""A re-solved head under `make_train`, for any network of the library.

One forward pass serves the solve and the gradient: the head is affine in the features
that the training pass taps, so the loss is computed of them once the head is known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.studies.resolved_head.head import Head, Resolver
from lagrange_jax import InitTransform, Model
from lagrange_jax.initializers.rows import head_rows, tap_head
from lagrange_jax.models.params import get_head, set_head
from lagrange_jax.training import Objective, make_objective
from lagrange_jax.transforms import head_only

__all__ = ["COLLECTION", "Resolved", "resolved"]

COLLECTION = "resolved_head"


class Resolved(NamedTuple):
    """What `make_train` needs for a head that is not trained but solved.

    Attributes:
      objective: its gradient is that of the body at the solved head, and zero for the
        head; the variables that it returns hold the head and its memory.
      init: the last member of the `chain` of initialisations; makes the memory.
      mask: from parameters to booleans, true for the body: what `optax.masked` lets
        weight decay or noise act on.
    """

    objective: Objective
    init: InitTransform
    mask: Callable[[Any], Any]


def resolved(model: Model, resolver: Resolver, eval_batch_size: int = 1024) -> Resolved:
    """Returns squared error with the head of `model` solved at every step.

    Args:
      model: the network, of `tap_mode="training"`.
      resolver: from `resolve_head`.
      eval_batch_size: see `make_objective`.

    Raises:
      ValueError: if the taps are those of an inference pass.
    """
    if model.tap_mode != "training":
        raise ValueError(
            'expected a model of tap_mode="training", whose features are those that '
            f"the gradient is taken at; got {model.tap_mode!r}."
        )
    plain = make_objective(model, lambda y, t: (y - t) ** 2, eval_batch_size)

    def loss(variables, batch):
        return plain.loss(_split(variables)[0], batch)

    def gradient(variables, batch, key):
        variables, memory = _split(variables)

        def body_loss(params):
            given = {**variables, "params": params}
            _, updated = model.apply_train(given, batch.inputs, key)
            rows = head_rows(
                tap_head(model, given, batch.inputs, key),
                batch,
                dtype=memory.head.kernel.dtype,
            )
            offset = 0 if rows.offset is None else rows.offset
            targets = rows.targets - offset
            state = resolver.update(memory, rows.features, targets, rows.weights)
            errors = rows.features @ state.head.kernel + state.head.bias[None] - targets
            return _mean(jnp.sum(errors**2, 1), rows.weights), (updated, state)

        value_and_grad = jax.value_and_grad(body_loss, has_aux=True)
        (value, (updated, state)), found = value_and_grad(variables["params"])
        updated = set_head(model, updated, *state.head)
        return value, {**updated, COLLECTION: {"state": state}}, found

    def init(key, model, variables, batches):
        kernel, bias = get_head(model, variables)
        bias = jnp.zeros(kernel.shape[1]) if bias is None else bias
        dtype = jnp.promote_types(kernel.dtype, jnp.float32)
        state = resolver.init(Head(kernel.astype(dtype), bias.astype(dtype)))
        return {**variables, COLLECTION: {"state": state}}, None

    def mask(params):
        is_head = head_only(model.head)(params)
        return jax.tree.map(lambda selected: not selected, is_head)

    return Resolved(Objective(loss, gradient), init, mask)


def _split(variables):
    """Returns the network's own variables, and the memory of the head."""
    network = {name: x for name, x in variables.items() if name != COLLECTION}
    return network, variables[COLLECTION]["state"]


def _mean(losses, weights):
    if weights is None:
        return jnp.mean(losses)
    total = weights.sum()
    used = jnp.where(weights > 0, weights * losses, 0).sum()
    return used / jnp.where(total > 0, total, 1)
