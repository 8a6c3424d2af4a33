"""Reading and writing one layer of a variables dictionary."""

from typing import Any

import jax
from flax.core import meta

from lagrange_jax.types import Path, Variables

__all__ = ["get_layer", "set_layer"]


def _unbox(value: Any) -> Any:
    return value.unbox() if isinstance(value, meta.AxisMetadata) else value


def _rebox(old: Any, new: jax.Array) -> Any:
    value = new.astype(_unbox(old).dtype)
    return old.replace_boxed(value) if isinstance(old, meta.AxisMetadata) else value


def get_layer(variables: Variables, path: Path) -> dict[str, jax.Array]:
    """Returns the arrays of the layer at `path` ("kernel", "bias"), unboxed."""
    node: Any = variables["params"]
    for name in path:
        node = node[name]
    return {name: _unbox(value) for name, value in node.items()}


def set_layer(variables: Variables, path: Path, **arrays: jax.Array) -> Variables:
    """Returns `variables` with the named arrays of one layer replaced.

    Shapes must agree with the old arrays; dtypes and Flax's partitioning boxes
    are kept. Nothing is changed in place.
    """

    def rewrite(node: Any, rest: Path) -> Any:
        if rest:
            return {**node, rest[0]: rewrite(node[rest[0]], rest[1:])}
        return {**node, **{k: _rebox(node[k], v) for k, v in arrays.items()}}

    return {**variables, "params": rewrite(variables["params"], path)}
