"""How large the head may be. Imports `ridge`, `solvers` and what they stand on."""

from lagrange_jax.bounds import Constraint, Problem
from lagrange_jax.constraints.cross_validation import choose_norm, cross_validated_norm
from lagrange_jax.constraints.from_data import at_strength, loss_within
from lagrange_jax.constraints.propagation import fixed_norm, variance_scaling

__all__ = [
    "Constraint",
    "Problem",
    "at_strength",
    "choose_norm",
    "cross_validated_norm",
    "fixed_norm",
    "loss_within",
    "variance_scaling",
]
