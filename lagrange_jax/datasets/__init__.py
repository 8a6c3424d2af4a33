"""Data sets as arrays: synthetic ones, and public ones prepared once and cached."""

from lagrange_jax.datasets.arrays import Dataset
from lagrange_jax.datasets.cifar100 import Cifar100Splits, load_cifar100
from lagrange_jax.datasets.cmapss import load_cmapss
from lagrange_jax.datasets.cmapss_splits import CmapssSplits
from lagrange_jax.datasets.gaussian_clouds import gaussian_clouds

__all__ = [
    "Cifar100Splits",
    "CmapssSplits",
    "Dataset",
    "gaussian_clouds",
    "load_cifar100",
    "load_cmapss",
]
