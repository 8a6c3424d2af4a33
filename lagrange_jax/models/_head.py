"""Is the network affine in the kernel of its head, and where do features come from?

The traced network is cut where the values that depend on the head begin. That the
rest is affine is read off from the program of its derivative, for all values at once;
that the layer's inputs are the features is checked on random values.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax.models._graph import Graph, Tail, is_affine, make_tail, reach
from lagrange_jax.models.params import from_matrix, to_matrix
from lagrange_jax.types import HeadLayout, Path

__all__ = [
    "Head",
    "NotAHead",
    "Trace",
    "derivative_features",
    "examine",
    "format_path",
    "lead_shape",
]

# Relative rounding of a sum of products, in units of the coarsest dtype's eps.
_ROUNDING = 64

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
        raise NotAHead(_blame(trace, name, tap, is_tied, arrays))
    found = _fit(_Sample(graph, tail, arrays, given), kernel, bias)
    if found is None and bias is not None:
        # Its share varies from row to row: it stays as it is, part of the offset.
        found = _fit(_Sample(graph, tail, arrays[:1], given), kernel, None)
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


class _Sample:
    """The tail of a network at random values, in NumPy."""

    def __init__(self, graph: Graph, tail: Tail, arrays: list[int], given: list[int]):
        random = np.random.default_rng(0)
        draw = lambda x, signed: _draw(random, graph.avals[x], signed)  # noqa: E731
        others = [x for x in (*tail.sources, *tail.cuts) if x not in arrays]
        self.graph, self.tail, self.arrays = graph, tail, arrays
        self.values = {x: draw(x, x in tail.sources) for x in others}
        self.features = _numbers(self.values[given[0]]) if given else None
        self.points = [draw(x, True) for x in arrays]
        self.zeros = [jnp.zeros_like(x) for x in self.points]
        self.shape = graph.avals[tail.result].shape

    def __call__(self, *points):
        values = dict(zip(self.arrays, points, strict=True))
        return self.tail.run({**self.values, **values})

    @property
    def eps(self) -> float:
        """Of the coarsest floating-point numbers met."""
        dtypes = [self.graph.avals[x].dtype for s in self.tail.steps for x in s.outputs]
        floats = [x for x in dtypes if jnp.issubdtype(x, jnp.floating)]
        return max([float(jnp.finfo(x).eps) for x in floats], default=1e-7)


def _draw(random: Any, aval: Any, signed: bool) -> jax.Array:
    """Returns random numbers; only positive ones where a logarithm may follow."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        key = jax.random.key(0)
        return jax.random.split(key, aval.shape) if aval.shape else key
    if aval.dtype == bool:
        return jnp.asarray(random.random(aval.shape) < 0.5)
    if not jnp.issubdtype(aval.dtype, jnp.floating):
        return jnp.zeros(aval.shape, aval.dtype)
    values = random.uniform(0.1, 1.0, aval.shape)
    signs = random.choice([-1.0, 1.0], aval.shape) if signed else 1.0
    return jnp.asarray(values * signs, aval.dtype)


def _numbers(x: jax.Array) -> np.ndarray:
    return np.asarray(x.astype(jnp.float32), np.float64)


def _fit(
    sample: _Sample, kernel: Path, bias: Path | None
) -> tuple[HeadLayout, bool, bool] | None:
    """Returns (layout, is_tapped, has_offset), or None where no layout fits."""
    array, *biases = sample.points
    offset, outputs = _numbers(sample(*sample.zeros)), _numbers(sample(*sample.points))
    added = _numbers(sample(sample.zeros[0], *biases)) - offset
    has_offset = bool(np.any(offset))
    for layout in _layouts(array.shape, sample.shape, kernel, bias):
        matrix = _numbers(to_matrix(array, layout))
        offsets, shares, results = (
            x.reshape(-1, matrix.shape[1]) for x in (offset, added, outputs)
        )
        tolerance = _ROUNDING * min(sample.eps, 1e-3)
        if bias is not None:
            scale = _bias_scale(biases[0], offsets, shares, tolerance)
            if scale is None:
                continue
            layout = layout._replace(bias_scale=scale)
        change = results - offsets - shares
        for is_tapped in (True, False):
            features = sample.features if is_tapped else _derivative(sample, layout)
            if features is None or features.size != len(results) * len(matrix):
                continue
            features = features.reshape(-1, len(matrix))
            size = abs(features) @ abs(matrix) + abs(offsets) + abs(shares) + 1e-30
            if np.all(abs(change - features @ matrix) <= tolerance * size):
                return layout, is_tapped, has_offset
    return None


def _bias_scale(bias, offsets, shares, tolerance) -> float | None:
    """Returns the one factor of the bias, or None where there is no such factor."""
    bias = _numbers(bias).reshape(-1)
    if bias.size != shares.shape[1]:
        return None
    scale = float(np.mean(shares[0] / bias))
    scale = 1.0 if abs(scale - 1) <= tolerance else scale
    size = abs(scale * bias)[None] + abs(offsets)
    fits = np.all(abs(shares - scale * bias[None]) <= tolerance * size)
    return scale if fits and scale != 0 else None


def _derivative(sample: _Sample, layout: HeadLayout) -> np.ndarray:
    array, *others = sample.zeros
    _, features = derivative_features(lambda x: sample(x, *others), array, layout)
    return _numbers(features)


def derivative_features(
    function: Callable[[jax.Array], jax.Array], array: jax.Array, layout: HeadLayout
) -> tuple[jax.Array, jax.Array]:
    """Returns an affine function at zero, and what multiplies its matrix.

    Whatever module holds the weights, `outputs = features @ matrix + function(0)`.
    k columns of the features are one derivative in direction of a unit matrix.

    Args:
      function: of an array of weights.
      array: such an array, for its shape and dtype.
      layout: how it makes a matrix `[d, k]`.

    Returns:
      The outputs at zero, and the features `[p, d]` of their p rows.
    """
    d, k = jax.eval_shape(lambda x: to_matrix(x, layout), array).shape
    outputs, linear = jax.linearize(function, jnp.zeros_like(array))

    def columns(block):
        first = block * k + jnp.arange(k)
        unit = jnp.arange(d)[:, None] == first[None, :]
        unit = from_matrix(unit.astype(array.dtype), layout, array.shape)
        return linear(unit).reshape(-1, k)

    blocks = jax.vmap(columns, out_axes=1)(jnp.arange(-(-d // k)))
    return outputs, blocks.reshape(len(blocks), -1)[:, :d]


def _layouts(
    kernel_shape: tuple[int, ...],
    shape: tuple[int, ...],
    kernel: Path,
    bias: Path | None,
) -> Iterator[HeadLayout]:
    """Yields the ways in which the axes of a kernel may be inputs and outputs."""
    rank = len(kernel_shape)
    axes = range(rank)
    numbers = [1, *range(2, rank)] if rank > 1 else [0]
    choices = [tuple(axes[rank - n :]) for n in numbers]
    choices += [tuple(axes[:n]) for n in numbers]
    if rank <= 5:
        choices += [c for n in numbers for c in itertools.combinations(axes, n)]
    for outputs in dict.fromkeys(choices):
        wanted = math.prod(kernel_shape[axis] for axis in outputs)
        trailing = _trailing(shape, wanted)
        if trailing is not None:
            inputs = tuple(axis for axis in axes if axis not in outputs)
            yield HeadLayout(kernel, bias, inputs, outputs, trailing)


def _trailing(shape: tuple[int, ...], num_outputs: int) -> tuple[int, ...] | None:
    """Returns the trailing axes that make up the outputs, () where they are squeezed.

    Targets of a scalar head may have no axis of their own.
    """
    if num_outputs == 1:
        return (1,) if shape[-1:] == (1,) and len(shape) > 1 else ()
    for start in reversed(range(len(shape))):
        if math.prod(shape[start:]) == num_outputs:
            return shape[start:]
    return None
