"""Results in forms that other tools read: rows, CSV, xarray, and a few lines of text.

A `GridResult` stays what it is, a record of arrays; these are plain functions of it.
Parts of a value have names, joined by "." where they are nested, such as
`validation_loss` or `info.objective`.
"""

import csv
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from lagrange_jax._checks import require_kind
from lagrange_jax.solvers.solution import HeadSolution, Status
from lagrange_jax.training.grid import GridResult

if TYPE_CHECKING:
    import xarray

__all__ = ["TRAIN_DIMS", "summarize", "to_rows", "to_xarray", "write_csv"]

TRAIN_DIMS = {
    "train_loss": ("record",),
    "validation_loss": ("record",),
    "kernel_norm": ("record", "layer"),
}
"""Names of the axes behind those of the grid, for a grid of `TrainResult`."""

# Parts of a `TrainResult` that are networks, not results.
LEFT_OUT = ("variables", "info")


def to_rows(
    result: GridResult, fields: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields one flat dictionary for every combination of the grid's values.

    The columns are the axes of the grid, then the fields. An axis that is not a
    vector of numbers, such as that of the keys, is given by its index. An array has
    one column an entry, as in `validation_loss[3]`.

    Args:
      result: what `run_grid` returned.
      fields: names of the parts of the values to keep, whole branches included; None
        for all but the `variables` and `info` of a `TrainResult`.

    Returns:
      An iterator of rows of NumPy scalars, in the order of the grid.

    Raises:
      ValueError: if a field is unknown.
    """
    require_kind("result", result, GridResult)
    values = _named_values(result.values, fields)
    axes = {name: _coordinates(axis) for name, axis in result.axes.items()}
    for index in itertools.product(*(range(len(axis)) for axis in axes.values())):
        row = {
            name: axis[i] for (name, axis), i in zip(axes.items(), index, strict=True)
        }
        for name, array in values.items():
            entry = array[index]
            for place in np.ndindex(entry.shape):
                suffix = f"[{','.join(map(str, place))}]" if place else ""
                row[name + suffix] = entry[place]
        yield row


def write_csv(
    result: GridResult, path: str | os.PathLike, fields: Sequence[str] | None = None
) -> None:
    """Writes `to_rows` as CSV with a header, in the shortest exact decimals.

    Args:
      result: what `run_grid` returned.
      path: the file, overwritten if it exists.
      fields: as in `to_rows`.

    Raises:
      ValueError: if a field is unknown.
    """
    rows = to_rows(result, fields)
    first = next(rows)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(first)
        for row in itertools.chain([first], rows):
            # csv takes repr of a float64, "np.float64(1.0)"; str is the bare number.
            writer.writerow([str(value) for value in row.values()])


def to_xarray(
    result: GridResult,
    fields: Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] = TRAIN_DIMS,
) -> "xarray.Dataset":
    """Returns a grid as an xarray `Dataset`, its axes as labelled dimensions.

    Needs the extra `xarray`.

    Args:
      result: what `run_grid` returned.
      fields: as in `to_rows`.
      dims: names of the axes behind those of the grid, by field; an axis without one
        is named after its field.

    Returns:
      The dataset, one variable a field.

    Raises:
      ValueError: if a field is unknown.
    """
    import xarray

    require_kind("result", result, GridResult)
    variables = {}
    for name, array in _named_values(result.values, fields).items():
        rest = array.ndim - len(result.axes)
        names = dims.get(name, [f"{name}_{i}" for i in range(rest)])
        variables[name] = ([*result.axes, *names], array)
    axes = {name: _coordinates(axis) for name, axis in result.axes.items()}
    return xarray.Dataset(variables, axes)


def summarize(info: Any) -> str:
    """Describes solved heads in a few lines, for a terminal, a log or a notebook.

    Args:
      info: a `HeadSolution`, or any pytree that holds some, such as the info of
        `initialize`; batched or not.

    Returns:
      The text. Of quantities with many values it gives the range.
    """
    leaves = jax.tree.leaves(info, is_leaf=lambda x: isinstance(x, HeadSolution))
    found = [x for x in leaves if isinstance(x, HeadSolution)]
    return "\n".join(map(_summarize_one, found)) or "no solved heads"


def _summarize_one(solution):
    *batch, d, k = np.shape(solution.kernel)
    status = np.ravel(solution.status)
    head = f"head {d} x {k}" + (f", {status.size} of them" if batch else "")
    outcome = {Status(code).name: int((status == code).sum()) for code in status}
    said = ", ".join(f"{name} {count}" for name, count in outcome.items())
    lines = [
        f"{head}: {said if batch else next(iter(outcome))}",
        f"  loss               {_range(solution.objective)}",
        f"  squared norm       {_range(solution.norm_sq)}",
        f"  multiplier         {_range(solution.multiplier)}",
        f"  KKT residual       {_range(solution.stationarity)}",
        f"  above the optimum  at most {float(np.max(solution.gap_bound)):.4g}",
    ]
    if np.any(solution.is_hard_case):
        lines.append("  hard case          the data leave part of the kernel free")
    return "\n".join(lines)


def _range(values):
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _named_values(values, fields):
    """The arrays of a value by name, those wanted; keys and the like are left out."""
    named = {
        keystr(path, simple=True, separator="."): leaf
        for path, leaf in tree_leaves_with_path(values)
    }
    named = {name: np.asarray(x) for name, x in named.items() if _is_number(x)}
    if fields is None:
        return {n: x for n, x in named.items() if n.split(".")[0] not in LEFT_OUT}
    wanted = {f: [n for n in named if n == f or n.startswith(f"{f}.")] for f in fields}
    missing = [field for field, names in wanted.items() if not names]
    if missing:
        raise ValueError(f"expected fields among {list(named)}; got {missing}.")
    return {name: named[name] for names in wanted.values() for name in names}


def _is_number(x):
    return not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _coordinates(axis):
    """The values of an axis of the grid, or their indices where they are no numbers."""
    if isinstance(axis, np.ndarray | jax.Array) and axis.ndim == 1 and _is_number(axis):
        return np.asarray(axis)
    return np.arange(len(jax.tree.leaves(axis)[0]))
