"""How large the head may be. Imports `ridge`, `solvers` and what they stand on."""

from lagrange_jax.constraints.cross_validation import (
    CrossValidation,
    choose_norm,
    cross_validated_norm,
)
from lagrange_jax.constraints.from_data import loss_within
from lagrange_jax.constraints.propagation import (
    backward_variance,
    forward_variance,
    glorot_variance,
    kaiming_variance,
    weight_norm,
)

__all__ = [
    "CrossValidation",
    "backward_variance",
    "choose_norm",
    "cross_validated_norm",
    "forward_variance",
    "glorot_variance",
    "kaiming_variance",
    "loss_within",
    "weight_norm",
]
