"""Convex losses of the logits, a record each. Imports `numerics` and `_checks`."""

from lagrange_jax.losses.classes import sigmoid, softmax
from lagrange_jax.losses.custom import from_function
from lagrange_jax.losses.ordered import ordinal
from lagrange_jax.losses.record import Kind, Loss
from lagrange_jax.losses.regression import huber, poisson, quantile, squared_error

__all__ = [
    "Kind",
    "Loss",
    "from_function",
    "huber",
    "ordinal",
    "poisson",
    "quantile",
    "sigmoid",
    "softmax",
    "squared_error",
]
