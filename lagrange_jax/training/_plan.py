"""A grid as a flat index that devices share: what `run_grid` runs.

Each device runs its own program on its own part of the index. Nothing moves between
devices until the results are fetched.
"""

import functools
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

from lagrange_jax._progress import announce
from lagrange_jax.distributed.processes import data_to_keys, is_key, keys_to_data
from lagrange_jax.training._known import Bounds
from lagrange_jax.training._program import (
    Program,
    compile_once,
    evaluate,
    trace_member,
)

__all__ = [
    "AXIS",
    "GridPlan",
    "Layout",
    "bytes_per_device",
    "check_names",
    "compile_part",
    "concatenate",
    "merge_parts",
    "plan_grid",
    "run_part",
]

AXIS = "grid"


class Layout(NamedTuple):
    """Which program is mapped over which index, and where; hashable.

    Attributes:
      program: the program of one member.
      outer: names of the axes that the flat index runs over.
      inner: names of the axes that are vectorised within one index.
      mesh: the devices.
    """

    program: Program
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    mesh: Mesh


class GridPlan(NamedTuple):
    """A grid laid out, and its arrays.

    Attributes:
      layout: what is mapped, and where.
      axes: the grid's axes, each a pytree of arrays with that leading axis.
      placed: what the function closes over, and the axes, on every device.
      like: shapes and dtypes of what one member returns.
    """

    layout: Layout
    axes: dict[str, Any]
    placed: tuple[Any, dict[str, Any]]
    like: Any

    @property
    def total(self) -> int:
        """The length of the flat index."""
        return math.prod(_shape(self.axes, self.layout.outer))

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return self.layout.mesh.size

    @property
    def flat_like(self) -> Any:
        """Shapes and dtypes of what the whole index gives, before axes are restored."""
        inner = self.layout.inner
        sizes = (math.prod(_shape(self.axes, inner)),) if inner else ()
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((self.total, *sizes, *x.shape), x.dtype),
            self.like,
        )


def plan_grid(
    train: Callable[..., Any],
    axes: dict[str, Any],
    mesh: Mesh,
    vmap_axes: Sequence[str] | None = None,
) -> GridPlan:
    """Returns the plan of a grid; `vmap_axes` as for `run_grid`.

    Raises:
      ValueError: if `vmap_axes` names an axis that the grid does not have.
    """
    check_names(vmap_axes or (), axes)
    outer = tuple(name for name in axes if name not in (vmap_axes or ()))
    outer = outer or tuple(axes)
    inner = tuple(name for name in axes if name not in outer)
    member = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), axes)
    with announce(lambda: "tracing a grid"):
        program, consts, like = trace_member(train, member, _bounds(axes))
    place = partial(_place, NamedSharding(mesh, P()))
    placed = jax.tree.map(place, (consts, axes))
    return GridPlan(Layout(program, outer, inner, mesh), axes, placed, like)


def compile_part(plan: GridPlan, size: int) -> Any:
    """Returns the program for `size` flat indices on each device."""
    index = jax.ShapeDtypeStruct(
        (size * plan.num_devices,),
        jnp.int32,
        sharding=NamedSharding(plan.layout.mesh, P(AXIS)),
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        plan.placed,
    )
    leaves, structure = jax.tree.flatten((*shapes, index))
    with announce(lambda: "compiling a grid"):
        return _compile_layout(plan.layout, structure, tuple(leaves))


def run_part(plan: GridPlan, start: int, stop: int, size: int) -> Any:
    """Returns what the flat indices from `start` to `stop` give, on every host.

    Args:
      plan: the grid.
      start: the first index.
      stop: one more than the last.
      size: indices on each device, enough for all; all parts of one size run the same
        compiled program.
    """
    index = np.arange(start, start + size * plan.num_devices, dtype=np.int32)
    sharding = NamedSharding(plan.layout.mesh, P(AXIS))
    index = _place(sharding, np.minimum(index, stop - 1))
    values = compile_part(plan, size)(*plan.placed, index)
    values = _to_host(values, plan.layout.mesh)
    return jax.tree.map(lambda x: x[: stop - start], values)


def merge_parts(plan: GridPlan, parts: Sequence[Any]) -> Any:
    """Returns parts that cover the flat index in order as arrays of the grid's axes."""
    return jax.tree.map(lambda *x: _unflatten(plan, concatenate(x)), *parts)


def bytes_per_device(plan: GridPlan, size: int) -> int | None:
    """Returns the memory that the program needs on each device, by its compiler.

    Args:
      plan: the grid.
      size: flat indices that each device works on at a time.

    Returns:
      Bytes, or None where the compiler does not tell.
    """
    memory = compile_part(plan, size).memory_analysis()
    if memory is None:
        return None
    arrays = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return arrays + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def check_names(names: Iterable[str], axes: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a name is not among the axes."""
    unknown = [name for name in names if name not in axes]
    if unknown:
        raise ValueError(f"expected names among {list(axes)}; got {unknown}.")


@functools.lru_cache(maxsize=32)
def _compile_layout(layout, structure, leaves):
    lowered = jax.jit(partial(_run, layout)).lower(*structure.unflatten(leaves))
    return compile_once(lowered, tuple(layout.mesh.devices.flat))


def _run(layout: Layout, consts, axes, index):
    """Runs the members of a flat index over the outer axes and all inner ones."""
    program, outer, inner, mesh = layout

    def share(consts, axes, index):
        def one(i, j):
            member = {**_pick(axes, outer, i), **_pick(axes, inner, j)}
            return evaluate(program, consts, member)

        if not inner:
            return jax.vmap(lambda i: one(i, None))(index)
        rows = jnp.arange(math.prod(_shape(axes, inner)))
        return lax.map(lambda i: jax.vmap(partial(one, i))(rows), index)

    # Each device runs its own program. Under a plain sharded `jit` a loop of
    # data-dependent length would ask all devices at every turn whether to go on.
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(P(), P(), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )(consts, axes, index)


def _bounds(axes) -> dict[str, Bounds]:
    """The least and the largest value of every axis of integers."""
    return {
        name: (int(np.min(x)), int(np.max(x)))
        for name, x in axes.items()
        if isinstance(x, np.ndarray | jax.Array)
        if jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 1
    }


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
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if is_key(x):
        data = _place(sharding, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda rows: x[rows])


def _to_host(values, mesh):
    if all(x.is_fully_addressable for x in jax.tree.leaves(values)):
        return jax.device_get(values)
    gather = jax.jit(keys_to_data, out_shardings=NamedSharding(mesh, P()))
    # On all devices of this process: what one still has to do may, on a CPU, keep
    # threads from the next program, and then both wait for ever.
    data = jax.block_until_ready(gather(values))
    return data_to_keys(data, values)


def concatenate(parts: Sequence[Any], axis: int = 0) -> Any:
    """Joins arrays; typed keys, such as a network's random state, stay JAX arrays."""
    if len(parts) == 1:
        return parts[0]
    library = jnp if isinstance(parts[0], jax.Array) else np
    return library.concatenate(parts, axis)


def _unflatten(plan, x):
    """Restores the axes of the grid, in their order, from the flat ones."""
    _, outer, inner, _ = plan.layout
    names = outer + inner
    rest = x.shape[2 if inner else 1 :]
    order = [names.index(name) for name in plan.axes]
    tail = range(len(names), len(names) + len(rest))
    return x.reshape(_shape(plan.axes, names) + rest).transpose(*order, *tail)
