"""What one pass over classified examples tells before any optimisation."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lagrange_jax._checks import require_real
from lagrange_jax.solvers.losses import as_probabilities, clean, is_distribution
from lagrange_jax.statistics.moments import init_moments, update_moments
from lagrange_jax.statistics.spectrum import Spectrum, decompose
from lagrange_jax.types import Batches

__all__ = ["ClassStatistics", "class_statistics", "curvature", "prior_bias"]

# A class without examples has the bias of half an example instead of minus infinity.
HALF_EXAMPLE = 0.5


class ClassStatistics(NamedTuple):
    """Statistics of features and classes.

    Attributes:
      spectrum: spectrum of the features, with the classes' probabilities as targets.
      shares: the mean target of each output.
      num_invalid: weighted examples whose targets are no probabilities.
    """

    spectrum: Spectrum
    shares: Float[Array, " k"]
    num_invalid: Int[Array, ""]


def class_statistics(
    batches: Batches,
    num_outputs: int,
    use_bias: bool = True,
    label_smoothing: Any = 0.0,
) -> ClassStatistics:
    """Returns the statistics of all batches, in one pass.

    Args:
      batches: features `[n, d]`, targets as in `as_probabilities`, example weights.
      num_outputs: outputs of the head; 1 is binary.
      use_bias: whether the head has a bias; without one moments are not centred.
      label_smoothing: see `as_probabilities`.

    Returns:
      The `ClassStatistics`.

    Raises:
      ValueError: if features or targets have the wrong shape.
    """
    features = batches.first.inputs
    require_real("features", features)
    if features.ndim != 2:
        raise ValueError(f"expected features [n, d]; got shape {features.shape}.")
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32

    def step(state, batch, label_smoothing):
        moments, num_invalid = state
        x, targets, weights = clean(batch, dtype)
        t = as_probabilities(targets, num_outputs, label_smoothing, dtype)
        invalid = ~is_distribution(t)
        if weights is not None:
            invalid &= weights > 0
        num_invalid += invalid.sum(dtype=jnp.int32)
        return update_moments(moments, x, t, weights), num_invalid

    moments = init_moments(features.shape[1], num_outputs, dtype)
    start = (moments, jnp.zeros((), jnp.int32))
    moments, num_invalid = batches.fold(step, start, label_smoothing)
    spectrum = decompose(moments, use_bias=use_bias)
    return ClassStatistics(spectrum, moments.mean_t, num_invalid)


def curvature(shares: Float[Array, " k"]) -> Float[Array, ""]:
    r"""Returns $h$: at a zero kernel the loss has about the curvature $h S$."""
    h = jnp.mean(shares * (1 - shares))
    return jnp.where(h > 0, h, 1)


def prior_bias(
    shares: Float[Array, " k"], count: Float[Array, ""]
) -> tuple[Float[Array, " k"], Bool[Array, " k"]]:
    """Returns the bias that predicts the classes' shares, and where it may change.

    Args:
      shares: the mean target of each output.
      count: total weight of the examples.

    Returns:
      The bias, and whether an output's optimum is finite. That of a class without
      examples is not: it keeps the bias that half an example would give.
    """
    least = HALF_EXAMPLE / jnp.maximum(count, 1)
    known = jnp.maximum(shares, least)
    if shares.shape == (1,):
        other = jnp.maximum(1 - shares, least)
        return jnp.log(known) - jnp.log(other), (shares > 0) & (shares < 1)
    return jnp.log(known), shares > 0
