"""The mean loss of a batch of examples, and its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax.batches import as_batches
from lagrange_jax.types import Batch, Key, Model, Variables

__all__ = ["LossFn", "Objective", "example_losses", "make_objective", "mean_loss"]

LossFn = Callable[[Any, Any], jax.Array]
"""`loss_fn(outputs, targets)`: one loss an example, as in `optax.losses`."""


class Objective(NamedTuple):
    """How training measures and differentiates the loss of one network.

    Attributes:
      loss: `loss(variables, batch)`, the mean loss of an inference pass.
      gradient: `gradient(variables, batch, key) -> (loss, variables, gradient)`, a
        training pass: the variables hold the updated state, and the gradient is
        that of `variables["params"]`.
    """

    loss: Callable[[Variables, Batch], jax.Array]
    gradient: Callable[[Variables, Batch, Key], tuple[jax.Array, Variables, Any]]


def make_objective(model: Model, loss_fn: LossFn, block_size: int = 1024) -> Objective:
    """Returns the mean loss of any network, differentiated automatically.

    Args:
      model: the network.
      loss_fn: one loss an example; see `example_losses`.
      block_size: examples in one inference pass. It bounds the memory of a
        measurement and does not change its result.

    Returns:
      The objective.
    """

    def loss(variables, batch):
        def add(totals, block):
            value, weight = _weighted_sum(
                loss_fn, model.apply(variables, block.inputs), block
            )
            return totals[0] + value, totals[1] + weight

        zeros = (jnp.zeros(()), jnp.zeros(()))
        return _ratio(*as_batches(batch, block_size).fold(add, zeros))

    def gradient(variables, batch, key):
        def objective(params):
            outputs, updated = model.apply_train(
                {**variables, "params": params}, batch.inputs, key
            )
            return mean_loss(loss_fn, outputs, batch), updated

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (value, updated), gradient = value_and_grad(variables["params"])
        return value, updated, gradient

    return Objective(loss, gradient)


def mean_loss(loss_fn: LossFn, outputs: Any, batch: Batch) -> Float[Array, ""]:
    """Returns the mean loss of a batch, by the weights of its examples."""
    return _ratio(*_weighted_sum(loss_fn, outputs, batch))


def example_losses(loss_fn: LossFn, outputs: Any, targets: Any) -> Float[Array, " n"]:
    """Returns one loss an example.

    Args:
      loss_fn: returns `[n]`, or `[n, ...]` which is summed over all axes but the
        first: several outputs add up, as in `||f(x) - t||^2`.
      outputs: what the network returned, leading axis n.
      targets: leading axis n. Where the outputs are `[n, 1]`, targets may be `[n]`.

    Returns:
      The losses.

    Raises:
      ValueError: if the leading axis of the losses is not that of the targets.
    """
    if jnp.shape(outputs)[1:] == (1,) and jnp.ndim(targets) == 1:
        targets = targets[:, None]
    losses = loss_fn(outputs, targets)
    if losses.shape[:1] != targets.shape[:1]:
        raise ValueError(
            f"loss_fn must return one loss an example, leading axis "
            f"{targets.shape[0]}; got shape {losses.shape}. Leave the mean over the "
            "examples to the library: it knows which of them count."
        )
    return losses.reshape(len(losses), -1).sum(1)


def _weighted_sum(loss_fn, outputs, batch):
    losses = example_losses(loss_fn, outputs, batch.targets)
    if batch.weights is None:
        return losses.sum(), jnp.array(len(losses), losses.dtype)
    weights = batch.weights.astype(losses.dtype)
    # An example of weight zero must not matter even where its loss is not finite.
    return jnp.where(weights > 0, weights * losses, 0).sum(), weights.sum()


def _ratio(total, weight):
    """Mean, or zero where nothing has weight."""
    return jnp.where(weight > 0, total, 0) / jnp.where(weight > 0, weight, 1)
