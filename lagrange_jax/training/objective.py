"""The mean loss of a batch of examples, and its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax.batches import as_batches
from lagrange_jax.types import Batch, Key, Model, Variables

__all__ = [
    "LossFn",
    "Objective",
    "example_losses",
    "make_objective",
    "mean_loss",
    "ratio",
    "replace_unweighted",
]

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


def make_objective(
    model: Model, loss_fn: LossFn, eval_batch_size: int = 1024
) -> Objective:
    """Returns the mean loss of any network, differentiated automatically.

    Args:
      model: the network.
      loss_fn: one loss an example; see `example_losses`.
      eval_batch_size: examples in one inference pass. It bounds the memory of a
        measurement and does not change its result.

    Returns:
      The objective.
    """

    def loss(variables, batch):
        def add(totals, block):
            outputs = model.apply(variables, block.inputs)
            found = _weighted_sum(loss_fn, outputs, block)
            return jax.tree.map(jnp.add, totals, found)

        zeros = (jnp.zeros(()), jnp.zeros(()))
        return ratio(*as_batches(batch, eval_batch_size).fold(add, zeros))

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
    return ratio(*_weighted_sum(loss_fn, outputs, batch))


def example_losses(loss_fn: LossFn, outputs: Any, targets: Any) -> Float[Array, " n"]:
    """Returns one loss an example, in JAX's default dtype: float32, or wider.

    Args:
      loss_fn: returns `[n]`, or `[n, ...]` which is summed over all axes but the
        first: several outputs add up, as in `||f(x) - t||^2`.
      outputs: what the network returned, leading axis n.
      targets: leading axis n. Where one of the two is `[n]` and the other `[n, 1]`,
        the loss is given both as `[n, 1]`.

    Returns:
      The losses.

    Raises:
      ValueError: if `loss_fn` returns something else than a loss an example or a loss
        an output, because it took the mean or outputs and targets were broadcast.
    """
    n = len(targets)
    if {getattr(outputs, "shape", None), targets.shape} == {(n,), (n, 1)}:
        outputs, targets = outputs.reshape(n, 1), targets.reshape(n, 1)
    losses = loss_fn(outputs, targets)
    _check_losses(losses, outputs, targets)
    # Half precision is for networks: a sum of a thousand losses would lose digits.
    return losses.astype(float).reshape(len(losses), -1).sum(1)


def _check_losses(losses, outputs, targets):
    """Raises unless losses are one an example, a token, or an output and its target."""
    found, wanted = losses.shape, jnp.shape(targets)
    if found[:1] != wanted[:1]:
        raise ValueError(
            f"loss_fn must return one loss an example, leading axis "
            f"{wanted[0]}; got shape {found}. Leave the mean over the "
            "examples to the library: it knows which of them count."
        )
    given = getattr(outputs, "shape", wanted)
    is_fewer = any(found == x[: len(found)] and found != x for x in (given, wanted))
    if not is_fewer and not found == given == wanted and found != wanted[:1]:
        raise ValueError(
            f"expected outputs and targets of one shape, labels of one axis less, or "
            f"a loss an example; got outputs {list(given)}, targets {list(wanted)} "
            f"and losses {list(found)}: loss_fn has broadcast one against the other."
        )


def replace_unweighted(batch: Batch) -> Batch:
    """Returns a batch whose examples of weight zero are copies of one that counts.

    What padding holds, such as NaN, then reaches no network: a zero weight on its loss
    would not take it out of the gradient.
    """
    if batch.weights is None:
        return batch
    rows = jnp.arange(len(batch.weights))
    rows = jnp.where(batch.weights > 0, rows, jnp.argmax(batch.weights > 0))
    inputs, targets = jax.tree.map(lambda x: x[rows], (batch.inputs, batch.targets))
    return Batch(inputs, targets, batch.weights)


def _weighted_sum(loss_fn, outputs, batch):
    losses = example_losses(loss_fn, outputs, batch.targets)
    if batch.weights is None:
        return losses.sum(), jnp.array(len(losses), losses.dtype)
    weights = batch.weights.astype(losses.dtype)
    # An example of weight zero must not matter even where its loss is not finite.
    return jnp.where(weights > 0, weights * losses, 0).sum(), weights.sum()


def ratio(total: Any, weight: Any) -> Float[Array, ""]:
    """Returns the mean, or zero where nothing has weight."""
    return jnp.where(weight > 0, total, 0) / jnp.where(weight > 0, weight, 1)
