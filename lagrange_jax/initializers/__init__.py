"""Init transforms. Imports `constraints`, `models.params` and what they stand on."""

from lagrange_jax.initializers.apply import initialize
from lagrange_jax.initializers.baselines import ClassMeans, class_means, zero_head
from lagrange_jax.initializers.distributions import negative_mean
from lagrange_jax.initializers.heads import heads
from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.initializers.transforms import chain, lsuv, reinitialize

__all__ = [
    "ClassMeans",
    "chain",
    "class_means",
    "heads",
    "initialize",
    "lagrange",
    "lsuv",
    "negative_mean",
    "reinitialize",
    "zero_head",
]
