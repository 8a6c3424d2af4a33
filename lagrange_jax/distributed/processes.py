"""What the processes of one program tell each other, outside of `jit`.

All processes must call these functions, in the same order. One device of each process
takes part: an answer that has arrived then leaves no work behind on other devices,
which on a CPU could keep its threads from the next program.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = [
    "PROCESS",
    "data_to_keys",
    "from_all",
    "from_first",
    "is_key",
    "keys_to_data",
    "process_mesh",
    "stack_processes",
]

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


def is_key(x: Any) -> bool:
    """Whether this is an array, or the shape and dtype, of typed PRNG keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def keys_to_data(tree: Any) -> Any:
    """Returns a pytree with typed keys, such as a network's state, as numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def data_to_keys(tree: Any, like: Any) -> Any:
    """Returns numbers as the typed keys that they were, as NumPy arrays otherwise."""

    def wrap(x, like):
        if not is_key(like):
            return np.asarray(x)
        impl = jax.random.key_impl(jnp.empty((), like.dtype))
        return jax.random.wrap_key_data(jnp.asarray(x), impl=impl)

    return jax.tree.map(wrap, tree, like)


def _everywhere(function, tree):
    mesh = process_mesh()
    everywhere = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    return jax.tree.map(np.asarray, everywhere(stack_processes(tree, mesh)))


def _same(tree):
    return tree


def _sum(tree):
    return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), tree)
