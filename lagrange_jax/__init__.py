"""Optimal last-layer initialisation and the law of regularisation strength.

`linen.as_model` and `nnx.as_model` make a `Model` of a Flax module, `datasets` loads
the data sets of the studies, and `plots` draws. They are imported when used.
"""

import importlib
from typing import TYPE_CHECKING

from jax.nn.initializers import glorot_normal as glorot_normal
from jax.nn.initializers import glorot_uniform as glorot_uniform
from jax.nn.initializers import he_normal as he_normal
from jax.nn.initializers import he_uniform as he_uniform
from jax.nn.initializers import lecun_normal as lecun_normal
from jax.nn.initializers import lecun_uniform as lecun_uniform
from jax.nn.initializers import orthogonal as orthogonal

from lagrange_jax.batches import as_batches as as_batches
from lagrange_jax.bounds import Constraint as Constraint
from lagrange_jax.constraints.cross_validation import (
    cross_validated_norm as cross_validated_norm,
)
from lagrange_jax.constraints.from_data import loss_within as loss_within
from lagrange_jax.constraints.propagation import backward_variance as backward_variance
from lagrange_jax.constraints.propagation import forward_variance as forward_variance
from lagrange_jax.constraints.propagation import glorot_variance as glorot_variance
from lagrange_jax.constraints.propagation import kaiming_variance as kaiming_variance
from lagrange_jax.constraints.propagation import weight_norm as weight_norm
from lagrange_jax.distributed.sharding import (
    all_reduce_processes as all_reduce_processes,
)
from lagrange_jax.distributed.sharding import initialize_sharded as initialize_sharded
from lagrange_jax.distributed.sharding import shard_batch as shard_batch
from lagrange_jax.distributed.sharding import sharded_moments as sharded_moments
from lagrange_jax.initializers.distributions import negative_mean as negative_mean
from lagrange_jax.initializers.lagrange import CrossEntropy as CrossEntropy
from lagrange_jax.initializers.lagrange import lagrange as lagrange
from lagrange_jax.initializers.transforms import chain as chain
from lagrange_jax.initializers.transforms import initialize as initialize
from lagrange_jax.initializers.transforms import lsuv as lsuv
from lagrange_jax.initializers.transforms import reinitialize as reinitialize
from lagrange_jax.models.params import get_layer as get_layer
from lagrange_jax.models.params import set_layer as set_layer
from lagrange_jax.ridge.criteria import gcv as gcv
from lagrange_jax.ridge.criteria import leave_one_out as leave_one_out
from lagrange_jax.ridge.criteria import leave_one_out_errors as leave_one_out_errors
from lagrange_jax.ridge.marginal_likelihood import Evidence as Evidence
from lagrange_jax.ridge.marginal_likelihood import evidence as evidence
from lagrange_jax.ridge.marginal_likelihood import (
    negative_log_evidence as negative_log_evidence,
)
from lagrange_jax.ridge.path import RidgeHead as RidgeHead
from lagrange_jax.ridge.path import degrees_of_freedom as degrees_of_freedom
from lagrange_jax.ridge.path import multiplier_to_strength as multiplier_to_strength
from lagrange_jax.ridge.path import norm_of_strength as norm_of_strength
from lagrange_jax.ridge.path import ridge_loss as ridge_loss
from lagrange_jax.ridge.path import ridge_path as ridge_path
from lagrange_jax.ridge.path import solve_ridge as solve_ridge
from lagrange_jax.ridge.path import strength_of_norm as strength_of_norm
from lagrange_jax.ridge.path import strength_to_multiplier as strength_to_multiplier
from lagrange_jax.ridge.selection import StrengthChoice as StrengthChoice
from lagrange_jax.ridge.selection import choose_strength as choose_strength
from lagrange_jax.ridge.selection import evidence_norm as evidence_norm
from lagrange_jax.ridge.selection import gcv_norm as gcv_norm
from lagrange_jax.solvers.cross_entropy import (
    solve_cross_entropy as solve_cross_entropy,
)
from lagrange_jax.solvers.least_squares import (
    solve_least_squares as solve_least_squares,
)
from lagrange_jax.solvers.least_squares import solve_spectrum as solve_spectrum
from lagrange_jax.solvers.path import NormPath as NormPath
from lagrange_jax.solvers.path import cross_entropy_path as cross_entropy_path
from lagrange_jax.solvers.solution import HeadSolution as HeadSolution
from lagrange_jax.solvers.solution import Status as Status
from lagrange_jax.solvers.solution import check as check
from lagrange_jax.solvers.solution import stationarity as stationarity
from lagrange_jax.statistics.gram import decompose_gram as decompose_gram
from lagrange_jax.statistics.moments import Moments as Moments
from lagrange_jax.statistics.moments import all_reduce_moments as all_reduce_moments
from lagrange_jax.statistics.moments import compute_moments as compute_moments
from lagrange_jax.statistics.moments import init_moments as init_moments
from lagrange_jax.statistics.moments import merge_moments as merge_moments
from lagrange_jax.statistics.moments import update_moments as update_moments
from lagrange_jax.statistics.spectrum import Spectrum as Spectrum
from lagrange_jax.statistics.spectrum import decompose as decompose
from lagrange_jax.training.grid import Grid as Grid
from lagrange_jax.training.grid import GridResult as GridResult
from lagrange_jax.training.grid import chunk_size_for as chunk_size_for
from lagrange_jax.training.grid import make_mesh as make_mesh
from lagrange_jax.training.grid import run_grid as run_grid
from lagrange_jax.training.mlp_objective import make_mlp_train as make_mlp_train
from lagrange_jax.training.mlp_objective import run_mlp_grid as run_mlp_grid
from lagrange_jax.training.power_law import PowerLaw as PowerLaw
from lagrange_jax.training.power_law import best_strength as best_strength
from lagrange_jax.training.power_law import fit_power_law as fit_power_law
from lagrange_jax.training.sweep import run_sweep as run_sweep
from lagrange_jax.training.tables import summarize as summarize
from lagrange_jax.training.tables import to_rows as to_rows
from lagrange_jax.training.tables import to_xarray as to_xarray
from lagrange_jax.training.tables import write_csv as write_csv
from lagrange_jax.training.train import TrainResult as TrainResult
from lagrange_jax.training.train import make_train as make_train
from lagrange_jax.transforms.masks import by_path as by_path
from lagrange_jax.transforms.masks import head_only as head_only
from lagrange_jax.transforms.masks import kernels_only as kernels_only
from lagrange_jax.transforms.penalties import (
    add_elastic_net_penalty as add_elastic_net_penalty,
)
from lagrange_jax.transforms.penalties import add_l1_penalty as add_l1_penalty
from lagrange_jax.transforms.penalties import add_l2_penalty as add_l2_penalty
from lagrange_jax.transforms.penalties import elastic_net_penalty as elastic_net_penalty
from lagrange_jax.transforms.penalties import l1_penalty as l1_penalty
from lagrange_jax.transforms.penalties import l2_penalty as l2_penalty
from lagrange_jax.transforms.proximal import prox_elastic_net as prox_elastic_net
from lagrange_jax.transforms.proximal import prox_l1 as prox_l1
from lagrange_jax.transforms.proximal import proximal_adam as proximal_adam
from lagrange_jax.types import Batch as Batch
from lagrange_jax.types import Batches as Batches
from lagrange_jax.types import InitTransform as InitTransform
from lagrange_jax.types import Model as Model
from lagrange_jax.types import Tap as Tap

if TYPE_CHECKING:
    from lagrange_jax import datasets as datasets
    from lagrange_jax import plots as plots
    from lagrange_jax.models import linen as linen
    from lagrange_jax.models import nnx as nnx

__version__ = "0.1.0"


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
