"""Losses by name, and what becomes of them once the outputs are counted."""

from typing import Any

from lagrange_jax.losses.classes import SIGMOID, SOFTMAX, softmax
from lagrange_jax.losses.record import Loss

__all__ = ["as_loss"]


def as_loss(loss: Any, num_outputs: int | None = None) -> Loss:
    """Returns the loss that is meant.

    Args:
      loss: a `Loss`, or `"cross_entropy"`.
      num_outputs: k if it is known; a softmax of one output is a sigmoid.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if it is neither.
    """
    if isinstance(loss, str) and loss == "cross_entropy":
        loss = softmax()
    if not isinstance(loss, Loss):
        raise ValueError(
            "expected loss to be 'cross_entropy' or a Loss, such as "
            f"losses.softmax(label_smoothing=0.1); got {loss!r}."
        )
    if loss.kind == SOFTMAX and num_outputs == 1:
        return Loss(SIGMOID, loss.parameters)
    return loss
