"""From a Python function to a compiled program that takes its data as arguments.

The arrays that a function closes over are arguments of the program, not constants in
it: the compiler does not fold them, and a function that differs in them alone, such as
one made anew with other data of the same shape, runs the program that is already there.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from lagrange_jax._compile import compile_with, grid_options
from lagrange_jax.training._known import Bounds, known_bounds

__all__ = ["Program", "calls_python", "compile_once", "evaluate", "trace_member"]


class Program(NamedTuple):
    """A traced function of keyword arguments; hashable.

    Attributes:
      jaxpr: its operations; the arguments in the order of their names.
      result: the structure of what it returns.
    """

    jaxpr: Jaxpr
    result: Any


def trace_member(
    function: Callable[..., Any],
    member: Mapping[str, Any],
    bounds: Mapping[str, Bounds],
) -> tuple[Program, tuple[Any, ...], Any]:
    """Traces a function once for all calls with arguments of these shapes.

    Args:
      function: a pure function of keyword arguments.
      member: shapes and dtypes of the arguments.
      bounds: the least and the largest value of integer arguments.

    Returns:
      The program, the arrays that the function closes over, and the shapes and dtypes
      of what it returns.
    """
    if hasattr(function, "lower") and hasattr(function, "__wrapped__"):
        function = function.__wrapped__  # jit holds its arrays too fast
    leaves, structure = jax.tree.flatten(dict(member))
    return _trace(function, structure, tuple(leaves), tuple(bounds.items()))


@functools.lru_cache(maxsize=16)
def _trace(function, structure, leaves, bounds):
    def call(arguments):
        with known_bounds(arguments, dict(bounds)):
            return function(**arguments)

    member = jax.tree.unflatten(structure, leaves)
    closed, like = jax.make_jaxpr(call, return_shape=True)(member)
    program = Program(closed.jaxpr, jax.tree.structure(like))
    return program, tuple(closed.consts), like


def evaluate(program: Program, consts: Any, arguments: Mapping[str, Any]) -> Any:
    """Returns what a traced function gives for other arrays and arguments."""
    function = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, consts))
    values = function(*jax.tree.leaves(dict(arguments)))
    return jax.tree.unflatten(program.result, values)


def calls_python(program: Program) -> bool:
    """Whether results may depend on Python code that runs outside of the program."""
    return re.search(r"\b(pure|io)_callback\[", str(program.jaxpr)) is not None


def compile_once(lowered: Any, devices: tuple[Any, ...]) -> Any:
    """Compiles a lowered program, unless one of the same text has been compiled.

    Args:
      lowered: what `jax.jit(...).lower` returned.
      devices: the devices that it runs on.

    Returns:
      The compiled program.
    """
    return _compile(_Lowered(lowered, devices))


class _Lowered:
    """A lowered program, equal to those of the same text on the same devices."""

    def __init__(self, lowered: Any, devices: tuple[Any, ...]):
        # The text leaves out the arguments that are not used.
        text = f"{lowered.args_info}\n{lowered.as_text()}"
        # Texts of programs that call Python do not say what they call.
        own = id(lowered) if "callback" in text else None
        is_cpu = devices[0].platform == "cpu"
        self.lowered = lowered
        self.options = grid_options(text) if is_cpu else None
        self.key = hashlib.sha256(text.encode()).digest(), devices, own

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lowered) and self.key == other.key


@functools.lru_cache(maxsize=16)
def _compile(program: _Lowered):
    compile_ = lambda options: program.lowered.compile(compiler_options=options)  # noqa: E731
    return compile_with(compile_, program.options)
