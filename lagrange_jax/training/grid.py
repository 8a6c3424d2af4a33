"""A whole grid of training runs in one call.

`run_grid` flattens the axes of a `Grid`, maps one pure function over the flat index
and compiles it once. Several devices, of one host or of many, each take a share of the
index and never speak to each other; chunks bound the memory and report progress.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from lagrange_jax._checks import (
    require_callable,
    require_count,
    require_kind,
    require_numbers,
    require_shapes,
)
from lagrange_jax.training._plan import (
    AXIS,
    GridPlan,
    bytes_per_device,
    check_names,
    merge_parts,
    plan_grid,
    run_part,
)

__all__ = ["Grid", "GridResult", "chunk_size_for", "make_mesh", "plan_of", "run_grid"]


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
        check_names(indices, self.axes)
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
    plan = plan_of(train, grid, mesh, together)
    total, size = plan.total, plan.mesh.size
    chunk_size = total if chunk_size is None else chunk_size
    require_count("chunk_size", chunk_size)
    chunk = -(-min(chunk_size, total) // size) * size
    parts = []
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        parts.append(run_part(plan, start, stop, chunk))
        if progress is not None:
            progress(stop, total)
    return GridResult(plan.axes, merge_parts(plan, parts))


def chunk_size_for(
    train: Callable[..., Any],
    grid: Grid,
    memory_limit: float,
    *,
    together: Sequence[str] | None = None,
    mesh: Mesh | None = None,
) -> int:
    """Returns a `chunk_size` with which a grid stays within a memory limit.

    The compiler is asked, not the device: the program is compiled for one combination
    a device, for all of them and for the size in between that the limit suggests, and
    nothing is run. What counts is the program's arguments, temporaries and results;
    the results of earlier chunks lie on the host.

    Args:
      train: as for `run_grid`.
      grid: the axes.
      memory_limit: bytes that the program may take on each device.
      together: as for `run_grid`.
      mesh: as for `run_grid`.

    Returns:
      The size, a multiple of the number of devices, or the whole grid.

    Raises:
      ValueError: if one combination a device is too much already.
    """
    require_shapes({"memory_limit": ""}, {"memory_limit": memory_limit})
    plan = plan_of(train, grid, mesh, together)
    most = -(-plan.total // plan.mesh.size)
    least_bytes, most_bytes = bytes_per_device(plan, 1), bytes_per_device(plan, most)
    if not memory_limit >= least_bytes:  # NaN is not, either
        raise ValueError(
            f"expected a memory_limit of at least {least_bytes} bytes, what one "
            f"combination a device takes; got {memory_limit}. Return less from the "
            "function, or leave axes out of `together`."
        )
    if most_bytes <= memory_limit:
        return plan.total
    # Affine in the size, but for what the compiler rounds.
    share = (memory_limit - least_bytes) / (most_bytes - least_bytes)
    size = 1 + int(share * (most - 1))
    while size > 1 and (found := bytes_per_device(plan, size)) > memory_limit:
        size = max(1, min(size - 1, int(size * memory_limit / found)))
    return size * plan.mesh.size


def plan_of(
    train: Callable[..., Any],
    grid: Grid,
    mesh: Mesh | None,
    together: Sequence[str] | None,
) -> GridPlan:
    """Returns the plan of a grid on a mesh, or on all devices.

    Raises:
      TypeError: if an argument is of another kind.
      ValueError: if `together` names an axis that the grid does not have.
    """
    mesh = make_mesh() if mesh is None else mesh
    require_callable("train", train)
    require_kind("grid", grid, Grid)
    require_kind("mesh", mesh, Mesh)
    require_kind("together", () if together is None else together, Sequence)
    return plan_grid(train, grid.axes, mesh, together)


def _as_axis(name, values):
    require_numbers(f"axis {name!r}", values)
    values = jnp.asarray(values) if isinstance(values, list) else values
    values = jax.tree.map(jnp.asarray, values)
    lengths = {x.shape[:1] for x in jax.tree.leaves(values)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"axis {name!r} must be an array, or a pytree of arrays that share the "
            f"length of their leading axis, at least one; got {sorted(lengths)}."
        )
    return values
