"""How programs are compiled on a CPU: in less time, and such that they end.

XLA's scheduler for concurrency makes some programs wait for ever (jaxlib 0.10.2), a
vmapped training that starts from a cross-entropy head among them. A solver is a long
program that runs shortly: XLA's emitters of fused loops and the last level of LLVM's
optimisation cost it seconds and gain it nothing, and on few numbers no optimisation
does. A training runs for longer: there the emitters stay, and so does the last level
for convolutions, which XLA writes as loops of its own.
"""

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

__all__ = [
    "CPU_OPTIONS",
    "SCHEDULER",
    "compile_with",
    "grid_options",
    "jit_once",
    "warn_of_scheduler",
]

SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"
CPU_OPTIONS = {SCHEDULER: False}

_LEVEL = "xla_backend_optimization_level"
_LONG = {**CPU_OPTIONS, _LEVEL: 2}
_ONCE = {**_LONG, "xla_cpu_use_fusion_emitters": False}
_SMALL = {**_ONCE, _LEVEL: 0}
# Programs that take and return fewer numbers than this run in a fraction of a second
# without any optimisation.
_FEW_NUMBERS = 2**17
# A network's passes over more than this take longer than what optimising them costs.
_MANY_NUMBERS = 2**24


def compile_with(compile_: Callable[..., Any], options: dict[str, Any] | None) -> Any:
    """Calls `compile_(options)`, or `compile_(None)` if XLA knows an option no more."""
    try:
        return compile_(options)
    except jax.errors.JaxRuntimeError as error:
        if options is None or "No such compile option" not in str(error):
            raise
        return compile_(None)


def grid_options(text: str) -> dict[str, Any]:
    """Returns how a grid is compiled on a CPU, from its program in StableHLO."""
    return CPU_OPTIONS if "stablehlo.convolution" in text else _LONG


def jit_once(
    function: Callable[..., Any],
    static_argnames: Sequence[str],
    *,
    same_bits: bool = False,
    runs_network: bool = False,
) -> Callable[..., Any]:
    """Returns `jax.jit(function)` for a program that takes longer to compile than run.

    Only what becomes no part of another program is compiled in a way of our own, and
    only on a CPU. With `same_bits` a program on few numbers is optimised too, so that
    it rounds as that of `jax.jit` does. One that `runs_network` is optimised in full
    on many numbers, where its passes take longest.
    """
    make = functools.partial(jax.jit, function, static_argnames=static_argnames)
    plain, once = make(), make(compiler_options=_ONCE)
    small = once if same_bits else make(compiler_options=_SMALL)
    large = make(compiler_options=CPU_OPTIONS) if runs_network else once

    @functools.wraps(function)
    def call(*args, **kwargs):
        if jax.default_backend() != "cpu" or _is_inside(args, kwargs):
            return plain(*args, **kwargs)
        count = _count(((args, kwargs), plain.eval_shape(*args, **kwargs)))
        way = small if count < _FEW_NUMBERS else once
        way = large if count > _MANY_NUMBERS else way
        run = lambda options: (way if options else plain)(*args, **kwargs)  # noqa: E731
        return compile_with(run, _ONCE)

    return call


def _is_inside(args, kwargs) -> bool:
    """Whether a call becomes a part of a program that is being traced."""
    leaves = (jnp.zeros(()), *jax.tree.leaves((args, kwargs)))
    return any(isinstance(x, Tracer) for x in leaves)


def _count(tree: Any) -> int:
    shapes = [getattr(x, "shape", ()) for x in jax.tree.leaves(tree)]
    return sum(math.prod(shape) for shape in shapes if isinstance(shape, tuple))


def warn_of_scheduler() -> None:
    """Logs once that a solver is compiled on a CPU with the scheduler on."""
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.default_backend() == "cpu" and SCHEDULER not in flags:
        _warn()


@functools.cache
def _warn() -> None:
    logging.getLogger("lagrange_jax").warning(
        "XLA's concurrency scheduler is on: on a CPU, a vmapped training that starts "
        "from a cross-entropy head may wait for ever. Use run_grid, which compiles "
        "without it, or call lagrange_jax.training.disable_scheduler() first."
    )
