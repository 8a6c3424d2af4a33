"""Rows in blocks of one size: a program holds what is done with a block once."""

import jax
import jax.numpy as jnp
from jax import lax

from lagrange_jax.batches import as_batches
from lagrange_jax.types import Batch, Batches

__all__ = ["in_blocks"]


def in_blocks(batch: Batch, most: int) -> Batches:
    """Returns a batch as blocks of one size.

    Where the number of rows has no such parts the last block reaches back, and rows
    that were seen before have no weight in it.

    Args:
      batch: arrays of rows, with weights `[n]` or None.
      most: rows in a block at most.

    Returns:
      The `Batches`.
    """
    n = len(batch.targets)
    count = -(-n // most)
    size = -(-n // count)
    if count * size == n:
        return as_batches(batch, size)
    if batch.weights is None:
        batch = batch._replace(weights=jnp.ones(n, jnp.float32))

    def block(i):
        start = jnp.minimum(i * size, n - size)
        rows = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), batch)
        is_new = start + jnp.arange(size) >= i * size
        return rows._replace(weights=jnp.where(is_new, rows.weights, 0))

    def fold(step, state, *constants):
        def body(i, state):
            return step(state, block(i), *constants)

        return lax.fori_loop(0, count, body, state)

    return Batches(fold, block(0))
