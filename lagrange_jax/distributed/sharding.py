r"""Examples spread over devices and hosts: statistics travel, features stay.

Each device folds the examples that lie on it, batch by batch, and one all-reduce of
$O(d^2 + d k)$ numbers makes the moments of all; every device then solves for the same
head. No device holds more than its share of the inputs, one batch of features and the
moments.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from lagrange_jax._checks import require_kind, require_record, require_shapes
from lagrange_jax.batches import as_batch, as_batches, is_arrays, require_examples
from lagrange_jax.distributed.processes import (
    PROCESS,
    from_all,
    from_first,
    process_mesh,
    stack_processes,
)
from lagrange_jax.initializers.transforms import require_initialize
from lagrange_jax.statistics.moments import Moments, all_reduce_moments, compute_moments
from lagrange_jax.types import Batch, Batches, InitTransform, Key, Model, Variables

__all__ = [
    "all_reduce_processes",
    "initialize_sharded",
    "shard_batch",
    "sharded_moments",
]


def shard_batch(data: Any, mesh: Mesh) -> Batch:
    """Lays the examples of every process on its own devices, as one global batch.

    No example leaves its process. Where devices do not divide the examples, some are
    repeated with weight zero.

    Args:
      data: this process's `(inputs, targets)` or `(inputs, targets, weights)`. The
        number of examples may differ between processes.
      mesh: devices, as many of each process.

    Returns:
      The `Batch` of all processes, its rows split evenly over all axes of the mesh.

    Raises:
      ValueError: if the data are no batch, see `as_batch`.
    """
    require_kind("mesh", mesh, Mesh)
    data = require_examples(data)
    like = jax.eval_shape(as_batch, data)
    batch = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), data, like)
    processes = len({device.process_index for device in mesh.devices.flat})
    sizes = _gather_sizes(batch) if processes > 1 else [len(batch.targets)]
    devices = mesh.size // processes
    rows = -(-max(sizes) // devices) * devices
    if set(sizes) != {rows}:
        batch = _pad(batch, rows)
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    lay = partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lay, batch)


def sharded_moments(
    features: Float[Array, "n d"],
    targets: Float[Array, "n k"],
    weights: Float[Array, " n"] | None = None,
    *,
    mesh: Mesh,
) -> Moments:
    """`compute_moments` of rows that are spread over a mesh.

    What moves between devices is the moments, never the features.

    Args:
      features: head inputs, their rows split over all axes of the mesh, as
        `shard_batch` lays them.
      targets: targets, likewise.
      weights: non-negative example weights; None means all ones.
      mesh: the devices.

    Returns:
      The `Moments` of all rows, on every device.

    Raises:
      ValueError: if shapes do not agree, or the devices do not divide the rows.
    """
    require_kind("mesh", mesh, Mesh)
    arrays = dict(features=features, targets=targets, weights=weights)
    require_shapes(dict(features="n d", targets="n k", weights="n"), arrays)
    _check_rows(targets, mesh)
    return _sharded_moments(features, targets, weights, mesh)


def all_reduce_processes(moments: Moments) -> Moments:
    """Merges the moments of all processes, each of which streamed its own data.

    Every process must call it, once, outside of `jit`.

    Args:
      moments: this process's moments, on any of its devices.

    Returns:
      The moments of the whole data set, on each process.
    """
    require_record("moments", moments, Moments)
    if jax.process_count() == 1:
        return moments
    mesh = process_mesh()
    stacked = stack_processes(moments, mesh)
    whole = _reduce_stacked(stacked, mesh)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), whole)


def initialize_sharded(
    key: Key,
    model: Model,
    init: InitTransform,
    batches: Any,
    *,
    mesh: Mesh | None = None,
    batch_size: int = 1024,
) -> tuple[Variables, Any]:
    """`initialize` with examples spread over devices and processes.

    Arrays: each device takes the examples that lie on it through the network,
    `batch_size` at a time. An iterable: each process streams its own examples, as many
    batches as it has. In both cases one all-reduce of the moments follows, and every
    device solves for the same head: that of all examples, the same as `initialize`
    gives on one device up to rounding.

    Transforms that ask for one batch, such as `lsuv`, see the first one of the first
    device or process. Networks that are random as they are tapped draw anew on each.

    Args:
      key: PRNG key, the same on every process.
      model: made by `linen.as_model` or `nnx.as_model`.
      init: an init transform that folds moments, or nothing, over the examples.
      batches: this process's `(inputs, targets[, weights])`, or global arrays that
        lie on the mesh, from `shard_batch`; or an iterable of this process's batches.
      mesh: devices that share arrays; None means all, of all processes.
      batch_size: examples in one forward pass on each device.

    Returns:
      The variables and the transform's info, on every device of the mesh for arrays,
      on each process for an iterable.

    Raises:
      ValueError: if data do not fit the model or the mesh, or the transform folds
        something that is not `Moments`.
    """
    require_initialize(key, model, init, batch_size)
    if not is_arrays(batches):
        variables, stream = jax.jit(model.init)(key), _stream(batches)
        return init(_transform_key(key), model, variables, stream)
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    require_kind("mesh", mesh, Mesh)
    devices = set(mesh.devices.flat)
    targets = batches[1]
    lies = isinstance(targets, jax.Array) and targets.sharding.device_set == devices
    batch = as_batch(batches) if lies else shard_batch(batches, mesh)
    _check_rows(batch.targets, mesh)
    return _initialize(key, batch, model, init, batch_size, mesh)


def _transform_key(key):
    # As `initialize` does, so that the body of the network is the same.
    return jax.random.fold_in(key, 1)


@partial(jax.jit, static_argnames=("model", "init", "batch_size", "mesh"))
def _initialize(key, batch, model, init, batch_size, mesh):
    axes = mesh.axis_names

    def share(key, batch):
        local, rank = as_batches(batch, batch_size), lax.axis_index(axes)
        fold = _merging(local.fold, rank, partial(all_reduce_moments, axis_name=axes))

        def of_first(x):
            return lax.psum(jnp.where(rank == 0, x, jnp.zeros_like(x)), axes)

        batches = Batches(fold, jax.tree.map(of_first, local.first))
        return init(_transform_key(key), model, model.init(key), batches)

    # Loops inside a network may start from constants, which the check would refuse.
    return jax.shard_map(
        share, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P(), check_vma=False
    )(key, batch)


def _stream(stream):
    """An iterable of each process's batches, seen as one fold over all of them."""
    local = as_batches(stream)
    if jax.process_count() == 1:
        return local
    sizes = _gather_sizes(local.first)
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
        return jax.random.fold_in(x, rank) if _is_key(x) else x

    def merge(x):
        if isinstance(x, Moments):
            return all_reduce(x)
        if _is_key(x):
            return x
        raise ValueError(
            "expected an init transform that folds Moments over the examples, which "
            f"shards can merge; got {x.dtype}{list(x.shape)}. Use initialize."
        )

    def merging(step, state, *constants):
        state = fold(step, jax.tree.map(split, state), *constants)
        return jax.tree.map(merge, state, is_leaf=lambda x: isinstance(x, Moments))

    return merging


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _pad(batch: Batch, rows: int) -> Batch:
    """Repeats examples, which any network can take, with weight zero."""
    size, index = len(batch.targets), np.arange(rows)
    weights = np.ones(size, np.float32) if batch.weights is None else batch.weights
    batch = jax.tree.map(lambda x: x[index % size], batch._replace(weights=weights))
    batch.weights[size:] = 0
    return batch


def _gather_sizes(batch):
    return from_all(np.int32(len(batch.targets))).tolist()


def _check_rows(targets, mesh):
    if len(targets) % mesh.size:
        raise ValueError(
            f"expected a number of rows that {mesh.size} devices divide; got "
            f"{len(targets)}. shard_batch pads them with rows of weight zero."
        )


@partial(jax.jit, static_argnames="mesh")
def _sharded_moments(features, targets, weights, mesh):
    axes = mesh.axis_names

    def share(data):
        return all_reduce_moments(compute_moments(*data), axes)

    return jax.shard_map(share, mesh=mesh, in_specs=P(axes), out_specs=P())(
        (features, targets, weights)
    )


@partial(jax.jit, static_argnames="mesh")
def _reduce_stacked(moments, mesh):
    def share(moments):
        return all_reduce_moments(jax.tree.map(lambda x: x[0], moments), PROCESS)

    return jax.shard_map(share, mesh=mesh, in_specs=P(PROCESS), out_specs=P())(moments)
