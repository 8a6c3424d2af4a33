r"""Random kernels beyond those of `jax.nn.initializers`."""

import dataclasses
import math
from typing import Any

import jax
from jax.nn.initializers import Initializer

from lagrange_jax._checks import require_shapes

__all__ = ["negative_mean"]


def negative_mean(scale: Any = 8.0, std: Any = 0.1) -> Initializer:
    r"""Normal weights with a negative mean, after Yilmaz and Poli.

    $w \sim N(\max(-1, -\text{scale}/d),\ \text{std}^2)$ for d inputs of a unit: the
    mean is negative and inversely proportional to the width, so that gradients of
    deep networks of logistic units do not vanish at the start.

    Args:
      scale: the numerator of the mean.
      std: standard deviation of the weights.

    Returns:
      An initializer with the signature of `jax.nn.initializers`.

    References:
      A. Yilmaz, R. Poli, "Successfully and efficiently training deep multi-layer
      perceptrons with logistic activation function simply requires initializing the
      weights with an appropriate negative mean", Neural Networks 153, 2022.
    """
    require_shapes(dict(scale="", std=""), dict(scale=scale, std=std))

    return _NegativeMean(scale, std)


@dataclasses.dataclass(frozen=True)
class _NegativeMean:
    scale: Any
    std: Any

    def __call__(self, key, shape, dtype=None, out_sharding=None):
        del out_sharding
        fan_in = math.prod(shape[:-1])
        draw = jax.random.normal(key, shape, dtype or float)
        mean = jax.numpy.maximum(-1.0, -self.scale / fan_in).astype(draw.dtype)
        return mean + draw * jax.numpy.asarray(self.std, draw.dtype)
