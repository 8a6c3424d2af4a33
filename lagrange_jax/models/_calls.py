"""How a network is called: arguments, randomness, named axes, selected outputs."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lagrange_jax.batches import as_inputs

__all__ = [
    "arrange",
    "as_example",
    "bind_axes",
    "make_zeros",
    "own_keys",
    "parameters",
    "require_training",
    "select",
]

_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)

_SWITCHES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Arguments by which networks are told to train, and what tells them so."""


def as_example(example_inputs: Any) -> Any:
    """Returns an example of two rows, of arrays or of `jax.ShapeDtypeStruct`.

    A tuple of integers is the shape of an array of float32. Where arrays differ in
    their leading axes (a graph's nodes and edges) they are left whole.

    Raises:
      ValueError: if there are no rows.
    """
    is_shape = isinstance(example_inputs, tuple) and len(example_inputs) > 0
    if is_shape and all(type(size) is int for size in example_inputs):
        example_inputs = jax.ShapeDtypeStruct(example_inputs, jnp.float32)
    example = as_inputs(example_inputs)
    sizes = {x.shape[0] for x in jax.tree.leaves(example) if x.ndim}
    if 0 in sizes:
        raise ValueError(
            "expected example_inputs of at least one row; got an array of none."
        )
    return example if len(sizes) != 1 else jax.tree.map(_first_rows, example)


def _first_rows(x: Any) -> Any:
    if x.ndim and isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((min(len(x), 2), *x.shape[1:]), x.dtype)
    return x[:2] if x.ndim else x


def make_zeros(example: Any) -> Any:
    """Returns an example with zeros in the place of shapes."""
    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
    zeros = lambda x: jnp.zeros(x.shape, x.dtype) if is_shape(x) else x  # noqa: E731
    return jax.tree.map(zeros, example)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a bound method, none where they cannot be seen."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def arrange(
    wanted: Mapping[str, inspect.Parameter], inputs: Any, kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments that a network is called with.

    A plain tuple holds positional arguments where the network takes several; a plain
    dictionary holds keyword arguments where its keys are names of parameters and leave
    none out; anything else is one argument, whatever its structure.

    Args:
      wanted: the network's parameters.
      inputs: what stands for the inputs in a batch.
      kwargs: what else is passed, by name.

    Raises:
      ValueError: an argument is missing.
    """
    rest = {name: p for name, p in wanted.items() if name not in kwargs}
    positional = [p for p in rest.values() if p.kind in _POSITIONAL]
    by_name = [p for p in rest.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in rest.values())
    needed = [p.name for p in (*positional, *by_name) if p.default is p.empty]
    if type(inputs) is dict and inputs:
        names = {p.name for p in (*positional, *by_name)}
        if set(inputs) <= names and set(needed) <= set(inputs):
            return (), {**inputs, **kwargs}
    args = (inputs,)
    if type(inputs) is tuple:
        several = takes_any or len(positional) > 1 or len(inputs) == 1
        args = inputs if several else args
    elif not positional and not takes_any and by_name:
        first = (needed or [by_name[0].name])[0]
        args, kwargs = (), {first: inputs, **kwargs}
    given = {p.name for p in positional[: len(args)]} | set(kwargs)
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(
            f"the network's __call__ also needs {', '.join(map(repr, missing))}. Pass "
            "inputs as a tuple of its positional arguments, (x, mask), or as a "
            "dictionary of arguments by name; and what is the same for all examples "
            "in train_kwargs and eval_kwargs."
        )
    return args, dict(kwargs)


def require_training(
    wanted: Mapping[str, inspect.Parameter], tap_mode: str, kwargs: Mapping[str, Any]
) -> None:
    """Refuses taps of a training pass that would run in inference mode.

    Args:
      wanted: the network's parameters.
      tap_mode: "inference" or "training".
      kwargs: what the training pass is given by name.

    Raises:
      ValueError: if a switch such as `train` is left at a default that is off.
    """
    if tap_mode != "training":
        return
    for name, value in _SWITCHES.items():
        is_off = name in wanted and wanted[name].default is (not value)
        if is_off and name not in kwargs:
            raise ValueError(
                f'expected train_kwargs={{"{name}": {value}}} with '
                f'tap_mode="training"; got {sorted(kwargs)}, and without it the '
                "training pass would be one of inference."
            )


def own_keys(kwargs: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
    """Returns `kwargs` with every PRNG key in them drawn from `key`."""

    def fresh(index, value):
        if not isinstance(value, jax.Array):
            return value
        new = jax.random.fold_in(key, index)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return jax.random.split(new, value.shape) if value.shape else new
        is_old = value.dtype == jnp.uint32 and value.shape == (2,)
        return jax.random.key_data(new) if is_old else value

    return {name: fresh(i, x) for i, (name, x) in enumerate(kwargs.items())}


def bind_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function see axes of one device where it names some that are not there.

    `BatchNorm(axis_name="batch")` averages over them. Inside a `shard_map` or `vmap`
    that has the axis, that one is seen.
    """

    def bound(*args, **kwargs):
        call = lambda: function(*args, **kwargs)  # noqa: E731
        names = []
        while True:
            try:
                return call()
            except NameError as error:
                found = re.search(r"axis name:?\s*'?(\w+)", str(error))
                if found is None or found[1] in names:
                    raise
                names.append(found[1])
                call = _with_axis(call, found[1])

    return bound


def _with_axis(call, name):
    def on_axis():
        batched = jax.vmap(lambda _: call(), axis_name=name, axis_size=1)
        return jax.tree.map(lambda x: x[0], batched(jnp.zeros(1)))

    return on_axis


Output = str | int | tuple[str | int, ...] | Callable[[Any], Any] | None


def select(outputs: Any, output: Output) -> jax.Array:
    """Returns the array that a head puts out among all that a network returns.

    Args:
      outputs: what the network returned.
      output: a name, an index, a path of these, or a function; None for the only
        array.

    Raises:
      ValueError: there is none, or several and none was named.
    """
    if callable(output):
        chosen = output(outputs)
    else:
        path = () if output is None else output
        chosen = outputs
        for name in path if isinstance(path, tuple) else (path,):
            chosen = _part(chosen, name, outputs)
    if hasattr(chosen, "shape"):
        return chosen
    leaves = jax.tree.leaves(chosen)
    if len(leaves) == 1 and hasattr(leaves[0], "shape"):
        return leaves[0]
    raise ValueError(
        f"the output of the network is a {type(chosen).__name__}, not one array: say "
        f"which with output=... (a name, an index, a path of these, or a function). "
        f"It holds {_describe(chosen)}."
    )


def _part(node: Any, name: str | int, outputs: Any) -> Any:
    try:
        return node[name]
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    if isinstance(name, str) and hasattr(node, name):
        return getattr(node, name)
    raise ValueError(
        f"the output of the network has no part {name!r}; it holds "
        f"{_describe(outputs)}."
    )


def _describe(outputs: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    parts = [
        f"{jax.tree_util.keystr(path)} {list(getattr(leaf, 'shape', ()))}"
        for path, leaf in leaves[:12]
    ]
    return ", ".join(parts) + (", ..." if len(leaves) > 12 else "") or "nothing"
