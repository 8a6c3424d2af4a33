"""The optimal head under a bound. Imports `bounds`, `statistics`, `numerics`."""

from lagrange_jax.solvers.cross_entropy import solve_cross_entropy
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.path import NormPath, cross_entropy_path
from lagrange_jax.solvers.solution import HeadSolution, Status, check

__all__ = [
    "HeadSolution",
    "NormPath",
    "Status",
    "check",
    "cross_entropy_path",
    "solve_cross_entropy",
    "solve_least_squares",
]
