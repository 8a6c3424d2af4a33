"""Data sets as arrays: synthetic ones, and public ones prepared once and cached."""

from lagrange_jax.data.arrays import Dataset
from lagrange_jax.data.cmapss import load_cmapss
from lagrange_jax.data.cmapss_splits import CmapssSplits
from lagrange_jax.data.gaussian_clouds import gaussian_clouds

__all__ = ["CmapssSplits", "Dataset", "gaussian_clouds", "load_cmapss"]
