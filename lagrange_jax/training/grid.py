"""A whole grid of training runs in one call.

`run_grid` flattens the axes of a grid, maps one pure function over the flat index and
compiles it once. Several devices, of one host or of many, each take a share of the
index and never speak to each other; chunks bound the memory, report progress and, with
a folder, survive a stop.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from lagrange_jax._checks import (
    require_callable,
    require_count,
    require_kind,
    require_numbers,
)
from lagrange_jax._progress import announce
from lagrange_jax.training._memory import choose_size
from lagrange_jax.training._plan import (
    AXIS,
    GridPlan,
    check_names,
    concatenate,
    merge_parts,
    plan_grid,
    run_part,
)
from lagrange_jax.training._resume import identify, run_resumable
from lagrange_jax.training._status import warn_unsolved

__all__ = ["GridResult", "grid_mesh", "run_grid"]

SIZES = "num_examples"


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


def grid_mesh(devices: Sequence[Any] | None = None) -> Mesh:
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
    axes: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    configuration: Mapping[str, Any] | None = None,
    vmap_axes: Sequence[str] | None = None,
    group_sizes: bool = False,
    mesh: Mesh | None = None,
    chunk_size: int | None = None,
    memory_limit: float | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> GridResult:
    r"""Calls `train` for every combination of the axes' values, compiled once.

    Arrays that `train` closes over, such as its data, are arguments of the compiled
    program: one that differs in their values alone is not compiled again.

    Numbers: the same devices and the same `chunk_size` give the same bits, also after
    a stop. Other devices or chunks are other programs, whose sums may be ordered
    otherwise: each operation then agrees to a few $\epsilon$ of its dtype, and a
    training of T steps amplifies that as it amplifies any change of its start. By
    default TPUs round the factors of a network's products to bfloat16 and GPUs to TF32;
    `jax_default_matmul_precision` asks for more, which heads always do.

    Where heads were solved for and some have another status than `SUCCESS`, a line in
    the log counts them; `summarize(result)` tells more.

    Args:
      train: a pure function of keyword arguments named as the axes, such as
        `make_train` returns, or one that calls it.
      axes: by the name of the argument, its values: an array, or a pytree with that
        leading axis. For `make_train` these are `strength`, `num_examples`, `key`.
      folder: where every chunk is saved as soon as it is finished. The same call goes
        on from there after a stop, on any devices; a chunk that was damaged on disk,
        which a digest tells, is computed again. With several processes the first alone
        reads and writes it.
      configuration: what the results in the folder belong to beside the axes, as
        JSON, such as `{"network": "mlp", "learning_rate": 0.1}`: whatever decides
        the results belongs here. None takes the program itself with all arrays in it,
        which changes with the version of JAX and cannot see Python callbacks.
      vmap_axes: names of the axes that are vectorised. None means all of them, what
        an accelerator wants. The combinations of the other axes then run one after
        another on each device, so that a loop may be as long as each needs.
      group_sizes: whether the values of `num_examples` from one power of two to the
        next share a program that holds no more examples than they use. Otherwise all
        members do the work of the largest. It pays where training takes longer than
        compiling one program a power of two.
      mesh: devices that share the work; `grid_mesh()` of all devices by default.
      chunk_size: combinations a call works on, of the axes that are not in
        `vmap_axes`, or of all where that is None. None means all, or a tenth with a
        `folder` or `progress`. It is rounded up to a multiple of the devices. All
        chunks run the same compiled program, the last one padded.
      memory_limit: bytes that the program may take on each device, by its compiler;
        chunks are made as small as it takes. None means what the device says to have
        left, and no limit where it does not say, as on a CPU.
      progress: `progress(done, total)` is called after every chunk. Without it, a
        line in the log tells how far a long run is.

    Returns:
      The results, on the host of every process.

    Raises:
      ValueError: if `vmap_axes` names an axis that the grid does not have, sizes are
        beyond the data, one combination takes more than `memory_limit`, or the folder
        holds results of something else.
      TypeError: if an argument is of another kind.
      OSError: if the folder cannot be written or is full, or another run is at work
        in it. Finished chunks are safe.
    """
    arrays = _check(train, axes, vmap_axes, mesh, chunk_size)
    mesh = grid_mesh() if mesh is None else mesh
    groups = _groups(arrays) if group_sizes else {"": None}
    plans = {
        name: plan_grid(train, _part(arrays, rows), mesh, vmap_axes)
        for name, rows in groups.items()
    }
    done, total = 0, sum(plan.total for plan in plans.values())
    in_steps = folder is not None or progress is not None
    values = []

    def report(count: int) -> None:
        if progress is not None:
            progress(done + count, total)

    for name, plan in plans.items():
        with _announce_run(progress, plan):
            size = choose_size(plan, chunk_size, memory_limit, in_steps)
            if folder is None:
                flat = _run_chunks(plan, size, report)
            else:
                identity = identify(plan, configuration)
                flat = run_resumable(plan, size, Path(folder, name), identity, report)
        values.append(merge_parts(plan, flat))
        done += plan.total
    result = GridResult(arrays, _join(values, groups, arrays))
    warn_unsolved(result.values)
    return result


def _check(train, axes, vmap_axes, mesh, chunk_size) -> dict[str, Any]:
    """Returns the axes as arrays; raises if an argument is of another kind."""
    require_callable("train", train)
    require_kind("axes", axes, Mapping)
    require_kind("vmap_axes", () if vmap_axes is None else vmap_axes, Sequence)
    if mesh is not None:
        require_kind("mesh", mesh, Mesh)
    if chunk_size is not None:
        require_count("chunk_size", chunk_size)
    return {name: _as_axis(name, x) for name, x in axes.items()}


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


def _run_chunks(plan: GridPlan, size: int, report: Callable[[int], Any]) -> list[Any]:
    parts, step = [], size * plan.num_devices
    for start in range(0, plan.total, step):
        stop = min(start + step, plan.total)
        parts.append(run_part(plan, start, stop, size))
        report(stop)
    return parts


def _announce_run(progress, plan):
    """Says in the log that a grid is being computed, unless somebody is told."""
    if progress is not None or jax.process_index() > 0:
        return contextlib.nullcontext()
    return announce(lambda: f"running a grid of {plan.total} members", after=10.0)


def _groups(axes) -> dict[str, np.ndarray]:
    """Positions along `num_examples`, by the power of two that its values reach."""
    check_names([SIZES], axes)
    reached = np.ceil(np.log2(np.maximum(np.asarray(axes[SIZES]), 1))).astype(int)
    return {
        f"sizes-{2**power}": np.flatnonzero(reached == power)
        for power in np.unique(reached)
    }


def _part(axes, rows):
    return axes if rows is None else {**axes, SIZES: axes[SIZES][rows]}


def _join(values, groups, axes):
    """Returns the results of all groups as one, in the order of the axes."""
    if len(values) == 1:
        return values[0]
    axis = list(axes).index(SIZES)
    order = (slice(None),) * axis + (np.argsort(np.concatenate(list(groups.values()))),)
    return jax.tree.map(lambda *x: concatenate(x, axis)[order], *values)
