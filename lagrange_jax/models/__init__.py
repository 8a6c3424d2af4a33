"""Flax modules as records of pure functions. Only `linen` and `nnx` import Flax."""

from lagrange_jax.models.params import get_layer, set_layer

__all__ = [
    "get_layer",
    "set_layer",
]
