"""XLA's scheduler for concurrency on the CPU, which makes some programs wait for ever.

Seen with jaxlib 0.10.2 in vmapped trainings that start from a cross-entropy head.
`run_grid` and `initialize` compile without it. What a caller jits is the caller's:
`disable_scheduler` turns it off for a whole process.
"""

import os

from lagrange_jax._compile import SCHEDULER

__all__ = ["disable_scheduler"]


def disable_scheduler() -> None:
    """Turns XLA's concurrency scheduler on the CPU off, for this process.

    Call it before the first computation: XLA reads its flags when JAX makes its
    devices. It adds `--xla_cpu_enable_concurrency_optimized_scheduler=false` to the
    environment variable `XLA_FLAGS`, unless something is said there already.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if SCHEDULER not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{SCHEDULER}=false".strip()
