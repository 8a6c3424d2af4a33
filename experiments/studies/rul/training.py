"""Adam on mean squared error, with work cut to the size of a core's cache.

Not `lj.make_train`, which takes a batch whole: here its gradient is added up over
slices whose activations stay in the cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lagrange_jax import Model

__all__ = ["Curve", "make_fit", "make_predict", "map_slices"]

SLICE = 32
"""Windows worked on at a time: their activations stay in a cache of 1 or 2 MiB."""


class Curve(NamedTuple):
    """Measurements before training and after each stretch of it.

    Attributes:
      epochs: `[m]` passes over the data so far.
      validation: `[m]` mean squared error on the validation windows.
      train: `[m]` the same on the training windows before training, and then the mean
        over the batches of the stretch that ends here, each before its own step.
      head: `[m, d + 1]` kernel and bias of the head.
      spread: `[m, 2]` variance over windows of the head's output, and of its inputs
        on average, from `signal.make_spread`.
      distance: `[m, layers]` how far each layer's parameters are from where they end.
    """

    epochs: np.ndarray
    validation: np.ndarray
    train: np.ndarray
    head: np.ndarray
    spread: np.ndarray
    distance: np.ndarray


def map_slices(
    function: Callable[[Array], Array], windows: Float[Array, "n time sensors"]
) -> Float[Array, "n ..."]:
    """Applies `function` slice by slice; zeros fill the last slice up."""
    n = len(windows)
    padded = jnp.pad(windows, ((0, -n % SLICE), (0, 0), (0, 0)))
    outputs = jax.lax.map(function, padded.reshape(-1, SLICE, *windows.shape[1:]))
    return outputs.reshape(-1, *outputs.shape[2:])[:n]


def make_predict(model: Model) -> Callable[..., Any]:
    """Returns `predict(variables, windows) -> [n]`, jitted."""

    @jax.jit
    def predict(variables, windows):
        return map_slices(lambda some: model.apply(variables, some)[:, 0], windows)

    return predict


def _sum_of_squares(model, params, windows, targets):
    return jnp.sum((model.apply({"params": params}, windows)[:, 0] - targets) ** 2)


def _loss_and_gradient(model, params, windows, targets):
    """Mean squared error of a batch, its gradient added up slice by slice."""

    def add(total, part):
        new = jax.value_and_grad(_sum_of_squares, argnums=1)(model, params, *part)
        return jax.tree.map(jnp.add, total, new), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    parts = jax.tree.map(
        lambda x: x.reshape(-1, SLICE, *x.shape[1:]), (windows, targets)
    )
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda x: x / len(targets), total)


def make_fit(
    model: Model, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """Returns `fit(params, state, windows, targets, batches)`, jitted.

    It takes a training step for every row of indices in `batches` and returns
    parameters, optimiser state and the mean loss of the batches.
    """

    @jax.jit
    def fit(params, state, windows, targets, batches):
        def step(carry, indices):
            params, state = carry
            loss, gradient = _loss_and_gradient(
                model, params, windows[indices], targets[indices]
            )
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), batches)
        return params, state, losses.mean()

    return fit
