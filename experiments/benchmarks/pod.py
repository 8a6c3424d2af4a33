"""What moves between devices, read from the compiled programs: the table of POD.md.

python -m experiments.benchmarks.pod
"""

import math
import os
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["collective_bytes", "moments_bytes"]

COLLECTIVES = (
    "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast"
    "|reduce-scatter|ragged-all-to-all"
)


def collective_bytes(text: str) -> Counter[str]:
    """Returns the bytes that each kind of collective puts out on one device.

    Args:
      text: a compiled program, as `compiled.as_text()` prints it.
    """
    found = Counter()
    for outputs, kind in re.findall(rf"= (.+?) ({COLLECTIVES})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", outputs):
            entries = math.prod(int(size) for size in shape.split(",") if size)
            found[kind] += entries * np.dtype(_numpy_name(dtype)).itemsize
    return found


def _numpy_name(dtype: str) -> str:
    names = {"f": "float", "s": "int", "u": "uint"}
    return "bool" if dtype == "pred" else names[dtype[0]] + dtype[1:]


def moments_bytes(d: int, k: int, itemsize: int = 4) -> int:
    """Returns the size of what `all_reduce_moments` adds up over devices."""
    return itemsize * (d * d + d * k + 2 * d + 3 * k + 1)


def print_moments(mesh: jax.sharding.Mesh) -> None:
    """Prints the bytes of the compiled all-reduce beside those of the formula."""
    from lagrange_jax.distributed import sharding

    rows = NamedSharding(mesh, P(mesh.axis_names))
    print("| d | k | all-reduced bytes, compiled | formula | other bytes |")
    print("| ---: | ---: | ---: | ---: | --- |")
    for d, k in ((64, 1), (128, 10), (512, 100), (2048, 100), (2048, 1000)):
        shapes = (8 * mesh.size, d), (8 * mesh.size, k)
        data = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=rows) for s in shapes]
        program = sharding._sharded_moments.lower(*data, None, mesh).compile()
        found = collective_bytes(str(program.as_text()))
        reduced = found.pop("all-reduce")
        other = dict(found) or "none"
        print(f"| {d} | {k} | {reduced:,} | {moments_bytes(d, k):,} | {other} |")


def print_grid() -> None:
    """Prints what a compiled grid moves: nothing."""
    from lagrange_jax.training import _plan as grid_plan
    from lagrange_jax.training.grid import grid_mesh

    def train(key, strength, num_examples):
        x = jax.random.normal(key, (64, 64)) + num_examples.astype(jnp.float32)
        return jnp.linalg.eigvalsh(x @ x.T + strength * jnp.eye(64))

    axes = {
        "strength": jnp.ones(3),
        "num_examples": jnp.arange(4),
        "key": jax.random.split(jax.random.key(0), 5),
    }
    program = grid_plan.compile_part(grid_plan.plan_grid(train, axes, grid_mesh()), 8)
    moved = dict(collective_bytes(str(program.as_text())))
    print(f"grid: {sum(moved.values())} bytes in collectives")


def main() -> None:
    """Prints the measured part of POD.md."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    print(f"{mesh.size} devices")
    print_moments(mesh)
    print_grid()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main()
