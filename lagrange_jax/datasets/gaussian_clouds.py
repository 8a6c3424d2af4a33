"""Two Gaussian clouds: the synthetic classification problem of Paper B."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lagrange_jax.datasets.arrays import Dataset
from lagrange_jax.types import Key

__all__ = ["gaussian_clouds"]


def gaussian_clouds(
    key: Key,
    num_examples: int,
    *,
    dimension: int = 10,
    distance: float | Float[Array, ""] = 13.86,
    std: float | Float[Array, ""] = 8.0,
) -> Dataset:
    r"""Draws two equally large classes from two spherical Gaussian clouds.

    $$ x \mid t \sim \mathcal N\big((2t - 1) c, \; \sigma^2 I\big), \qquad
       \lVert 2c \rVert = \text{distance}, \quad t \in \{0, 1\}. $$

    The centres $\pm c$ lie on the diagonal of the space, so that all features are
    alike. The classes alternate, so that the first N examples are balanced for
    every even N. The error of the best possible classifier is
    $\Phi(-\text{distance} / 2 \sigma)$, 19.3% with the defaults.

    Args:
      key: the random key.
      num_examples: number of examples n; an odd one leaves class 0 one ahead.
      dimension: number of features d.
      distance: Euclidean distance between the two centres.
      std: standard deviation of a cloud along each axis.

    Returns:
      A `Dataset` with float inputs `[n, d]` and targets `[n]` of zeros and ones in
      the same dtype.

    Raises:
      ValueError: `num_examples` or `dimension` is below 1.

    References:
      R. Sjöo, Investigating Relations between Regularization and Weight
      Initialization in Artificial Neural Networks, LU-TP 22-30, 2022, section 3.2.
    """
    if num_examples < 1 or dimension < 1:
        raise ValueError(
            "gaussian_clouds needs num_examples >= 1 and dimension >= 1, got "
            f"num_examples={num_examples}, dimension={dimension}."
        )
    noise = jax.random.normal(key, (num_examples, dimension))
    targets = (jnp.arange(num_examples) % 2).astype(noise.dtype)
    coordinate = jnp.asarray(distance, noise.dtype) / (2.0 * dimension**0.5)
    centres = (2.0 * targets - 1.0)[:, None] * coordinate
    return Dataset(centres + jnp.asarray(std, noise.dtype) * noise, targets)
