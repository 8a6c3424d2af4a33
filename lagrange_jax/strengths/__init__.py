"""Strengths by law: where curves are least, how that moves with N, in which units."""

from lagrange_jax.strengths.best import BestStrength, best_strength
from lagrange_jax.strengths.power_law import PowerLaw, fit_power_law

__all__ = ["BestStrength", "PowerLaw", "best_strength", "fit_power_law"]
