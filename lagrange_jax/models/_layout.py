"""How an affine tail of a network makes features times a matrix."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lagrange_jax.models._graph import Graph, Tail
from lagrange_jax.models.params import from_matrix, to_matrix
from lagrange_jax.types import HeadLayout, Path

__all__ = ["Sample", "derivative_features", "fit_layout"]

# Relative rounding of a sum of products, in units of the coarsest dtype's eps.
_ROUNDING = 64


class Sample:
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


def fit_layout(
    sample: Sample, kernel: Path, bias: Path | None
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


def _derivative(sample: Sample, layout: HeadLayout) -> np.ndarray:
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
    # The most outputs first: they share their features.
    numbers = [*reversed(range(2, rank)), 1] if rank > 1 else [0]
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
