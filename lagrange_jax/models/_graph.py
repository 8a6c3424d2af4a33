"""A traced network as a list of steps, and the steps that some values reach."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval

__all__ = [
    "Graph",
    "Tail",
    "depends",
    "is_affine",
    "make_graph",
    "make_tail",
    "reach",
    "unshifted",
]

# Calls that only group steps; what they hold is looked at step by step.
_GROUPS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2")
_COPIES = ("convert_element_type", "copy")


class _Step(NamedTuple):
    """One primitive operation; values are named by integers."""

    equation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def names(self) -> list[int]:
        """The inputs that are values, not literals."""
        return [x for x in self.inputs if isinstance(x, int)]


class Graph(NamedTuple):
    """A traced function.

    Attributes:
      steps: in order.
      avals: shape and dtype of every value.
      consts: the values known while tracing.
      inputs: of the function, leaf by leaf.
      outputs: of the function, in the structure that it returns.
    """

    steps: tuple[_Step, ...]
    avals: tuple[Any, ...]
    consts: dict[int, Any]
    inputs: tuple[int, ...]
    outputs: Any


def make_graph(function: Callable[..., Any], *args: Any) -> Graph:
    """Traces a function of abstract or concrete arguments."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    steps, avals, consts = [], [], {}

    def name(aval):
        avals.append(aval)
        return len(avals) - 1

    def name_const(value, var):
        index = name(var.aval)
        consts[index] = value
        return index

    def flatten(jaxpr, values, arguments):
        names = dict(zip(jaxpr.invars, arguments, strict=True))
        for var, value in zip(jaxpr.constvars, values, strict=True):
            names[var] = name_const(value, var)
        read = lambda x: x if isinstance(x, core.Literal) else names[x]  # noqa: E731
        for equation in jaxpr.eqns:
            inputs = tuple(map(read, equation.invars))
            inner = _inner(equation)
            if inner is None:
                outputs = tuple(name(var.aval) for var in equation.outvars)
                steps.append(_Step(equation, inputs, outputs))
            else:
                outputs = flatten(*inner, inputs)
            names.update(zip(equation.outvars, outputs, strict=True))
        return tuple(map(read, jaxpr.outvars))

    inputs = tuple(name(var.aval) for var in closed.jaxpr.invars)
    outputs = flatten(closed.jaxpr, closed.consts, inputs)
    outputs = [
        x if isinstance(x, int) else name_const(x.val, x)  # a literal
        for x in outputs
    ]
    treedef = jax.tree.structure(shapes)
    return Graph(tuple(steps), tuple(avals), consts, inputs, treedef.unflatten(outputs))


def _inner(equation: Any) -> tuple[Any, Any] | None:
    if equation.primitive.name not in _GROUPS:
        return None
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if isinstance(inner, core.ClosedJaxpr):
        return inner.jaxpr, inner.consts
    return None if inner is None else (inner, ())


def reach(graph: Graph, sources: Iterable[int]) -> set[int]:
    """Returns all values that may depend on the sources, these included."""
    found = set(sources)
    for step in graph.steps:
        if not found.isdisjoint(step.names):
            found.update(step.outputs)
    return found


def unshifted(graph: Graph, output: int) -> int:
    """Returns the value that an output is made of by adding one number a row.

    `log_softmax(z)` is z minus its maximum minus a logarithm, one number each.
    """
    made = {step.outputs[0]: step for step in graph.steps}

    def is_of_rows(x):
        if not isinstance(x, int):
            return False
        shape, step = graph.avals[x].shape, made.get(x)
        if shape[-1:] == (1,):
            return True
        if step is None or step.equation.primitive.name != "broadcast_in_dim":
            return False
        axes = step.equation.params["broadcast_dimensions"]
        return len(shape) - 1 not in axes or is_of_rows(step.inputs[0])

    while output in made and graph.avals[output].shape[-1:] not in ((), (1,)):
        step = made[output]
        name, (value, *others) = step.equation.primitive.name, step.inputs
        if name == "add" and is_of_rows(value):
            value, others = others[0], [value]
        is_shift = name in ("add", "sub") and is_of_rows(others[0])
        if not isinstance(value, int) or not (is_shift or name in _COPIES):
            break
        output = value
    return output


class Tail(NamedTuple):
    """The steps between some values and a result.

    Attributes:
      run: `run(values) -> result` for a dictionary of all values of `sources` and
        `cuts`.
      sources: the values that the steps start from.
      cuts: all others that enter, and that do not depend on the sources.
      steps: the steps.
      result: the value that they lead to.
    """

    run: Callable[[dict[int, Any]], Any]
    sources: tuple[int, ...]
    cuts: tuple[int, ...]
    steps: tuple[_Step, ...]
    result: int


def make_tail(graph: Graph, sources: Sequence[int], result: int) -> Tail:
    """Cuts a graph where the values that depend on `sources` begin.

    Args:
      graph: the whole.
      sources: values that are given; their own steps are left out.
      result: the value wanted.
    """
    reached = reach(graph, sources)
    known = set(graph.consts)
    for step in graph.steps:
        if all(x in known for x in step.names):
            known.update(step.outputs)
    inside = reached | known
    needed, steps = {result} - set(sources), []
    for step in reversed(graph.steps):
        if not needed.isdisjoint(step.outputs) and not inside.isdisjoint(step.outputs):
            steps.append(step)
            needed.update(x for x in step.names if x not in sources)
    steps = tuple(reversed(steps))
    made = {x for step in steps for x in step.outputs}
    cuts = tuple(sorted(needed - made - set(graph.consts)))

    def run(values):
        values = {**graph.consts, **values}
        for step in steps:
            for name, value in zip(step.outputs, _bind(step, values), strict=True):
                if name not in sources:
                    values[name] = value
        return values[result]

    return Tail(run, tuple(sources), cuts, steps, result)


def _bind(step: _Step, values: dict[int, Any]) -> Sequence[Any]:
    equation, primitive = step.equation, step.equation.primitive
    inputs = [values[x] if isinstance(x, int) else x.val for x in step.inputs]
    params = primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    with equation.ctx.manager:
        result = primitive.bind(*functions, *inputs, **params)
    return result if primitive.multiple_results else [result]


def is_affine(graph: Graph, tail: Tail, variables: Sequence[int]) -> bool:
    """Whether the result is an affine function of some sources, for all values.

    Its derivative must not depend on them. This is read off from the program of the
    derivative, so that no size of the values can hide a curvature.
    """
    shape = lambda x: jax.ShapeDtypeStruct(  # noqa: E731
        graph.avals[x].shape, graph.avals[x].dtype
    )
    others = [x for x in (*tail.sources, *tail.cuts) if x not in variables]

    def derivative(points, directions, values):
        values = dict(zip(others, values, strict=True))

        def result(points):
            return tail.run({**values, **dict(zip(variables, points, strict=True))})

        return jax.jvp(result, (points,), (directions,))[1]

    points = [shape(x) for x in variables]
    closed = jax.make_jaxpr(derivative)(points, points, [shape(x) for x in others])
    used = depends(closed.jaxpr)
    return not any(used[: len(points)])


def depends(jaxpr: Any) -> list[bool]:
    """Whether each input of a program is used for its outputs, loops looked into."""
    return list(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])
