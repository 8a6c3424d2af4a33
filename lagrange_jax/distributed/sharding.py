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
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from lagrange_jax._checks import require_kind, require_record, require_shapes
from lagrange_jax.batches import as_batch, require_examples
from lagrange_jax.distributed.processes import (
    PROCESS,
    from_all,
    process_mesh,
    stack_processes,
)
from lagrange_jax.statistics.moments import Moments, all_reduce_moments, compute_moments
from lagrange_jax.types import Batch

__all__ = [
    "all_reduce_processes",
    "check_rows",
    "gather_sizes",
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
    sizes = gather_sizes(batch) if processes > 1 else [len(batch.targets)]
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
    dims = dict(features="n d", targets="n k", weights="n")
    features, targets, weights = require_shapes(dims, arrays)
    check_rows(targets, mesh)
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


def _pad(batch: Batch, rows: int) -> Batch:
    """Repeats examples, which any network can take, with weight zero."""
    size, index = len(batch.targets), np.arange(rows)
    weights = np.ones(size, np.float32) if batch.weights is None else batch.weights
    batch = jax.tree.map(lambda x: x[index % size], batch._replace(weights=weights))
    batch.weights[size:] = 0
    return batch


def gather_sizes(batch: Batch) -> list[int]:
    """Returns the number of examples that each process has."""
    return from_all(np.int32(len(batch.targets))).tolist()


def check_rows(targets: Any, mesh: Mesh) -> None:
    """Raises a `ValueError` unless the devices divide the rows."""
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
