"""Is the network affine in the kernel of its head, and where do features come from?

The traced network is cut where the values that depend on the head begin. That the
rest is affine is read off from the program of its derivative, for all values at once;
that the layer's inputs are the features is checked on random values.
"""

from typing import Any, NamedTuple

from lagrange_jax.models._graph import Graph, is_affine, make_tail, reach, unshifted
from lagrange_jax.models._layout import Sample, fit_layout
from lagrange_jax.types import HeadLayout, Path

__all__ = [
    "Head",
    "NotAHead",
    "Trace",
    "examine",
    "format_path",
    "lead_shape",
]

# Operations that may stand behind a head; others are named where one is in the way.
_LINEAR = frozenset(
    "add add_any broadcast_in_dim concatenate convert_element_type copy cumsum div "
    "dot_general dynamic_slice gather mul neg pad reduce_sum reshape rev select_n "
    "sharding_constraint slice split squeeze stop_gradient sub transpose".split()
)


def format_path(path: Path) -> str:
    """Returns a path as users write it, "encoder/Dense_0"."""
    return "/".join(map(str, path)) if path else "(the module itself)"


class NotAHead(ValueError):
    """A layer that cannot be solved for, with the reason."""


class Trace(NamedTuple):
    """A traced forward pass.

    Attributes:
      graph: the steps.
      output: the selected output.
      params: value of every parameter, by path.
      taps: values of the last (inputs, outputs) of every layer that lets them out.
    """

    graph: Graph
    output: int
    params: dict[Path, int]
    taps: dict[Path, tuple[int, int]]


class Head(NamedTuple):
    """What `Model` has to know of its head.

    Attributes:
      path: of the layer, or of the array where there is no layer.
      layout: how the arrays make a matrix and a bias.
      is_tapped: whether the layer's inputs are the features; else they are taken
        from the derivative.
      has_offset: whether the output holds something besides the head's.
    """

    path: Path
    layout: HeadLayout
    is_tapped: bool
    has_offset: bool


def lead_shape(shape: tuple[int, ...], layout: HeadLayout) -> tuple[int, ...]:
    """Returns the shape of an output without the axes that make k."""
    return shape[: len(shape) - len(layout.output_shape)]


def examine(trace: Trace, kernel: Path) -> Head:
    """Returns how a network is affine in one array of weights.

    Args:
      trace: the network.
      kernel: path of the array.

    Raises:
      NotAHead: the output is not affine in it, or not row by row.
    """
    is_layer = kernel[-1:] == ("kernel",)
    path = kernel[:-1] if is_layer else kernel
    name, index, graph = format_path(path), trace.params[kernel], trace.graph
    reached = reach(graph, [index])
    if trace.output not in reached:
        raise NotAHead(f"the output of the network does not depend on head {name!r}")
    tap = trace.taps.get(path) if is_layer else None
    is_tied = tap is not None and tap[0] in reached
    bias = _find_bias(trace, kernel)
    arrays = [index, *([] if bias is None else [trace.params[bias]])]
    given = [] if tap is None or is_tied else [tap[0]]
    tail = make_tail(graph, [*arrays, *given], trace.output)
    if not is_affine(graph, tail, arrays):
        bare = trace._replace(output=unshifted(graph, trace.output))
        if bare.output == trace.output:
            raise NotAHead(_blame(trace, name, tap, is_tied, arrays))
        found = examine(bare, kernel)
        if not found.is_tapped:
            raise NotAHead(
                f"the network normalises the output of head {name!r}, which does not "
                "let its inputs out (log-probabilities?)"
            )
        return found._replace(layout=found.layout._replace(is_shifted=True))
    found = fit_layout(Sample(graph, tail, arrays, given), kernel, bias)
    if found is None and bias is not None:
        # Its share varies from row to row: it stays as it is, part of the offset.
        found = fit_layout(Sample(graph, tail, arrays[:1], given), kernel, None)
    if found is None:
        raise NotAHead(
            f"the output of the network is affine in head {name!r}, but not of the "
            "form features @ kernel + bias: outputs are scaled one by one or mixed "
            "behind it, or rows have weights of their own (an ensemble)"
        )
    return Head(path, *found)


def _find_bias(trace: Trace, kernel: Path) -> Path | None:
    """Returns "bias" beside a kernel, else the one fitting vector beside an array."""
    graph, output = trace.graph, trace.output
    beside = {
        path: index
        for path, index in trace.params.items()
        if path[:-1] == kernel[:-1] and path != kernel
    }
    named = (*kernel[:-1], "bias")
    if named in beside:
        candidates = [named]
    elif kernel[-1:] == ("kernel",):
        candidates = []
    else:
        width = graph.avals[output].shape[-1:]
        candidates = [p for p, x in beside.items() if graph.avals[x].shape == width]
    used = [p for p in candidates if output in reach(graph, [beside[p]])]
    return used[0] if len(used) == 1 else None


def _blame(trace, name, tap, is_tied, arrays) -> str:
    graph = trace.graph
    if is_tied:
        return (
            f"the inputs of head {name!r} change with its own kernel: its weights are "
            "tied to an earlier layer, or it is called there too"
        )
    if tap is None:
        found = _bent(graph, reach(graph, arrays))
        return (
            f"the output of the network is not affine in head {name!r}: something that "
            f"is not linear{found} lies between its weights and the output (weight "
            "normalisation? an activation?)"
        )
    if not is_affine(graph, make_tail(graph, [*arrays, tap[0]], tap[1]), arrays):
        return (
            f"the output of head {name!r} is not inputs @ kernel + bias: its "
            "kernel is transformed before it is used (weight normalisation?)"
        )
    found = _bent(graph, reach(graph, [tap[1]]))
    return (
        f"the output of the network is not the output of head {name!r}: something "
        f"that is not linear{found} follows it"
    )


def _bent(graph: Graph, behind: set[int]) -> str:
    """Names a few operations that are not linear."""
    kinds = []
    for step in graph.steps:
        if not behind.isdisjoint(step.names):
            inner = step.equation.params.get("call_jaxpr")
            inside = [] if inner is None else inner.eqns
            kinds += [_name(x) for x in (inside or [step.equation])]
    kinds = [kind for kind in dict.fromkeys(kinds) if kind not in _LINEAR][:4]
    return f" ({', '.join(kinds)})" if kinds else ""


def _name(equation: Any) -> str:
    return equation.params.get("name") or equation.primitive.name
