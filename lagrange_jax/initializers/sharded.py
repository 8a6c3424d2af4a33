"""`initialize` with examples spread over devices and processes.

Arrays: each device takes the examples that lie on it through the network. A stream:
each process streams its own examples, as many batches as it has. In both cases one
all-reduce of the moments follows, and every device solves for the same head.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lagrange_jax._checks import require_kind
from lagrange_jax._compile import jit_once
from lagrange_jax.batches import as_batch, as_batches, is_arrays, require_examples
from lagrange_jax.distributed.processes import from_first, is_key
from lagrange_jax.distributed.sharding import (
    all_reduce_processes,
    check_rows,
    gather_sizes,
    shard_batch,
)
from lagrange_jax.initializers.draw import draw_variables, transform_key
from lagrange_jax.initializers.static import as_static
from lagrange_jax.statistics.moments import Moments, all_reduce_moments
from lagrange_jax.types import Batches, InitTransform, Key, Model, Variables

__all__ = ["initialize_on_mesh"]


def initialize_on_mesh(
    key: Key,
    model: Model,
    init: InitTransform,
    data: Any,
    mesh: Mesh,
    eval_batch_size: int,
) -> tuple[Variables, Any]:
    """Returns what `initialize` does; see there.

    Raises:
      ValueError: if data do not fit the mesh, or the transform folds something that is
        not `Moments`.
    """
    require_kind("mesh", mesh, Mesh)
    variables = draw_variables(key, model)
    if not is_arrays(data):
        return init(transform_key(key), model, variables, _stream(data))
    devices, targets = set(mesh.devices.flat), require_examples(data).targets
    lies = isinstance(targets, jax.Array) and targets.sharding.device_set == devices
    batch = as_batch(data) if lies else shard_batch(data, mesh)
    check_rows(batch.targets, mesh)
    given = key, variables, batch, model
    return _initialize(*given, as_static(init), eval_batch_size, mesh)


@partial(jit_once, static_argnames=("model", "init", "eval_batch_size", "mesh"))
def _initialize(key, variables, batch, model, init, eval_batch_size, mesh):
    axes = mesh.axis_names

    def share(key, variables, batch):
        local, rank = as_batches(batch, eval_batch_size), lax.axis_index(axes)
        fold = _merging(local.fold, rank, partial(all_reduce_moments, axis_name=axes))

        def of_first(x):
            return lax.psum(jnp.where(rank == 0, x, jnp.zeros_like(x)), axes)

        batches = Batches(fold, jax.tree.map(of_first, local.first))
        return init(transform_key(key), model, variables, batches)

    # Loops inside a network may start from constants, which the check would refuse.
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(P(), P(), P(axes)),
        out_specs=P(),
        check_vma=False,
    )(key, variables, batch)


def _stream(stream):
    """An iterable of each process's batches, seen as one fold over all of them."""
    local = as_batches(stream)
    if jax.process_count() == 1:
        return local
    sizes = gather_sizes(local.first)
    if len(set(sizes)) > 1:
        raise ValueError(
            "expected first batches of one size on all processes; got sizes "
            f"{sizes}. Pad them with examples of weight zero."
        )
    first = from_first(local.first)
    fold = _merging(local.fold, jax.process_index(), all_reduce_processes)
    return Batches(fold, first)


def _merging(fold, rank, all_reduce):
    """Returns a fold over one shard that merges moments with the others' at the end.

    Keys differ from shard to shard.
    """

    def split(x):
        return jax.random.fold_in(x, rank) if is_key(x) else x

    def merge(x):
        if isinstance(x, Moments):
            return all_reduce(x)
        if is_key(x):
            return x
        raise ValueError(
            "expected an init transform that folds Moments over the examples, which "
            f"shards can merge; got {x.dtype}{list(x.shape)}. Use initialize."
        )

    def merging(step, state, *constants):
        state = fold(step, jax.tree.map(split, state), *constants)
        return jax.tree.map(merge, state, is_leaf=lambda x: isinstance(x, Moments))

    return merging
