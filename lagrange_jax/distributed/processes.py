"""What the processes of one program tell each other, outside of `jit`.

All processes must call these functions, in the same order. One device of each process
takes part: an answer that has arrived then leaves no work behind on other devices,
which on a CPU could keep its threads from the next program.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["PROCESS", "from_all", "from_first", "process_mesh", "stack_processes"]

PROCESS = "process"


def process_mesh() -> Mesh:
    """Returns a mesh of one device of each process."""
    devices = {device.process_index: device for device in jax.devices()}
    devices = [devices[index] for index in sorted(devices)]
    return jax.make_mesh((len(devices),), (PROCESS,), (AxisType.Auto,), devices=devices)


def stack_processes(tree: Any, mesh: Mesh) -> Any:
    """Returns each process's arrays as rows of global ones, one row a process."""
    sharding = NamedSharding(mesh, P(PROCESS))
    lay = partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lambda x: lay(np.asarray(x)[None]), tree)


def from_all(tree: Any) -> Any:
    """Returns the arrays of all processes, stacked in order; for small ones."""
    return _everywhere(_same, tree)


def from_first(tree: Any) -> Any:
    """Returns the arrays of process 0; all must have arrays of its shapes."""
    if jax.process_index():
        tree = jax.tree.map(np.zeros_like, tree)
    return _everywhere(_sum, tree)


def _everywhere(function, tree):
    mesh = process_mesh()
    everywhere = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    return jax.tree.map(np.asarray, everywhere(stack_processes(tree, mesh)))


def _same(tree):
    return tree


def _sum(tree):
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), tree)
