"""What numbers were measured with: packages and machine.

Imports no numerical library, so that benchmarks may set threads after it.
"""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "cores", "environment"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "lagrange-jax")
VECTOR_SETS = ("avx2", "avx512f", "avx512_bf16")


def environment(peers: Sequence[str] = ()) -> dict[str, Any]:
    """Returns versions, the processor, and its cores.

    Args:
      peers: further packages that were measured; None where one is not installed.
    """
    name, vectors = _processor()
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in (*PACKAGES, *peers)},
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": name,
        "vector_extensions": vectors,
        "cores": len(cores()),
        "cores_of_machine": os.cpu_count(),
    }


def cores() -> set[int]:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor(), []
    lines = [line.partition(":") for line in text.splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    name = fields.get("model name", platform.processor())
    return name, [x for x in VECTOR_SETS if x in flags]
