"""Accuracy, cross-entropy and calibration of a head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.backbones.problem import Split

__all__ = ["Score", "calibration_error", "mean_loss", "score", "temperature"]


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


def calibration_error(logits, labels, bins: int = 15) -> float:
    """Returns the expected calibration error, in bins of equal width.

    The mean distance of accuracy and confidence, each bin counted by its examples.

    Args:
      logits: `[n, k]`.
      labels: `[n]` classes.
      bins: of the confidence, the largest probability.
    """
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((bins * confidence).astype(int), bins - 1)
    # Of each bin: (sum of accuracies - sum of confidences) / n.
    gaps = np.bincount(bin_of, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


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
