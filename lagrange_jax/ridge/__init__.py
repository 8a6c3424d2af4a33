"""Every L2 strength from one spectrum. Imports `bounds`, `statistics`, `numerics`."""

from lagrange_jax.ridge.criteria import gcv, leave_one_out, leave_one_out_errors
from lagrange_jax.ridge.marginal_likelihood import (
    Evidence,
    evidence,
    negative_log_evidence,
)
from lagrange_jax.ridge.path import (
    RidgeHead,
    degrees_of_freedom,
    multiplier_to_strength,
    norm_of_strength,
    ridge_loss,
    ridge_path,
    solve_ridge,
    strength_of_norm,
    strength_to_multiplier,
)
from lagrange_jax.ridge.posterior import (
    HeadPosterior,
    Prediction,
    kernel_covariance,
    posterior,
    predict,
)
from lagrange_jax.ridge.selection import StrengthChoice, choose_strength

__all__ = [
    "Evidence",
    "HeadPosterior",
    "Prediction",
    "RidgeHead",
    "StrengthChoice",
    "choose_strength",
    "degrees_of_freedom",
    "evidence",
    "gcv",
    "kernel_covariance",
    "leave_one_out",
    "leave_one_out_errors",
    "multiplier_to_strength",
    "negative_log_evidence",
    "norm_of_strength",
    "posterior",
    "predict",
    "ridge_loss",
    "ridge_path",
    "solve_ridge",
    "strength_of_norm",
    "strength_to_multiplier",
]
