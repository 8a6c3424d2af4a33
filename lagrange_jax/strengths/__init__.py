"""Strengths by law: where curves are least, how that moves with N, in which units."""

from lagrange_jax.strengths.best import BestStrength, best_strength
from lagrange_jax.strengths.curves import LossCurves, loss_curves
from lagrange_jax.strengths.extrapolate import (
    Advice,
    Extrapolation,
    Recipe,
    extrapolate_strength,
)
from lagrange_jax.strengths.laplace import negative_log_laplace_evidence
from lagrange_jax.strengths.power_law import PowerLaw, fit_power_law
from lagrange_jax.strengths.priors import Exponent
from lagrange_jax.strengths.units import convert_strength
from lagrange_jax.strengths.without_validation import (
    Choice,
    choose_without_validation,
    stein_risk,
)

__all__ = [
    "Advice",
    "BestStrength",
    "Choice",
    "Exponent",
    "Extrapolation",
    "LossCurves",
    "PowerLaw",
    "Recipe",
    "best_strength",
    "choose_without_validation",
    "convert_strength",
    "extrapolate_strength",
    "fit_power_law",
    "loss_curves",
    "negative_log_laplace_evidence",
    "stein_risk",
]
