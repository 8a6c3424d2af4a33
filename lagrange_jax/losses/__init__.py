"""Losses of the logits, a record each. Imports `numerics` and `_checks`."""

from lagrange_jax.losses.classes import sigmoid, softmax
from lagrange_jax.losses.custom import from_function
from lagrange_jax.losses.gaussian import gaussian
from lagrange_jax.losses.ordered import ordinal, ordinal_thresholds
from lagrange_jax.losses.record import Kind, Loss
from lagrange_jax.losses.regression import huber, poisson, quantile, squared_error

__all__ = [
    "Kind",
    "Loss",
    "from_function",
    "gaussian",
    "huber",
    "ordinal",
    "ordinal_thresholds",
    "poisson",
    "quantile",
    "sigmoid",
    "softmax",
    "squared_error",
]
