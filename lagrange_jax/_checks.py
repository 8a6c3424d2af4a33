"""Refusals of arguments, in words of our own and before JAX meets them.

Only what is known while tracing is looked at: kind, dtype and shape.
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "as_real",
    "require_callable",
    "require_count",
    "require_key",
    "require_kind",
    "require_numbers",
    "require_real",
    "require_record",
    "require_shapes",
]


def as_real(name: str, value: Any) -> Any:
    """Returns an array of real numbers as it is, and nested sequences as an array.

    Raises:
      TypeError: if it is no array of real numbers.
    """
    require_real(name, value)
    return value if hasattr(value, "dtype") else jnp.asarray(value)


def require_real(name: str, value: Any, *, floating: bool = False) -> tuple[int, ...]:
    """Returns the shape of an array of real numbers, or refuses what is none.

    Args:
      name: what the caller calls it.
      value: an array, a traced one, a number, or a nested sequence of numbers.
      floating: whether integers and booleans are refused too.

    Raises:
      TypeError: if it is no array of real numbers.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None and isinstance(value, int | float | Sequence):
        try:
            value = np.asarray(value)
        except ValueError:  # rows of unequal length
            value = np.asarray(None)
        dtype = value.dtype
    kinds = [jnp.floating] if floating else [jnp.floating, jnp.integer, jnp.bool_]
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        wanted = "floating-point" if floating else "real"
        found = type(value).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(f"expected {name} as {wanted} numbers; got {found}.")
    return tuple(value.shape)


def require_numbers(name: str, tree: Any) -> None:
    """Refuses a pytree with leaves that no array of JAX can hold, such as text.

    Args:
      name: what the caller calls it.
      tree: any pytree, such as the inputs of a network.

    Raises:
      TypeError: if a leaf is no array of numbers, complex ones included, or keys.
    """
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        dtype = np.result_type(type(leaf)) if dtype is None else dtype
        kinds = jnp.number, jnp.bool_, jax.dtypes.extended
        if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
            raise TypeError(f"expected {name} as arrays of numbers; got {leaf!r}.")


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is no integer known while tracing, or is less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} as an integer; got {value!r}.") from None
    if number < least:
        raise ValueError(f"expected {name} of at least {least}; got {value}.")


def require_callable(name: str, value: Any) -> None:
    """Refuses what is no function."""
    if not callable(value):
        raise TypeError(f"expected {name} as a function; got {type(value).__name__}.")


def require_kind(name: str, value: Any, kind: type) -> None:
    """Refuses what is not of this class."""
    if not isinstance(value, kind):
        raise TypeError(
            f"expected {name} as {kind.__name__}; got {type(value).__name__}."
        )


def require_key(key: Any) -> None:
    """Refuses what is no PRNG key; an old-style one is an array of uint32."""
    dtype = getattr(key, "dtype", np.dtype(object))
    if dtype != np.uint32 and not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"expected key as jax.random.key(...) makes it; got {type(key).__name__}."
        )


def require_shapes(
    dims: dict[str, str], arrays: dict[str, Any], **sizes: int
) -> list[Any]:
    """Refuses arrays whose shapes do not agree with one another.

    Args:
      dims: by name, the wanted axes, such as `"n d"` or `"1 k"`; a single name with a
        star stands for any number of axes.
      arrays: by name, the arrays; None stands for an argument left out.
      **sizes: sizes of axes that are known beforehand.

    Returns:
      The arrays, nested sequences among them as arrays.

    Raises:
      TypeError: if one is no array of real numbers.
      ValueError: if a rank or a length is not as wanted.
    """
    for name, value in arrays.items():
        if value is None:
            continue
        shape, axes = require_real(name, value), dims[name].split()
        if dims[name].startswith("*"):
            num_axes = sizes.setdefault(dims[name], len(shape))
            axes = [f"{dims[name][1:]}{i}" for i in range(num_axes)]
        fits = len(shape) == len(axes)
        for axis, size in zip(axes, shape, strict=False):
            wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            fits = fits and size == wanted
        if not fits:
            known = ", ".join(
                f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes
            )
            raise ValueError(f"expected {name} of shape [{known}]; got {list(shape)}.")
    return [x if x is None else as_real(name, x) for name, x in arrays.items()]


def require_record(name: str, value: Any, kind: type) -> None:
    """Refuses what is not a record of this kind, or whose shapes do not agree.

    The wanted shapes are the annotations of the record.

    Args:
      name: what the caller calls it.
      value: the record.
      kind: a NamedTuple with jaxtyping annotations.

    Raises:
      TypeError: if it is of another kind, or a field is no array of real numbers.
      ValueError: if the shapes of its fields do not agree.
    """
    require_kind(name, value, kind)
    dims = {
        f"{name}.{field}": annotation.dim_str
        for field, annotation in kind.__annotations__.items()
        if hasattr(annotation, "dim_str")
    }
    arrays = {field: getattr(value, field.removeprefix(f"{name}.")) for field in dims}
    require_shapes(dims, arrays)
