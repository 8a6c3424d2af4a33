"""Which layers of a network are affine, and which one is the head?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lagrange_jax.models._graph import reach
from lagrange_jax.models._head import Head, NotAHead, Trace, examine, format_path
from lagrange_jax.types import Path, Tap

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "TAPS",
    "Calls",
    "Layer",
    "Taps",
    "find_head",
    "find_layers",
    "read_taps",
    "tappable_paths",
]

# Names under which the adapters sow what a layer receives and returns.
TAPS = "lagrange_jax_taps"
INPUTS, OUTPUTS = "lagrange_jax_inputs", "lagrange_jax_outputs"

Calls = dict[Path, tuple[bool, int]]
Taps = dict[Path, list[Tap]]

# Parameters tried as a head where the last layer is none; they are few by then.
_MOST_TRIES = 8


class Layer(NamedTuple):
    """A dense or convolution layer met in a forward pass.

    Attributes:
      path: where its parameters lie.
      is_dense: False for a convolution.
      num_calls: how often it is called, 0 where a lifted loop hides it.
      has_kernel: whether `path` holds one kernel of the usual rank.
    """

    path: Path
    is_dense: bool
    num_calls: int
    has_kernel: bool


def read_taps(tree: Mapping[str | int, Any], prefix: Path = ()) -> Taps:
    """Returns all calls of each layer from a tree of sown inputs and outputs."""
    found = {}
    if OUTPUTS in tree:
        pairs = zip(tree[INPUTS], tree[OUTPUTS], strict=True)
        found[prefix] = [Tap(*pair) for pair in pairs]
    for name, child in tree.items():
        if isinstance(child, Mapping):
            found |= read_taps(child, (*prefix, name))
    return found


def find_layers(
    calls: Calls, counts: Mapping[Path, int], ranks: Mapping[Path, int]
) -> tuple[Layer, ...]:
    """Returns the affine layers of a network in call order.

    Args:
      calls: (is_dense, rank of its kernel) for every layer called, in order.
      counts: how many taps of each layer got out.
      ranks: rank of every parameter.
    """
    return tuple(
        Layer(path, is_dense, counts.get(path, 0), ranks.get((*path, "kernel")) == rank)
        for path, (is_dense, rank) in calls.items()
    )


def tappable_paths(layers: Sequence[Layer]) -> tuple[Path, ...]:
    """Returns the paths of the layers called once, with a kernel of their own."""
    return tuple(x.path for x in layers if x.num_calls == 1 and x.has_kernel)


def _choices(layers: Sequence[Layer]) -> str:
    names = [repr(format_path(x.path)) for x in layers]
    return f"The affine layers are, in call order: {', '.join(names) or 'none'}."


def find_head(
    trace: Trace,
    layers: Sequence[Layer],
    head: str | Sequence[str | int] | None = None,
) -> Head:
    """Returns the named head, or the last parameters that the output is affine in.

    Args:
      trace: the network.
      layers: its layers in call order.
      head: "a/b", "a.b" or ("a", "b"), a layer or an array of weights; None for the
        layer called last, or an array of weights used after it.

    Raises:
      ValueError: there is none, or the network is not affine in it.
    """
    if head is not None:
        candidates = iter([_named(trace, layers, head)])
    else:
        candidates = _candidates(trace, layers)
    refusals = []
    for kernel in candidates:
        try:
            return examine(trace, kernel)
        except NotAHead as refusal:
            refusals.append(str(refusal))
    if not refusals:
        raise ValueError(
            "the network's output does not depend on any array of weights, so it has "
            "no head to solve for. Let it end in a dense layer (flax.linen.Dense or "
            "flax.nnx.Linear)."
        )
    # What is used last is to blame, not the layer before it.
    is_first = len(refusals) == 1 or "tied" in refusals[0]
    blamed = refusals[0] if is_first else refusals[1]
    raise ValueError(
        f"{blamed}. Return what the last affine layer puts out (logits or "
        "predictions) from the network, give that layer weights of its own, or name "
        f"another layer with head=.... {_choices(layers)}"
    )


def _named(
    trace: Trace, layers: Sequence[Layer], head: str | Sequence[str | int]
) -> Path:
    parts = head.replace(".", "/").split("/") if isinstance(head, str) else head
    wanted = [str(part) for part in parts if part != ""]
    as_text = {path: [str(part) for part in path] for path in trace.params}
    for ending in (["kernel"], []):
        for path, text in as_text.items():
            if text == [*wanted, *ending]:
                return path
    below = [
        path
        for path, text in as_text.items()
        if text[:-1] == wanted and len(trace.graph.avals[trace.params[path]].shape) > 1
    ]
    if len(below) == 1:
        return below[0]
    raise ValueError(
        f"no layer {head!r} is called in the network, and no array of weights has this "
        f"path. {_choices(layers)}"
    )


def _candidates(trace: Trace, layers: Sequence[Layer]) -> Iterator[Path]:
    """Yields the layer called last, then arrays of weights, the one used last first."""
    graph, output = trace.graph, trace.output
    reached = {path: reach(graph, [x]) for path, x in trace.params.items()}
    used = {path: values for path, values in reached.items() if output in values}
    last = None
    for layer in reversed(layers):
        kernel = (*layer.path, "kernel")
        if kernel in used:
            last = kernel
            yield kernel
            break
    others = [p for p in used if p != last and _rank(trace, p) > 1]
    others = [p for p in others if p[-1] != "bias"]  # one of several axes
    if last is not None:
        others = [p for p in others if _multiplies(trace, p, used[last])]
    yield from sorted(others, key=lambda p: len(used[p]))[:_MOST_TRIES]


def _rank(trace: Trace, path: Path) -> int:
    return len(trace.graph.avals[trace.params[path]].shape)


def _multiplies(trace: Trace, path: Path, data: set[int]) -> bool:
    """Whether weights, or what is made of them alone, multiply data."""
    graph = trace.graph
    own = {trace.params[path]}
    alone = own | set(graph.consts)
    for step in graph.steps:
        if own.isdisjoint(step.names):
            continue
        if alone.issuperset(step.names):
            own.update(step.outputs)
            alone.update(step.outputs)
        elif step.equation.primitive.name in _PRODUCTS:
            if any(x in data and x not in own for x in step.names):
                return True
    return False


_PRODUCTS = ("dot_general", "conv_general_dilated")
