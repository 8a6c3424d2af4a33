"""A whole grid of training runs in one call.

`run_grid` flattens the axes of a `Grid`, maps one pure function over the flat index
and compiles it once. Several devices each take a share of the index and never speak
to each other; chunks bound the memory and report progress.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["Grid", "GridResult", "make_mesh", "run_grid"]

AXIS = "grid"


class Grid(NamedTuple):
    """The axes of a grid, each an array or a pytree with that leading axis.

    Attributes:
      strengths: regularisation strengths, argument `strength`.
      sizes: numbers of examples, argument `num_examples`.
      keys: one key a seed, argument `key`.
      extra: further axes by the name of the argument that takes them.
    """

    strengths: Any
    sizes: Any
    keys: Any
    extra: Mapping[str, Any] = {}

    @property
    def axes(self) -> dict[str, Any]:
        """The axes in order, by the name of the argument that each becomes."""
        named = {
            "strength": self.strengths,
            "num_examples": self.sizes,
            "key": self.keys,
        }
        return {name: _as_axis(name, x) for name, x in {**named, **self.extra}.items()}


class GridResult(NamedTuple):
    """What a grid returns, labelled.

    Attributes:
      axes: the values along each axis, in the order of the leading axes of `values`.
      values: what the function returned, each array with one leading axis an axis of
        the grid. Arrays are NumPy's and lie on the host.
    """

    axes: dict[str, Any]
    values: Any

    def select(self, **indices: int) -> "GridResult":
        """Returns the part at the given indices, as in `select(strength=3, key=0)`."""
        _check_names(indices, self.axes)
        where = tuple(indices.get(name, slice(None)) for name in self.axes)
        axes = {name: x for name, x in self.axes.items() if name not in indices}
        return GridResult(axes, jax.tree.map(lambda x: x[where], self.values))


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of one axis, `"grid"`.

    Args:
      devices: the devices to use; None means all, of all processes.

    Returns:
      The mesh, its axis `Auto`: what the explicit default would demand of the user's
      network is nothing a grid needs.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def run_grid(
    train: Callable[..., Any],
    grid: Grid,
    *,
    together: Sequence[str] | None = None,
    mesh: Mesh | None = None,
    chunk_size: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> GridResult:
    """Calls `train` for every combination of the grid's values, compiled once.

    Args:
      train: a pure function of keyword arguments named as the axes, such as
        `make_train` returns.
      grid: the axes.
      together: names of the axes that are vectorised. None means all of them, what
        an accelerator wants. The combinations of the other axes then run one after
        another on each device, so that a loop may be as long as each needs.
      mesh: devices that share the work; `make_mesh` of all devices by default.
      chunk_size: combinations a call works on, None means all: of the axes that are
        not in `together`, or of all axes where `together` is None. A chunk that the
        devices do not divide is padded. All chunks run the same compiled program,
        and results do not depend on the size.
      progress: `progress(done, total)` is called after every chunk.

    Returns:
      The results, on the host of every process.

    Raises:
      ValueError: if `together` names an axis that the grid does not have.
    """
    axes = grid.axes
    _check_names(together or (), axes)
    outer = tuple(name for name in axes if name not in (together or ())) or tuple(axes)
    inner = tuple(name for name in axes if name not in outer)
    mesh = make_mesh() if mesh is None else mesh
    total = math.prod(_shape(axes, outer))
    chunk = -(-min(chunk_size or total, total) // mesh.size) * mesh.size
    replicated = jax.device_put(axes, NamedSharding(mesh, P()))
    parts = []
    for start in range(0, total, chunk):
        index = np.minimum(np.arange(start, start + chunk, dtype=np.int32), total - 1)
        index = jax.device_put(index, NamedSharding(mesh, P(AXIS)))
        parts.append(_to_host(_call(train, outer, inner, mesh, replicated, index)))
        if progress is not None:
            progress(min(start + chunk, total), total)
    flat = jax.tree.map(lambda *x: _concatenate(x)[:total], *parts)
    return GridResult(axes, jax.tree.map(partial(_unflatten, axes, outer, inner), flat))


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


def _as_axis(name, values):
    values = jnp.asarray(values) if isinstance(values, list) else values
    values = jax.tree.map(jnp.asarray, values)
    lengths = {x.shape[:1] for x in jax.tree.leaves(values)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"axis {name!r} must be an array, or a pytree of arrays that share the "
            f"length of their leading axis; got leading axes {sorted(lengths)}."
        )
    return values


def _check_names(names, axes):
    unknown = [name for name in names if name not in axes]
    if unknown:
        raise ValueError(f"expected names among {list(axes)}; got {unknown}.")


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


def _to_host(values):
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(values, tiled=True)
    return jax.device_get(values)


def _concatenate(parts):
    # Typed keys, such as a network's random state, stay JAX arrays.
    library = jnp if isinstance(parts[0], jax.Array) else np
    return library.concatenate(parts)


def _unflatten(axes, outer, inner, x):
    """Restores the axes of the grid, in their order, from the flat ones."""
    names = outer + inner
    rest = x.shape[2 if inner else 1 :]
    order = [names.index(name) for name in axes]
    tail = range(len(names), len(names) + len(rest))
    return x.reshape(_shape(axes, names) + rest).transpose(*order, *tail)
