"""Optimal last-layer initialisation and the law of regularisation strength.

`linen.as_model` and `nnx.as_model` make a `Model` of a Flax module, `datasets` loads
the data sets of the studies, and `plots` draws. They are imported when used.
"""

import importlib
from typing import TYPE_CHECKING

from lagrange_jax import (
    constraints,
    distributed,
    initializers,
    losses,
    models,
    ridge,
    solvers,
    statistics,
    strengths,
    training,
    transforms,
)
from lagrange_jax.bounds import Constraint
from lagrange_jax.constraints import loss_within
from lagrange_jax.initializers import (
    chain,
    initialize,
    lagrange,
    lsuv,
    reinitialize,
    zero_head,
)
from lagrange_jax.ridge import choose_strength, ridge_path
from lagrange_jax.solvers import (
    HeadSolution,
    Status,
    check,
    solve_convex,
    solve_least_squares,
)
from lagrange_jax.statistics import Moments, Spectrum, compute_moments, decompose
from lagrange_jax.strengths import (
    best_strength,
    convert_strength,
    extrapolate_strength,
    fit_power_law,
)
from lagrange_jax.training import (
    GridResult,
    TrainResult,
    make_train,
    run_grid,
)
from lagrange_jax.transforms import (
    add_elastic_net_penalty,
    add_l1_penalty,
    add_l2_penalty,
    prox_elastic_net,
    prox_l1,
    proximal_adam,
)
from lagrange_jax.types import Batch, InitTransform, Model

if TYPE_CHECKING:
    from lagrange_jax import datasets, plots
    from lagrange_jax.models import linen, nnx

__all__ = [
    "Batch",
    "Constraint",
    "GridResult",
    "HeadSolution",
    "InitTransform",
    "Model",
    "Moments",
    "Spectrum",
    "Status",
    "TrainResult",
    "add_elastic_net_penalty",
    "add_l1_penalty",
    "add_l2_penalty",
    "best_strength",
    "chain",
    "check",
    "choose_strength",
    "compute_moments",
    "constraints",
    "convert_strength",
    "datasets",
    "decompose",
    "distributed",
    "extrapolate_strength",
    "fit_power_law",
    "initialize",
    "initializers",
    "lagrange",
    "linen",
    "loss_within",
    "losses",
    "lsuv",
    "make_train",
    "models",
    "nnx",
    "plots",
    "prox_elastic_net",
    "prox_l1",
    "proximal_adam",
    "reinitialize",
    "ridge",
    "ridge_path",
    "run_grid",
    "solve_convex",
    "solve_least_squares",
    "solvers",
    "statistics",
    "strengths",
    "training",
    "transforms",
    "zero_head",
]

__version__ = "0.2.0"


_LAZY = {
    "datasets": "lagrange_jax.datasets",
    "linen": "lagrange_jax.models.linen",
    "nnx": "lagrange_jax.models.nnx",
    "plots": "lagrange_jax.plots",
}


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
