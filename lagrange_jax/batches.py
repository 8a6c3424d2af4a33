"""Arrays or a stream of batches, seen as one fold."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lagrange_jax._checks import require_count, require_numbers, require_real
from lagrange_jax._passes import Passes
from lagrange_jax.types import Batch, Batches

__all__ = ["as_batch", "as_batches", "as_inputs", "is_arrays", "require_examples"]

# Names by which the fields of a dictionary are known.
_TARGETS = ("targets", "target", "labels", "label", "y")
_WEIGHTS = ("weights", "weight", "sample_weights", "sample_weight")

_EXPECTED = "(inputs, targets) or (inputs, targets, weights)"


def is_arrays(data: Any) -> bool:
    """Whether `data` is one batch, not an iterable of batches.

    A batch is `(inputs, targets)` or `(inputs, targets, weights)`: a tuple, a list or
    a record of arrays, table columns or nested lists of numbers; or a dictionary.
    """
    if isinstance(data, Mapping) or hasattr(data, "targets"):
        return True
    if isinstance(data, list):  # of nested lists it could be a stream
        return len(data) in (2, 3) and any(hasattr(x, "shape") for x in data)
    return _is_pair(data)


def _is_pair(data: Any) -> bool:
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        return False
    is_known = hasattr(data[1], "shape") or isinstance(data[1], Mapping)
    return is_known or _is_numbers(data[1])


def _is_numbers(value: Any) -> bool:
    """Whether `value` is a nested list of numbers, judged by its first items."""
    if not isinstance(value, list):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float | np.number)


def _is_leaf(value: Any) -> bool:
    return hasattr(value, "to_numpy") or _is_numbers(value)


def _as_array(name: str, value: Any) -> Any:
    """Returns a table column or a nested list as an array, anything else as it is."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
        if value.dtype == object:
            value = _numbers(name, value)
    elif _is_numbers(value):
        value = _numbers(name, value)
    return value


def _numbers(name, value):
    try:
        return np.asarray(value, None if isinstance(value, list) else np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"expected {name} as arrays of numbers; got rows of unequal length, or "
            "entries that are missing or no numbers."
        ) from None


def as_inputs(tree: Any, name: str = "inputs") -> Any:
    """Returns a pytree with arrays in the place of table columns and nested lists.

    Raises:
      TypeError: if it holds something else than numbers.
    """
    tree = jax.tree.map(lambda x: _as_array(name, x), tree, is_leaf=_is_leaf)
    require_numbers(name, tree)
    known = jax.ShapeDtypeStruct, jax.Array
    return jax.tree.map(lambda x: x if isinstance(x, known) else jnp.asarray(x), tree)


def as_batches(data: Any, batch_size: int = 1024, *, by_head: bool = False) -> Batches:
    """Returns `data` as `Batches`.

    Args:
      data: one batch, or an iterable of batches. A batch is `(inputs, targets)` or
        `(inputs, targets, weights)`, a tuple, a list or a record of arrays; or a
        dictionary with one field "targets" ("labels", "label", "y"), perhaps one
        "weights", and inputs in all others. An iterator can be folded over only once;
        a list or a loader object as often as you like.
      batch_size: examples in one forward pass when `data` is one batch. The last pass
        takes what is left over; nothing is padded. A graph, whose arrays have
        different leading axes, is taken whole.
      by_head: whether targets are a dictionary of arrays, one a head; weights may be
        one as well.

    Returns:
      The `Batches`.

    Raises:
      ValueError: if there are no examples, or inputs, targets and weights have
        different lengths.
      TypeError: if `data` is neither arrays nor an iterable.
    """
    require_count("batch_size", batch_size)
    if is_arrays(data):
        return _from_arrays(as_batch(data, by_head=by_head), batch_size)
    if isinstance(data, Iterable) and not hasattr(data, "shape"):
        return _from_stream(data, partial(as_batch, by_head=by_head))
    raise TypeError(
        f"expected {_EXPECTED}, a dictionary, or an iterable of such batches; got "
        f"{type(data).__name__}."
    )


def require_examples(data: Any, *, by_head: bool = False) -> Batch:
    """Returns one batch as a `Batch` of the arrays that it holds.

    Args:
      data: one batch.
      by_head: as in `as_batches`.

    Raises:
      ValueError: if it is none.
      TypeError: if it holds something else than numbers.
    """
    if isinstance(data, Mapping):
        data = _from_fields(data)
    elif hasattr(data, "targets"):  # a record: other fields are not weights
        data = (data.inputs, data.targets, getattr(data, "weights", None))
    elif not is_arrays(data) and not _is_pair(data):
        raise ValueError(
            f"expected a batch {_EXPECTED}, or a dictionary; got {type(data).__name__}."
        )
    inputs, targets, weights = (*data, None)[:3]
    if isinstance(targets, Mapping) != by_head:
        found = sorted(map(str, targets)) if isinstance(targets, Mapping) else "one"
        wanted = "a dict of arrays, one a head" if by_head else "one array, that of the"
        raise ValueError(
            f"expected targets as {wanted}{'' if by_head else ' head'}; got {found}. "
            "Several heads are solved for by initializers.heads."
        )
    fields = dict(inputs=inputs, targets=targets, weights=weights)
    for name, value in fields.items():
        read = partial(_as_array, name)
        fields[name] = value = jax.tree.map(read, value, is_leaf=_is_leaf)
        check = require_numbers if name == "inputs" else require_real
        for leaf in [value] if name == "inputs" else jax.tree.leaves(value):
            check(name, leaf)
    return Batch(**fields)


def _from_fields(data: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    targets = [name for name in data if name in _TARGETS]
    weights = [name for name in data if name in _WEIGHTS]
    others = {n: x for n, x in data.items() if n not in (*targets, *weights)}
    if len(targets) != 1 or len(weights) > 1 or not others:
        raise ValueError(
            f"expected a dict of inputs, one of {_TARGETS} and perhaps one of "
            f"{_WEIGHTS}; got {sorted(map(str, data))}. Pass {_EXPECTED}."
        )
    inputs = others
    if len(others) == 1:
        [inputs] = others.values()
    return inputs, data[targets[0]], data[weights[0]] if weights else None


def as_batch(data: Any, *, by_head: bool = False) -> Batch:
    """Returns one batch as a `Batch` of JAX arrays.

    Args:
      data: one batch.
      by_head: as in `as_batches`.

    Raises:
      ValueError: if there are no examples, lengths differ, or the weights are no
        weights.
      TypeError: if it holds something else than numbers.
    """
    batch = jax.tree.map(jnp.asarray, require_examples(data, by_head=by_head))
    _require_rows(batch)
    weights, targets = batch.weights, batch.targets
    if isinstance(weights, Mapping):
        read = {name: _read_weights(w, targets[name]) for name, w in weights.items()}
        return batch._replace(weights=read)
    if weights is None:
        return batch
    first = jax.tree.leaves(targets)[0]
    return batch._replace(weights=_read_weights(weights, first))


def _read_weights(weights, targets):
    shape = targets.shape
    fits = weights.ndim > 0 and weights.shape == shape[: weights.ndim]
    if not fits or jnp.issubdtype(weights.dtype, jnp.integer):
        raise ValueError(
            "expected weights [n], floating-point or a boolean mask, or of that kind "
            f"one a position of targets {list(shape)}; got "
            f"{weights.dtype}{list(weights.shape)}."
        )
    return weights.astype(jnp.result_type(float))


def _require_rows(batch: Batch) -> None:
    rows = batch._replace(inputs=()) if _is_graph(batch) else batch
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(rows)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            "expected inputs, targets and weights with the same number of examples, "
            f"at least one; got leading axes {sorted(sizes)}."
        )


def _is_graph(batch: Batch) -> bool:
    """Whether the arrays of the inputs differ in their leading axes."""
    return len({leaf.shape[:1] for leaf in jax.tree.leaves(batch.inputs)}) > 1


def _from_arrays(batch: Batch, batch_size: int) -> Batches:
    num_examples = len(jax.tree.leaves(batch.targets)[0])
    size = num_examples if _is_graph(batch) else min(batch_size, num_examples)
    num_full, rest = divmod(num_examples, size)

    def rows(start, length):
        if length == num_examples:
            return batch
        return jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, start, length), batch
        )

    def fold(step, state, *constants):
        def body(i, state):
            return step(state, rows(i * size, size), *constants)

        state = lax.fori_loop(0, num_full, body, state)
        return step(state, rows(num_full * size, rest), *constants) if rest else state

    def collect(function, *constants):
        def one(index):
            return function(index, rows(index * size, size), *constants)

        parts = lax.map(one, jnp.arange(num_full))
        parts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
        if not rest:
            return parts
        left_over = rows(num_full * size, rest)
        return _join([parts, function(num_full, left_over, *constants)])

    return Batches(fold, rows(0, size), lax.while_loop, collect, num_examples)


def _from_stream(stream: Iterable[Any], read: Callable[[Any], Batch]) -> Batches:
    passes = Passes(stream)

    def fold(step, state, *constants):
        step = jax.jit(step)
        for batch in passes():
            state = step(state, read(batch), *constants)
        return state

    def collect(function, *constants):
        function = jax.jit(function)
        numbered = enumerate(map(read, passes()))
        return _join([function(i, batch, *constants) for i, batch in numbered])

    return Batches(fold, read(passes.first), _while_loop, collect)


def _while_loop(condition, body, state):
    while condition(state):
        state = body(state)
    return state


def _join(parts):
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
