"""Adam on the cross-entropy of the head alone, several learning rates side by side.

Not `lj.make_train`: the features are kept and all rates share one matrix product.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.backbones.problem import Split
from experiments.common.class_metrics import mean_loss
from experiments.common.curves import shuffled_batches

__all__ = ["Curves", "Heads", "train_heads"]


class Curves(NamedTuple):
    """Measurements before training and after each stretch, for every learning rate.

    Attributes:
      epochs: `[m]` passes over the data so far.
      validation_loss: `[m, r]` mean cross-entropy of the examples held out.
      validation_accuracy: `[m, r]` of the same examples.
      test_loss: `[m, r]` mean cross-entropy of the test examples.
      test_accuracy: `[m, r]` of the same examples.
      train_loss: `[m, r]` mean over the batches of the stretch that ends here, each
        before its own step; NaN before training.
    """

    epochs: np.ndarray
    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    train_loss: np.ndarray


class Heads(NamedTuple):
    """A head for every learning rate: kernels `[d, r, k]` and biases `[r, k]`."""

    kernel: Float[Array, "d r k"]
    bias: Float[Array, "r k"]


def _logits(params, features: Float[Array, "n d"]) -> Float[Array, "r n k"]:
    """One matrix product for the heads of all learning rates."""
    kernel, bias = params
    d, rates, classes = kernel.shape
    outputs = features @ kernel.reshape(d, rates * classes)
    return outputs.reshape(-1, rates, classes).swapaxes(0, 1) + bias[:, None]


def _losses(params, features, labels) -> Float[Array, " r"]:
    return jax.vmap(mean_loss, (0, None))(_logits(params, features), labels)


@jax.jit
def _measure(params, split: Any):
    logits = _logits(params, split.features)
    losses = jax.vmap(mean_loss, (0, None))(logits, split.labels)
    return losses, jnp.mean(logits.argmax(-1) == split.labels[None], axis=1)


@functools.cache
def _make_fit(
    rates: tuple[float, ...],
) -> tuple[optax.GradientTransformation, Callable]:
    """Adam works on each weight alone, so that every rate trains as if by itself."""

    def by_rate(updates):
        kernel, bias = updates
        scale = -jnp.asarray(rates, jnp.float32)
        return Heads(kernel * scale[None, :, None], bias * scale[:, None])

    optimizer = optax.chain(
        optax.scale_by_adam(), optax.stateless(lambda updates, _: by_rate(updates))
    )

    @jax.jit
    def fit(params, state, features, labels, batches):
        def step(carry, indices):
            def total(params):
                losses = _losses(params, features[indices], labels[indices])
                return losses.sum(), losses

            params, state = carry
            (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), losses

        (params, state), losses = jax.lax.scan(step, (params, state), batches)
        return params, state, losses.mean(0)

    return optimizer, fit


def _choose(by_rate, new: Heads, old: Heads) -> Heads:
    """Returns the new heads of some rates, and the old ones of the others."""
    kernel = jnp.where(by_rate[None, :, None], new.kernel, old.kernel)
    return Heads(kernel, jnp.where(by_rate[:, None], new.bias, old.bias))


def train_heads(
    head: tuple[Any, Any],
    train: Split,
    validation: Split,
    test: Split,
    *,
    rates: Sequence[float],
    epochs: int,
    evaluations: int,
    batch_size: int,
    seed: int,
) -> tuple[Curves, Heads]:
    """Trains a head on fixed features, once with every learning rate.

    Args:
      head: kernel `[d, k]` and bias `[k]` to begin with.
      train: examples to train on.
      validation: examples held out.
      test: test examples.
      rates: learning rates.
      epochs: passes over the training examples.
      evaluations: measurements in an epoch.
      batch_size: examples in a step.
      seed: of the order of the examples.

    Returns:
      The curves, and for every rate the head of least validation loss on the way.
    """
    kernel, bias = map(jnp.asarray, head)
    params = Heads(jnp.stack([kernel] * len(rates), 1), jnp.stack([bias] * len(rates)))
    optimizer, fit = _make_fit(tuple(rates))
    state = optimizer.init(params)
    n = len(train.labels)
    stretch = max(round(n / batch_size / evaluations), 1)
    stretches = -(-epochs * n // (batch_size * stretch))
    batches = shuffled_batches(seed, n, batch_size, stretches * stretch)
    train, validation, test = jax.tree.map(jnp.asarray, (train, validation, test))

    def measure(done, train_loss):
        measured = *_measure(params, validation), *_measure(params, test), train_loss
        return done * stretch * batch_size / n, *map(np.asarray, measured)

    points, best = [measure(0, np.full(len(rates), np.nan))], params
    least = points[0][1]
    for i in range(stretches):
        some = batches[i * stretch : (i + 1) * stretch]
        params, state, loss = fit(params, state, *train, some)
        points.append(measure(i + 1, loss))
        is_best = points[-1][1] < least
        best = _choose(is_best, params, best)
        least = np.where(is_best, points[-1][1], least)
    return Curves(*map(np.array, zip(*points, strict=True))), best
