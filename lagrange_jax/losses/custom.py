"""Any convex, smooth loss of yours, such as those of `optax.losses`."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from lagrange_jax._checks import require_callable
from lagrange_jax.losses.record import Convexity, Kind, Loss, Start, Targets

__all__ = ["from_function"]


def from_function(
    function: Callable[[Array, Array], Array],
    *,
    takes_labels: bool = False,
    is_convex: bool = True,
) -> Loss:
    r"""A loss from a function of logits and targets; JAX takes its derivatives.

    How strongly it bends is measured on the data: the mean second derivative of each
    logit at the first constant prediction scales the search, and no bound has to be
    given. Where the second derivative is zero or jumps, as for Huber's loss, the search
    is slower.

    The certificate of a solution rests on convexity, which is yours to promise. It is
    looked at where it can be seen: a loss that bends downwards at an example, at the
    first prediction or at the solution, along one random direction of the logits, ends
    with the status `NOT_CONVEX`, and the head is not used.

    Args:
      function: `function(logits [n, k], targets) -> [n]`, or `[n, k]`, which is summed
        over the outputs; a row for each example that depends on no other. Targets are
        real `[n, t]`, or integer labels `[n]` if `takes_labels`.
      takes_labels: whether targets are integer labels `[n]`.
      is_convex: whether the function is convex in the logits. Without that a solution
        is a stationary point, of status `STATIONARY`, and has no certificate.

    Returns:
      The `Loss`; the same record for the same function.

    Raises:
      TypeError: if it is no function.

    Example:
      >>> import optax
      >>> loss = lj.losses.from_function(optax.losses.log_cosh)
      >>> features = jnp.array([[-1.0], [0.0], [1.0]])
      >>> norm = lj.constraints.fixed_norm(1.0)
      >>> examples = features, 2 * features
      >>> head = lj.solve_convex(examples, norm, loss=loss, num_outputs=1)
      >>> print(f"{head.kernel[0, 0]:.3f}")
      1.000
    """
    require_callable("function", function)
    return Loss(_kind(function, takes_labels, "checked" if is_convex else "none"))


@functools.cache
def _kind(
    function: Callable[[Array, Array], Array], takes_labels: bool, convexity: Convexity
) -> Kind:
    def value(p: Any, logits, targets):
        given = targets[:, 0].astype(jnp.int32) if takes_labels else targets
        losses = function(logits, given)
        if losses.ndim == 2:
            losses = losses.sum(1)
        if losses.shape != logits.shape[:1]:
            raise ValueError(
                f"expected a loss of shape [n] or [n, k] for logits {logits.shape} and "
                f"targets {given.shape}, one row an example; got {losses.shape}. Leave "
                "out the mean over the examples."
            )
        return losses

    def read(p: Any, targets, k, dtype):
        targets = targets[:, None] if targets.ndim == 1 else targets
        targets = targets.astype(dtype)
        return Targets(targets, jnp.isfinite(targets).all(1))

    def start(p: Any, means, num_outputs):
        zeros = jnp.zeros(num_outputs, means.mean.dtype)
        return Start(zeros, zeros == 0)

    name = getattr(function, "__name__", "custom")
    return Kind(
        name,
        value=value,
        read=read,
        start=start,
        num_targets=lambda k: None,
        takes_labels=takes_labels,
        convexity=convexity,
    )
