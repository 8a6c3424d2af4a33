"""Which parameters a transform acts on, for any kind of parameter tree.

A mask is a pytree of booleans that is a prefix of the parameters, or a function
that makes one from the parameters; both are what Optax calls a mask and work in
`optax.masked` too. The ready masks below read the names on the way to a parameter,
joined by "/": `"encoder/Dense_0/kernel"`. The names are those of Linen dictionaries
(an outer "params" is left out), NNX states, NamedTuple fields, and the indices of
lists. Boxes around a parameter (`nn.Partitioned`, `nnx.Param`) add no name.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path, tree_map_with_path
from jaxtyping import PyTree

from lagrange_jax.types import Path

__all__ = ["Mask", "by_path", "head_only", "kernels_only"]

Mask = PyTree[bool] | Callable[[Any], PyTree[bool]]
"""Booleans, a prefix of the parameters, or a function from parameters to these."""


def by_path(pattern: str | Callable[[str], Any]) -> Callable[[Any], PyTree[bool]]:
    """Selects parameters by their path.

    Args:
      pattern: a regular expression that must match the whole path, such as
        `r"(encoder/.*|head)/kernel"`, or a predicate of the path.

    Returns:
      A function from parameters to a mask. It raises a ValueError that lists the
      paths where nothing is selected: a mask that misses is a silent mistake.
    """
    matches = pattern if callable(pattern) else re.compile(pattern).fullmatch

    def mask(params: Any) -> PyTree[bool]:
        _check_params(params)
        paths = tree_map_with_path(lambda p, _: _name(p), params, is_leaf=_is_box)
        selected = jax.tree.map(lambda path: bool(matches(path)), paths)
        if not any(jax.tree.leaves(selected)):
            raise ValueError(
                f"the mask {pattern!r} selects no parameter; expected a match among "
                f"the paths {jax.tree.leaves(paths)}"
            )
        return selected

    return mask


def head_only(path: Path | str) -> Callable[[Any], PyTree[bool]]:
    """Selects everything at or below `path`: a whole layer, or one array of it.

    Args:
      path: names from the root of the parameters, such as `Model.head`, or joined
        by "/". With `(*model.head, "kernel")` the bias is left out.

    Returns:
      A function from parameters to a mask, as `by_path` returns it.
    """
    name = path if isinstance(path, str) else "/".join(map(str, path))
    return by_path(re.escape(name) + "(/.*)?")


def kernels_only(params: Any) -> PyTree[bool]:
    """Selects the arrays named "kernel": no bias, no normalisation scale."""
    return by_path("(.*/)?kernel")(params)


def map_selected(
    function: Callable[..., jax.Array],
    mask: Mask | None,
    updates: Any,
    params: Any,
    *values: PyTree,
) -> Any:
    """Returns `updates` with `function(update, param, *values)` where selected.

    Args:
      function: elementwise arithmetic on arrays of one dtype, at least float32: a
        threshold that is small beside a weight must not be lost in bfloat16.
      mask: what to select; None for everything.
      updates: a tree like `params`. None leaves and leaves that are not selected
        come back as they are; the others have the dtype of `update + param`.
      params: the parameters.
      *values: numbers, or trees of numbers that are prefixes of `params`.
    """
    mask = True if mask is None else mask(params) if callable(mask) else mask
    prefixes = [
        jax.tree.broadcast(prefix, params, is_leaf=_is_none)
        for prefix in (mask, *values)
    ]

    def leaf(update: Any, param: Any, selected: Any, *numbers: Any) -> Any:
        if update is None or not selected:
            return update
        dtype = np.promote_types(update.dtype, param.dtype)
        wide = np.promote_types(dtype, np.float32)
        arrays = (jnp.asarray(x, wide) for x in (update, param, *numbers))
        return function(*arrays).astype(dtype)

    return jax.tree.map(leaf, updates, params, *prefixes, is_leaf=_is_none)


def _check_params(params: Any) -> None:
    """Raises if a step count came in place of parameters."""
    if hasattr(params, "shape") and params.shape == ():
        raise TypeError(
            "expected the parameters; got a number. optax.inject_hyperparams takes a "
            "mask that is a function for a schedule, and calls it with the step: pass "
            'static_args=("mask",) to inject_hyperparams.'
        )


def _name(path: tuple[Any, ...]) -> str:
    return keystr(path, simple=True, separator="/").removeprefix("params/")


def _is_none(node: Any) -> bool:
    return node is None


def _is_box(node: Any) -> bool:
    """Whether `node` only wraps one array as `.value`, as Flax's boxes do."""
    children, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [path for path, _ in children] == [(GetAttrKey("value"),)]
