"""What the head needs to know of the data. Imports `numerics`."""

from lagrange_jax.statistics.changes import residual_spectrum
from lagrange_jax.statistics.gram import decompose_gram
from lagrange_jax.statistics.moments import (
    Moments,
    all_reduce_moments,
    compute_moments,
    init_moments,
    merge_moments,
    update_moments,
)
from lagrange_jax.statistics.removal import subtract_moments
from lagrange_jax.statistics.spectrum import Spectrum, decompose

__all__ = [
    "Moments",
    "Spectrum",
    "all_reduce_moments",
    "compute_moments",
    "decompose",
    "decompose_gram",
    "init_moments",
    "merge_moments",
    "residual_spectrum",
    "subtract_moments",
    "update_moments",
]
