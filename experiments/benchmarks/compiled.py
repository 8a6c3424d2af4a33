"""What a compiler makes of the programs, for a TPU v5e and an H100 that are not there.

    make test-accelerators    # installs the compilers, runs this and the ceilings
    python -m experiments.benchmarks.compiled v5e [--only NAME] [--out FILE]

A compiled program tells how large it is, what memory it takes beside its arguments,
what moves between devices and which library calls it makes. Seconds are processor time
of the compiler, of all threads. Loops count once in `flops`.
"""

import argparse
import importlib.metadata
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["TARGETS", "measure", "packages"]

# What XLA has to know of an H100 (SXM5, 80 GB), from its data sheet.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100"
"""

TARGETS: dict[str, dict[str, Any]] = {
    "v5e": dict(platform="tpu", topology_name="v5e:2x2"),
    "h100": dict(
        platform="cuda",
        topology_name="h100",
        topology="1x1x4",
        target_config=H100,
    ),
}
"""Four chips of each kind, as `jax.experimental.topologies` asks for them."""

ENVIRONMENT = dict(
    JAX_PLATFORMS="cpu",
    JAX_ENABLE_COMPILATION_CACHE="false",
    JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
)


# Beside JAX's own packages, what its compiler for NVIDIA calls.
NVIDIA = ("nvcc", "runtime", "cupti")


def packages(target: str) -> list[str]:
    """Returns the packages that hold the compiler of a target, without dependencies."""
    if TARGETS[target]["platform"] == "tpu":
        wanted = importlib.metadata.requires("jax") or []
        return [x.split(";")[0].strip() for x in wanted if x.startswith("libtpu")][:1]
    version = importlib.metadata.version("jaxlib")
    jax = [f"jax-cuda12-{part}=={version}" for part in ("plugin", "pjrt")]
    return [*jax, *(f"nvidia-cuda-{x}-cu12" for x in NVIDIA), "nvidia-nvjitlink-cu12"]


def mesh_of(target: str) -> Any:
    """Returns a mesh of the target's four chips, none of which is there."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(**TARGETS[target]).devices
    return jax.sharding.Mesh(np.asarray(devices), ("data",))


def measure(name: str, mesh: Any) -> dict[str, Any]:
    """Compiles one program and returns what the compiler tells of it."""
    import jax

    from experiments.benchmarks.pod import collective_bytes
    from experiments.benchmarks.programs import PROGRAMS

    program = PROGRAMS[name](mesh)
    lowered = jax.jit(program.function).lower(*program.arguments)
    start = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - start
    memory: Any = compiled.memory_analysis()
    text, cost = str(compiled.as_text()), compiled.cost_analysis()
    calls = Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    temporary = memory.temp_size_in_bytes
    return {
        "program": name,
        "code_bytes": memory.generated_code_size_in_bytes,
        "temporary_bytes": temporary,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "members": program.members,
        "temporary_bytes_per_member": temporary / program.members,
        "data_bytes": program.data_bytes,
        "collective_bytes": dict(collective_bytes(text)),
        "custom_calls": dict(calls),
        "instructions": text.count(" = "),
        "flops": (cost or {}).get("flops"),
        "compile_cpu_seconds": round(seconds, 2),
    }


def write(path: Path, target: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Puts the rows of one target into the record; those of others stay."""
    from experiments.benchmarks.timing import environment

    record = json.loads(path.read_text()) if path.exists() else {}
    record[target] = {"environment": environment(), "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Compiles all programs for one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--only", action="append", help="a program by its name")
    parser.add_argument("--out", type=Path, help="the record to write or to extend")
    parser.add_argument("--packages", action="store_true", help="print what it takes")
    options = parser.parse_args()
    if options.packages:
        print(*packages(options.target))
        return
    os.environ.update(ENVIRONMENT)  # before JAX is imported

    from experiments.benchmarks.programs import PROGRAMS

    mesh, rows = mesh_of(options.target), []
    for name in options.only or PROGRAMS:
        rows.append(measure(name, mesh))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            write(options.out, options.target, rows)


if __name__ == "__main__":
    main()
