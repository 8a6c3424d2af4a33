"""Whole grids of trainings in one call. Imports `initializers` and `models.params`."""

from lagrange_jax.training.grid import (
    Grid,
    GridResult,
    chunk_size_for,
    make_mesh,
    run_grid,
)
from lagrange_jax.training.mlp_objective import make_mlp_train, run_mlp_grid
from lagrange_jax.training.objective import Objective, make_objective
from lagrange_jax.training.sweep import run_sweep
from lagrange_jax.training.tables import summarize, to_rows, to_xarray, write_csv
from lagrange_jax.training.train import TrainResult, make_train

__all__ = [
    "Grid",
    "GridResult",
    "Objective",
    "TrainResult",
    "chunk_size_for",
    "make_mesh",
    "make_mlp_train",
    "make_objective",
    "make_train",
    "run_grid",
    "run_mlp_grid",
    "run_sweep",
    "summarize",
    "to_rows",
    "to_xarray",
    "write_csv",
]
