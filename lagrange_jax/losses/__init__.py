"""Convex losses of the logits, a record each. Imports `numerics` and `_checks`."""

from lagrange_jax.losses.classes import sigmoid, softmax
from lagrange_jax.losses.record import Kind, Loss

__all__ = ["Kind", "Loss", "sigmoid", "softmax"]
