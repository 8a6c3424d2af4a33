"""The optimal head under a bound. Imports `bounds`, `statistics`, `numerics`."""

from lagrange_jax.solvers.convex import SearchOptions, solve_convex
from lagrange_jax.solvers.laplace import LaplacePosterior, laplace, predict_logits
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.solvers.path import NormPath, convex_path
from lagrange_jax.solvers.solution import HeadSolution, Status, check, is_usable

__all__ = [
    "HeadSolution",
    "LaplacePosterior",
    "NormPath",
    "SearchOptions",
    "Status",
    "check",
    "convex_path",
    "is_usable",
    "laplace",
    "predict_logits",
    "solve_convex",
    "solve_least_squares",
]
