"""Whole grids of trainings in one call. Imports `initializers` and `models.params`."""

from lagrange_jax.training.grid import GridResult, grid_mesh, run_grid
from lagrange_jax.training.mlp_objective import mlp_objective
from lagrange_jax.training.objective import Objective, make_objective
from lagrange_jax.training.resolved_objective import (
    ResolvedObjective,
    resolved_objective,
)
from lagrange_jax.training.resolver import Resolver, ResolverState, resolve_head
from lagrange_jax.training.scheduler import disable_scheduler
from lagrange_jax.training.tables import summarize, to_rows, to_xarray, write_csv
from lagrange_jax.training.train import TrainResult, make_train

__all__ = [
    "GridResult",
    "Objective",
    "ResolvedObjective",
    "Resolver",
    "ResolverState",
    "TrainResult",
    "disable_scheduler",
    "grid_mesh",
    "make_objective",
    "make_train",
    "mlp_objective",
    "resolve_head",
    "resolved_objective",
    "run_grid",
    "summarize",
    "to_rows",
    "to_xarray",
    "write_csv",
]
