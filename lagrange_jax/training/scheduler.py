"""XLA's scheduler for concurrency on the CPU, which makes some programs wait for ever.

Seen with jaxlib 0.10.2 in vmapped trainings that start from a cross-entropy head.
`run_grid` compiles without it. What a caller jits is the caller's: `disable_scheduler`
turns it off for a whole process.
"""

import functools
import logging
import os

import jax

__all__ = ["disable_scheduler", "warn_of_scheduler"]

_FLAG = "xla_cpu_enable_concurrency_optimized_scheduler"


def disable_scheduler() -> None:
    """Turns XLA's concurrency scheduler on the CPU off, for this process.

    Call it before the first computation: XLA reads its flags when JAX makes its
    devices. It adds `--xla_cpu_enable_concurrency_optimized_scheduler=false` to the
    environment variable `XLA_FLAGS`, unless something is said there already.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_FLAG}=false".strip()


def warn_of_scheduler() -> None:
    """Logs once that a training is compiled on a CPU with the scheduler on."""
    if jax.default_backend() == "cpu" and _FLAG not in os.environ.get("XLA_FLAGS", ""):
        _warn()


@functools.cache
def _warn() -> None:
    logging.getLogger("lagrange_jax").warning(
        "XLA's concurrency scheduler is on: on a CPU, a vmapped training that starts "
        "from a cross-entropy head may wait for ever. Use run_grid, which compiles "
        "without it, or call lagrange_jax.training.disable_scheduler() first."
    )
