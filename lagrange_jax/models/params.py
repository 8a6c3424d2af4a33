"""Reading and writing one layer, or the head, of a variables dictionary."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lagrange_jax._checks import require_shapes
from lagrange_jax.types import HeadLayout, Model, Path, Variables

__all__ = [
    "HeadArrays",
    "from_matrix",
    "get_head",
    "get_layer",
    "read_array",
    "set_head",
    "set_layer",
    "to_matrix",
    "write_array",
]


class HeadArrays(NamedTuple):
    """The head as a matrix `[d, k]` and a bias `[k]`, or None without one."""

    kernel: jax.Array
    bias: jax.Array | None


def _is_boxed(value: Any) -> bool:
    """Whether Flax keeps partitioning names beside the array; Flax is not imported."""
    return hasattr(value, "unbox") and hasattr(value, "replace_boxed")


def _unbox(value: Any) -> Any:
    # A box may ask for a sharding as it is opened, which abstract arrays cannot have.
    return value.unbox(apply_constraint=False) if _is_boxed(value) else value


def _rebox(old: Any, new: Any) -> Any:
    value = jnp.asarray(new).astype(_unbox(old).dtype)
    return old.replace_boxed(value) if _is_boxed(old) else value


def _params(variables):
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise TypeError(
            'expected variables as a dictionary that has "params"; got '
            f"{type(variables).__name__}."
        )
    return variables["params"]


def _own_key(node: Any, name: str | int, path: Path) -> Any:
    """Returns the key of `node` that means `name`; Orbax turns 2 into "2"."""
    if isinstance(node, Mapping):
        for key in (name, str(name)):
            if key in node:
                return key
    found = sorted(map(str, node)) if isinstance(node, Mapping) else "an array"
    raise ValueError(f"no layer at path {path}: at {name!r} there is {found}.")


def _read(node: Any, path: Path) -> Any:
    for name in path:
        node = node[_own_key(node, name, path)]
    return node


def _write(node: Any, path: Path, change: Callable[[Any], Any], whole: Path) -> Any:
    if not path:
        return change(node)
    key = _own_key(node, path[0], whole)
    return {**node, key: _write(node[key], path[1:], change, whole)}


def get_layer(variables: Variables, path: Path) -> dict[str, jax.Array]:
    """Returns the arrays of the layer at `path` ("kernel", "bias"), unboxed.

    Raises:
      ValueError: if there is no such layer.
    """
    params = _params(variables)
    if not isinstance(path, tuple):
        raise TypeError(f"expected path as a tuple of names; got {path!r}.")
    layer = _read(params, path)
    if not isinstance(layer, Mapping):
        raise ValueError(f"no layer at path {path}: there is an array.")
    return {name: _unbox(value) for name, value in layer.items()}


def set_layer(variables: Variables, path: Path, **arrays: jax.Array) -> Variables:
    """Returns `variables` with the named arrays of one layer replaced.

    Shapes must agree with the old arrays; dtypes and Flax's partitioning boxes
    are kept. Nothing is changed in place.

    Raises:
      ValueError: if there is no such layer or array, or a shape differs.
    """
    layer = get_layer(variables, path)
    for name, array in arrays.items():
        if name not in layer:
            raise ValueError(f"no array {name!r} at path {path}: {sorted(layer)}.")
        sizes = {f"axis{i}": size for i, size in enumerate(layer[name].shape)}
        require_shapes({name: " ".join(sizes)}, {name: array}, **sizes)

    def change(node):
        return {**node, **{k: _rebox(node[k], v) for k, v in arrays.items()}}

    return {**variables, "params": _write(variables["params"], path, change, path)}


def to_matrix(kernel: jax.Array, layout: HeadLayout) -> jax.Array:
    """Returns the head's array of weights as a matrix `[d, k]`."""
    axes = (*layout.input_axes, *layout.output_axes)
    num_outputs = math.prod(kernel.shape[axis] for axis in layout.output_axes)
    return kernel.transpose(axes).reshape(-1, num_outputs)


def from_matrix(
    matrix: jax.Array, layout: HeadLayout, shape: tuple[int, ...]
) -> jax.Array:
    """Returns a matrix `[d, k]` in the shape of the head's array of weights."""
    axes = (*layout.input_axes, *layout.output_axes)
    back = [axes.index(axis) for axis in range(len(axes))]
    return matrix.reshape([shape[axis] for axis in axes]).transpose(back)


def read_array(variables: Variables, path: Path) -> jax.Array:
    """Returns one parameter, unboxed."""
    return _unbox(_read(_params(variables), path))


def write_array(variables: Variables, path: Path, value: jax.Array) -> Variables:
    """Returns `variables` with one parameter replaced; dtype and box are kept."""
    change = lambda old: _rebox(old, value)  # noqa: E731
    return {**variables, "params": _write(variables["params"], path, change, path)}


def _layout_of(model: Model, variables: Variables) -> HeadLayout:
    """Returns the model's layout, or that of a layer with a kernel `[d, k]`."""
    if model.layout is not None:
        return model.layout
    layer = get_layer(variables, model.head)
    bias = (*model.head, "bias") if "bias" in layer else None
    return HeadLayout((*model.head, "kernel"), bias)


def get_head(model: Model, variables: Variables) -> HeadArrays:
    """Returns the head of a network as a matrix and a bias.

    Args:
      model: the network.
      variables: its variables.

    Returns:
      The kernel `[d, k]` and the bias `[k]`, or None in its place, such that the
      network's output is `features @ kernel + bias` plus the tap's offset.

    Raises:
      ValueError: if there is no such layer.
    """
    layout = _layout_of(model, variables)
    kernel = to_matrix(read_array(variables, layout.kernel), layout)
    if layout.bias is None:
        return HeadArrays(kernel, None)
    bias = read_array(variables, layout.bias).reshape(-1)
    return HeadArrays(kernel, _scaled(bias, layout.bias_scale))


def _scaled(bias, scale):
    return bias if scale == 1 else bias * jnp.asarray(scale, bias.dtype)


def set_head(
    model: Model,
    variables: Variables,
    kernel: jax.Array,
    bias: jax.Array | None = None,
) -> Variables:
    """Returns `variables` with another head; dtypes and boxes are kept.

    Args:
      model: the network.
      variables: its variables.
      kernel: the matrix `[d, k]`.
      bias: the bias `[k]`; None leaves it as it is, and it is not looked at where the
        head has none.

    Raises:
      ValueError: if there is no such layer, or a shape differs.
    """
    layout = _layout_of(model, variables)
    old = get_head(model, variables)
    d, k = old.kernel.shape
    dims = dict(kernel="d k", bias="k")
    require_shapes(dims, dict(kernel=kernel, bias=bias), d=d, k=k)
    shape = read_array(variables, layout.kernel).shape
    array = from_matrix(jnp.asarray(kernel), layout, shape)
    variables = write_array(variables, layout.kernel, array)
    if layout.bias is None or bias is None:
        return variables
    array = _scaled(jnp.asarray(bias), 1 / layout.bias_scale)
    array = array.reshape(read_array(variables, layout.bias).shape)
    return write_array(variables, layout.bias, array)
