"""Penalties for optimisers that look at the value, not at the gradient alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for it.

__all__ = ["with_penalty"]


def with_penalty(
    optimizer: optax.GradientTransformation,
    penalty: Callable[[Any], ArrayLike],
) -> optax.GradientTransformationExtraArgs:
    r"""Lets an optimiser minimise :math:`E(w) + \Omega(w)`, line search included.

    Gradient, value and value function of :math:`E` are given those of :math:`\Omega`
    before the optimiser sees them.

    Args:
      optimizer: any Optax transform, such as `optax.lbfgs()`.
      penalty: :math:`\Omega`, a differentiable function of the parameters such as
        `lambda params: l2_penalty(params, strength)`.

    Returns:
      A transform with the state of `optimizer`. Its `update` takes `value`, `grad` and
      `value_fn` of :math:`E` alone, as `make_train` passes them.

    Example:
      >>> penalty = lambda params: lj.transforms.l2_penalty(params, 0.5)
      >>> optimizer = lj.transforms.with_penalty(optax.sgd(0.1), penalty)
      >>> params = {"kernel": jnp.array([2.0, -4.0])}
      >>> gradient = {"kernel": jnp.zeros(2)}
      >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
      >>> print(updates["kernel"])
      [-0.1  0.2]
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        value, gradient = jax.value_and_grad(penalty)(params)
        add = lambda tree: jax.tree.map(jnp.add, tree, gradient)  # noqa: E731
        if extra.get("value") is not None:
            extra["value"] = extra["value"] + value
        if extra.get("grad") is not None:
            extra["grad"] = add(extra["grad"])
        if (value_fn := extra.get("value_fn")) is not None:
            extra["value_fn"] = lambda w, *rest: value_fn(w, *rest) + penalty(w)
        return inner.update(add(updates), state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)
