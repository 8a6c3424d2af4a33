"""Accuracy, cross-entropy and calibration of a head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.backbones.problem import Split

__all__ = [
    "Score",
    "calibrate",
    "calibrate_heads",
    "calibration_error",
    "mean_loss",
    "score",
    "temperature",
]


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
def temperature(logits: Float[Array, "n k"], labels) -> Float[Array, ""]:
    r"""Returns the $s > 0$ that minimises the cross-entropy of $s$ times the logits.

    A convex problem in one variable: 20 Newton steps in $s$, from the scale at which
    the logits have unit spread. It is 1 where all logits are equal.

    References:
      C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
      networks", ICML 2017: temperature scaling, of temperature $1 / s$.
    """
    logits = logits - logits.mean(1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(logits**2))
    logits = logits / jnp.where(spread > 0, spread, 1)

    def step(_, scale):
        probabilities = jax.nn.softmax(scale * logits)
        mean = jnp.sum(probabilities * logits, 1)
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        slope = jnp.mean(mean - chosen)
        variance = jnp.sum(probabilities * (logits - mean[:, None]) ** 2, 1)
        # At most a doubling: far from the optimum the curvature says little.
        return jnp.clip(scale - slope / jnp.mean(variance), scale / 2, 2 * scale)

    scale = jax.lax.fori_loop(0, 20, step, jnp.ones(()))
    return jnp.where(spread > 0, scale / spread, 1.0)


def calibrate(held_out_logits, held_out_labels, logits, labels) -> dict[str, float]:
    """Returns how sure a network is, as it is and after temperature scaling.

    One number, fitted on examples held out, takes away what is too large or too small
    in all logits alike; the classes predicted stay.

    Args:
      held_out_logits: `[m, k]` of the examples that fit the scale.
      held_out_labels: `[m]` their classes.
      logits: `[n, k]` of the examples that are measured.
      labels: `[n]` their classes.
    """
    scale = float(temperature(jnp.asarray(held_out_logits), held_out_labels))
    scaled = scale * np.asarray(logits)
    return {
        "scale": scale,
        "calibration_error": calibration_error(logits, labels),
        "scaled_calibration_error": calibration_error(scaled, labels),
        "scaled_loss": float(mean_loss(jnp.asarray(scaled), labels)),
    }


def calibrate_heads(held_out: Split, test: Split, kernels, biases) -> dict[str, list]:
    """Returns `calibrate` of heads `[d, r, k]` and `[r, k]`, a list of `r` a number."""
    found = []
    by_head = np.moveaxis(np.asarray(kernels), 1, 0), np.asarray(biases)
    for kernel, bias in zip(*by_head, strict=True):
        logits = [part.features @ kernel + bias for part in (held_out, test)]
        found.append(calibrate(logits[0], held_out.labels, logits[1], test.labels))
    return {name: [x[name] for x in found] for name in found[0]}
