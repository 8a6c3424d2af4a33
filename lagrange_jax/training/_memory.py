"""How many members of a grid run at a time, so that they fit the memory."""

import jax

from lagrange_jax._checks import require_shapes
from lagrange_jax.training._plan import GridPlan, bytes_per_device

__all__ = ["choose_size"]

# With a folder or someone to report to, a grid runs in this many chunks.
CHUNKS = 10


def choose_size(
    plan: GridPlan,
    chunk_size: int | None,
    memory_limit: float | None,
    in_steps: bool,
) -> int:
    """Returns how many flat indices each device works on at a time.

    Args:
      plan: the grid.
      chunk_size: indices that all devices together are to work on; None for a default.
      memory_limit: bytes that the program may take on each device; None for what the
        device has left, where it says so.
      in_steps: whether the default is a tenth of the grid instead of all.

    Raises:
      ValueError: if one index a device takes more than the given limit, or the
        compiler does not tell what a program takes.
    """
    if chunk_size is None:
        chunk_size = -(-plan.total // CHUNKS) if in_steps else plan.total
    wanted = -(-min(chunk_size, plan.total) // plan.num_devices)
    if memory_limit is not None:
        require_shapes({"memory_limit": ""}, {"memory_limit": memory_limit})
        return _largest_size(plan, wanted, memory_limit)
    left = _memory_left(plan)
    if left is None or bytes_per_device(plan, wanted) is None:
        return wanted
    try:
        return _largest_size(plan, wanted, left)
    except ValueError:  # an estimate: let the device say what it makes of it
        return 1


def _largest_size(plan, wanted, limit):
    """The size up to `wanted` with which the program stays within the limit."""
    most = bytes_per_device(plan, wanted)
    if most is None:
        raise ValueError(
            "expected a compiler that tells how much memory a program needs; this one "
            "does not. Choose chunk_size by hand."
        )
    if most <= limit:
        return wanted
    least = bytes_per_device(plan, 1) or 0
    if not limit >= least:  # NaN is not, either
        raise ValueError(
            f"expected a memory_limit of at least {least} bytes, what one combination "
            f"a device takes; got {limit}. Return less from the function, or leave "
            "axes out of `vmap_axes`."
        )
    # Affine in the size, but for what the compiler rounds.
    size = 1 + int((limit - least) / (most - least) * (wanted - 1))
    while size > 1 and (found := bytes_per_device(plan, size) or 0) > limit:
        size = max(1, min(size - 1, int(size * limit / found)))
    return size


def _memory_left(plan) -> float | None:
    """Bytes that every device of this process has left, where devices say so."""
    devices = [
        device
        for device in plan.layout.mesh.devices.flat
        if device.process_index == jax.process_index()
    ]
    stats = [device.memory_stats() or {} for device in devices]
    left = [
        x["bytes_limit"] - x.get("bytes_in_use", 0) for x in stats if "bytes_limit" in x
    ]
    return min(left) if left else None
