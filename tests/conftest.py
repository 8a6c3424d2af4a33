"""Test configuration: eight virtual devices, strict promotion, fixed keys."""

import os
from pathlib import Path

# Before JAX starts: eight virtual CPU devices, so that every test can shard, and no
# scheduler that makes programs wait for ever (see docs/numerics.md).
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Programs are compiled once: both workers and the next run find them here.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes that annotations promise are checked at every call of what is behind
# the public functions, which refuse in words of their own.
CHECKED = (
    *("numerics.secular", "numerics.linalg", "numerics.parabola"),
    *("statistics._blocked", "solvers.implicit", "solvers.spectral"),
)
install_import_hook([f"lagrange_jax.{x}" for x in CHECKED], "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the programs of a module of tests.

    Each takes memory maps, of which Linux gives a process 65,530, and the compiler dies
    of a segmentation fault when it gets no more.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Double precision for tests of pure numerics."""
    with jax.enable_x64(True):
        yield
