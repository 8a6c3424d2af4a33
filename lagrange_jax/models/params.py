"""Reading and writing one layer of a variables dictionary."""

from collections.abc import Mapping
from typing import Any

import jax

from lagrange_jax._checks import require_shapes
from lagrange_jax.types import Path, Variables

__all__ = ["get_layer", "set_layer"]


def _is_boxed(value: Any) -> bool:
    """Whether Flax keeps partitioning names beside the array; Flax is not imported."""
    return hasattr(value, "unbox") and hasattr(value, "replace_boxed")


def _unbox(value: Any) -> Any:
    return value.unbox() if _is_boxed(value) else value


def _rebox(old: Any, new: jax.Array) -> Any:
    value = new.astype(_unbox(old).dtype)
    return old.replace_boxed(value) if _is_boxed(old) else value


def _params(variables):
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise TypeError(
            'expected variables as a dictionary that has "params"; got '
            f"{type(variables).__name__}."
        )
    return variables["params"]


def get_layer(variables: Variables, path: Path) -> dict[str, jax.Array]:
    """Returns the arrays of the layer at `path` ("kernel", "bias"), unboxed.

    Raises:
      ValueError: if there is no such layer.
    """
    node: Any = _params(variables)
    if not isinstance(path, tuple):
        raise TypeError(f"expected path as a tuple of names; got {path!r}.")
    for name in path:
        if not isinstance(node, Mapping) or name not in node:
            found = sorted(map(str, node)) if isinstance(node, Mapping) else "an array"
            raise ValueError(f"no layer at path {path}: at {name!r} there is {found}.")
        node = node[name]
    return {name: _unbox(value) for name, value in node.items()}


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

    def rewrite(node: Any, rest: Path) -> Any:
        if rest:
            return {**node, rest[0]: rewrite(node[rest[0]], rest[1:])}
        return {**node, **{k: _rebox(node[k], v) for k, v in arrays.items()}}

    return {**variables, "params": rewrite(variables["params"], path)}
