"""Examples on many devices and hosts. Imports `batches` and `statistics`."""

from lagrange_jax.distributed.sharding import (
    all_reduce_processes,
    shard_batch,
    sharded_moments,
)

__all__ = [
    "all_reduce_processes",
    "shard_batch",
    "sharded_moments",
]
