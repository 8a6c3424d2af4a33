"""Accuracy and cross-entropy of a head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.backbones.problem import Split

__all__ = ["Score", "score", "temperature"]


class Score(NamedTuple):
    """How good a head is on some examples.

    Attributes:
      accuracy: share of the examples whose class has the largest logit.
      loss: mean cross-entropy of the softmax, in nats.
    """

    accuracy: float
    loss: float


def mean_loss(logits: Float[Array, "n k"], labels) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the softmax."""
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)


@jax.jit
def _score(features, labels, kernel, bias):
    logits = features @ kernel + bias[None]
    return jnp.mean(logits.argmax(1) == labels), mean_loss(logits, labels)


def score(split: Split, kernel, bias) -> Score:
    """Returns accuracy and cross-entropy of a head."""
    return Score(*map(float, _score(*split, kernel, bias)))


@jax.jit
def temperature(split: Split, kernel, bias) -> Float[Array, ""]:
    r"""Returns the $s > 0$ that minimises the cross-entropy of $s (W^T \phi + b)$.

    A convex problem in one variable: 20 Newton steps in $s$, from the scale at which
    the logits have unit spread.
    """
    logits = split.features @ kernel + bias[None]
    logits = logits - logits.mean(1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(logits**2))
    logits = logits / spread

    def step(_, scale):
        probabilities = jax.nn.softmax(scale * logits)
        mean = jnp.sum(probabilities * logits, 1)
        chosen = jnp.take_along_axis(logits, split.labels[:, None], axis=1)[:, 0]
        slope = jnp.mean(mean - chosen)
        variance = jnp.sum(probabilities * (logits - mean[:, None]) ** 2, 1)
        # At most a doubling: far from the optimum the curvature says little.
        return jnp.clip(scale - slope / jnp.mean(variance), scale / 2, 2 * scale)

    return jax.lax.fori_loop(0, 20, step, jnp.ones(())) / spread
