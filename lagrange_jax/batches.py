"""Arrays or a stream of batches, seen as one fold."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lagrange_jax._checks import require_count, require_numbers, require_real
from lagrange_jax.types import Batch, Batches

__all__ = ["as_batch", "as_batches", "is_arrays", "require_examples"]


def is_arrays(data: Any) -> bool:
    """Whether `data` is one `(inputs, targets[, weights])`, not an iterable of them."""
    return isinstance(data, tuple) and len(data) in (2, 3) and hasattr(data[1], "shape")


def as_batches(data: Any, batch_size: int = 1024) -> Batches:
    """Returns `data` as `Batches`.

    Args:
      data: one tuple `(inputs, targets)` or `(inputs, targets, weights)` of arrays,
        or an iterable of such tuples. An iterator can be folded over only once; a
        list or a loader object as often as you like.
      batch_size: examples in one forward pass when `data` is arrays. The last one
        takes what is left over; nothing is padded.

    Returns:
      The `Batches`.

    Raises:
      ValueError: if there are no examples, or inputs, targets and weights have
        different lengths.
      TypeError: if `data` is neither arrays nor an iterable.
    """
    require_count("batch_size", batch_size)
    if is_arrays(data):
        return _from_arrays(as_batch(data), batch_size)
    if isinstance(data, Iterable) and not hasattr(data, "shape"):
        return _from_stream(data)
    raise TypeError(
        "expected (inputs, targets), (inputs, targets, weights), or an iterable of "
        f"such tuples; got {type(data).__name__}."
    )


def require_examples(data: Any) -> Batch:
    """Returns one `(inputs, targets[, weights])` as a `Batch` of what it holds.

    Raises:
      ValueError: if it is none.
      TypeError: if it holds something else than numbers.
    """
    if not is_arrays(data):
        raise ValueError(
            "expected a batch (inputs, targets) or (inputs, targets, weights); got "
            f"{type(data).__name__}."
        )
    if hasattr(data, "targets"):  # a record: other fields are not weights
        data = (data.inputs, data.targets, getattr(data, "weights", None))
    batch = Batch(*data)
    require_numbers("inputs", batch.inputs)
    require_real("targets", batch.targets)
    if batch.weights is not None:
        require_real("weights", batch.weights)
    return batch


def as_batch(data: Any) -> Batch:
    """Returns one `(inputs, targets[, weights])` as a `Batch` of JAX arrays.

    Raises:
      ValueError: if there are no examples, lengths differ, or the weights are no
        weights.
      TypeError: if it holds something else than numbers.
    """
    batch = jax.tree.map(jnp.asarray, require_examples(data))
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            "expected inputs, targets and weights with the same number of examples, "
            f"at least one; got leading axes {sorted(sizes)}."
        )
    if batch.weights is None:
        return batch
    if jnp.issubdtype(batch.weights.dtype, jnp.integer) or batch.weights.ndim != 1:
        raise ValueError(
            "expected weights [n], floating-point or a boolean mask; got "
            f"{batch.weights.dtype}{list(batch.weights.shape)}."
        )
    return batch._replace(weights=batch.weights.astype(jnp.result_type(float)))


def _from_arrays(batch: Batch, batch_size: int) -> Batches:
    num_examples = len(batch.targets)
    size = min(batch_size, num_examples)
    num_full, rest = divmod(num_examples, size)

    def rows(start, length):
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

    return Batches(fold, rows(0, size), lax.while_loop, collect)


def _from_stream(stream: Iterable[Any]) -> Batches:
    iterator = iter(stream)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError(
            "expected at least one batch; the iterable is empty."
        ) from None
    is_one_shot = iterator is stream
    pending = [itertools.chain([first], iterator)] if is_one_shot else []

    def passes():
        if not is_one_shot:
            return iter(stream)
        if not pending:
            raise ValueError(
                "the iterator of batches is used up, and a second pass was asked for. "
                "Pass a list, or an object whose __iter__ starts anew."
            )
        return pending.pop()

    def fold(step, state, *constants):
        step = jax.jit(step)
        for batch in passes():
            state = step(state, as_batch(batch), *constants)
        return state

    def collect(function, *constants):
        function = jax.jit(function)
        numbered = enumerate(passes())
        return _join([function(i, as_batch(b), *constants) for i, b in numbered])

    return Batches(fold, as_batch(first), _while_loop, collect)


def _while_loop(condition, body, state):
    while condition(state):
        state = body(state)
    return state


def _join(parts):
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
