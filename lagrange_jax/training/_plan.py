"""A grid as a flat index that devices share: what `run_grid` and `run_sweep` run.

Each device runs its own program on its own part of the index. Nothing moves between
devices until the results are fetched.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = [
    "AXIS",
    "GridPlan",
    "bytes_per_device",
    "check_names",
    "merge_parts",
    "plan_grid",
    "run_part",
]

AXIS = "grid"


class GridPlan(NamedTuple):
    """Which function is mapped over which index, and where.

    Attributes:
      train: the function.
      axes: the grid's axes, each a pytree of arrays with that leading axis.
      placed: the same on every device.
      outer: names of the axes that the flat index runs over.
      inner: names of the axes that are vectorised within one index.
      mesh: the devices.
    """

    train: Callable[..., Any]
    axes: dict[str, Any]
    placed: dict[str, Any]
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    mesh: Mesh

    @property
    def total(self) -> int:
        """The length of the flat index."""
        return math.prod(_shape(self.axes, self.outer))

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """The leading axes of what the whole index gives, before they are restored."""
        inner = (math.prod(_shape(self.axes, self.inner)),) if self.inner else ()
        return (self.total, *inner)


def plan_grid(
    train: Callable[..., Any],
    axes: dict[str, Any],
    mesh: Mesh,
    together: Sequence[str] | None = None,
) -> GridPlan:
    """Returns the plan of a grid; `together` as for `run_grid`.

    Raises:
      ValueError: if `together` names an axis that the grid does not have.
    """
    check_names(together or (), axes)
    outer = tuple(name for name in axes if name not in (together or ())) or tuple(axes)
    inner = tuple(name for name in axes if name not in outer)
    placed = jax.tree.map(partial(_place, NamedSharding(mesh, P())), axes)
    return GridPlan(train, axes, placed, outer, inner, mesh)


def run_part(plan: GridPlan, start: int, stop: int, size: int) -> Any:
    """Returns what the flat indices from `start` to `stop` give, on every host.

    Args:
      plan: the grid.
      start: the first index.
      stop: one more than the last.
      size: at least `stop - start`. It is rounded up to the devices; all parts of one
        size run the same compiled program.
    """
    index = np.arange(start, start + _round_up(size, plan.mesh.size), dtype=np.int32)
    index = _place(NamedSharding(plan.mesh, P(AXIS)), np.minimum(index, stop - 1))
    values = _call(plan.train, plan.outer, plan.inner, plan.mesh, plan.placed, index)
    return jax.tree.map(lambda x: x[: stop - start], _to_host(values, plan.mesh))


def merge_parts(plan: GridPlan, parts: Sequence[Any]) -> Any:
    """Returns parts that cover the flat index in order as arrays of the grid's axes."""
    return jax.tree.map(lambda *x: _unflatten(plan, _concatenate(x)), *parts)


def bytes_per_device(plan: GridPlan, size: int) -> int:
    """Returns the memory that the program needs on each device, by its compiler.

    Args:
      plan: the grid.
      size: flat indices that each device works on at a time.

    Raises:
      ValueError: if the compiler does not tell.
    """
    index = jax.ShapeDtypeStruct(
        (size * plan.mesh.size,), jnp.int32, sharding=NamedSharding(plan.mesh, P(AXIS))
    )
    arguments = plan.train, plan.outer, plan.inner, plan.mesh, plan.placed, index
    memory = _call.lower(*arguments).compile().memory_analysis()
    if memory is None:
        raise ValueError(
            "expected a compiler that tells how much memory a program needs; this one "
            "does not. Choose chunk_size by hand."
        )
    arrays = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return arrays + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def check_names(names: Iterable[str], axes: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a name is not among the axes."""
    unknown = [name for name in names if name not in axes]
    if unknown:
        raise ValueError(f"expected names among {list(axes)}; got {unknown}.")


@partial(jax.jit, static_argnames=("train", "outer", "inner", "mesh"))
def _call(train, outer, inner, mesh, axes, index):
    """Calls `train` for a flat index over the outer axes and all of the inner ones."""

    def share(axes, index):
        def one(i, j):
            return train(**_pick(axes, outer, i), **_pick(axes, inner, j))

        if not inner:
            return jax.vmap(lambda i: one(i, None))(index)
        rows = jnp.arange(math.prod(_shape(axes, inner)))
        return lax.map(lambda i: jax.vmap(partial(one, i))(rows), index)

    # Each device runs its own program. Under a plain sharded `jit` a loop of
    # data-dependent length would ask all devices at every turn whether to go on.
    return jax.shard_map(
        share, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False
    )(axes, index)


def _round_up(size, devices):
    return -(-size // devices) * devices


def _shape(axes, names):
    return tuple(len(jax.tree.leaves(axes[name])[0]) for name in names)


def _pick(axes, names, flat_index):
    """Returns the named axes' values at one flat index, as keyword arguments."""
    if not names:
        return {}
    indices = jnp.unravel_index(flat_index, _shape(axes, names))
    return {
        name: jax.tree.map(lambda x, i=i: x[i], axes[name])
        for name, i in zip(names, indices, strict=True)
    }


def _place(sharding, x):
    """Lays an array that every process holds on the devices of all processes."""
    if _is_key(x):
        data = _place(sharding, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda rows: x[rows])


def _to_host(values, mesh):
    if all(x.is_fully_addressable for x in jax.tree.leaves(values)):
        return jax.device_get(values)
    gather = jax.jit(_to_data, out_shardings=NamedSharding(mesh, P()))
    # On all devices of this process: what one still has to do may, on a CPU, keep
    # threads from the next program, and then both wait for ever.
    data = jax.block_until_ready(gather(values))
    return jax.tree.map(_from_data, data, values)


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _to_data(values):
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, values)


def _from_data(x, like):
    x = np.asarray(x)
    if not _is_key(like):
        return x
    return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))


def _concatenate(parts):
    if len(parts) == 1:
        return parts[0]
    # Typed keys, such as a network's random state, stay JAX arrays.
    library = jnp if isinstance(parts[0], jax.Array) else np
    return library.concatenate(parts)


def _unflatten(plan, x):
    """Restores the axes of the grid, in their order, from the flat ones."""
    names = plan.outer + plan.inner
    rest = x.shape[2 if plan.inner else 1 :]
    order = [names.index(name) for name in plan.axes]
    tail = range(len(names), len(names) + len(rest))
    return x.reshape(_shape(plan.axes, names) + rest).transpose(*order, *tail)
