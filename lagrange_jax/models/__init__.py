"""Flax modules as records of pure functions. Only `linen` and `nnx` import Flax."""

from lagrange_jax.models.params import (
    HeadArrays,
    get_head,
    get_layer,
    set_head,
    set_layer,
)

__all__ = [
    "HeadArrays",
    "get_head",
    "get_layer",
    "set_head",
    "set_layer",
]
