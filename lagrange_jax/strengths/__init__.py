"""Strengths by law: where curves are least, how that moves with N, in which units."""

from lagrange_jax.strengths.best import BestStrength, best_strength
from lagrange_jax.strengths.curves import LossCurves, loss_curves
from lagrange_jax.strengths.extrapolate import (
    Advice,
    Exponent,
    Extrapolation,
    Recipe,
    extrapolate_strength,
)
from lagrange_jax.strengths.power_law import PowerLaw, fit_power_law
from lagrange_jax.strengths.units import convert_strength

__all__ = [
    "Advice",
    "BestStrength",
    "Exponent",
    "Extrapolation",
    "LossCurves",
    "PowerLaw",
    "Recipe",
    "best_strength",
    "convert_strength",
    "extrapolate_strength",
    "fit_power_law",
    "loss_curves",
]
