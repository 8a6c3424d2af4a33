"""Examples on many devices and hosts. Imports `initializers` and `statistics`."""

from lagrange_jax.distributed.sharding import (
    all_reduce_processes,
    initialize_sharded,
    shard_batch,
    sharded_moments,
)

__all__ = [
    "all_reduce_processes",
    "initialize_sharded",
    "shard_batch",
    "sharded_moments",
]
