"""A `Model` from what an adapter knows of its network."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from lagrange_jax.models import _affine as affine
from lagrange_jax.models._calls import Output, select
from lagrange_jax.models._graph import make_graph
from lagrange_jax.models._head import (
    Head,
    Trace,
    lead_shape,
)
from lagrange_jax.models._layout import derivative_features
from lagrange_jax.models.params import (
    HeadArrays,
    get_head,
    read_array,
    set_head,
    write_array,
)
from lagrange_jax.types import Key, Model, Path, Tap, Variables

__all__ = ["Network", "build_model"]


class Network(NamedTuple):
    """A Flax module as pure functions, before its head is known.

    Attributes:
      init: `init(key) -> variables`.
      run: `run(variables, inputs, key, training) -> (outputs, variables)`.
      tap: `tap(calls) -> run_tapped`, where `run_tapped(variables, inputs, key) ->
        (outputs, taps, variables)` is the pass that is tapped; it lists the layers
        called in `calls` unless that is None.
    """

    init: Callable[[Key], Variables]
    run: Callable[..., tuple[Any, Variables]]
    tap: Callable[[affine.Calls | None], Callable[..., tuple[Any, affine.Taps, Any]]]


def build_model(
    network: Network,
    example: Any,
    head: str | Sequence[str | int] | None,
    output: Output,
    tap_mode: Any,
) -> Model:
    """Finds the head of a network and returns the `Model`.

    Args:
      network: the network.
      example: inputs of one or two rows, possibly abstract.
      head: as in `as_model`.
      output: as in `as_model`.
      tap_mode: the pass that `network.tap` makes.
    """
    require_mode(tap_mode)
    trace, layers = _trace(network, example, output)
    found = affine.find_head(trace, layers, head)
    paths = affine.tappable_paths(layers)
    run, run_tapped = network.run, network.tap(None)
    fixed = tap_mode == "inference"

    def apply(variables, inputs):
        return select(run(variables, inputs, jax.random.key(0), False)[0], output)

    def apply_train(variables, inputs, key):
        outputs, updated = run(variables, inputs, key, True)
        return select(outputs, output), updated

    def forward(variables, inputs, key):
        # An inference pass that draws numbers draws those of `apply`.
        key = jax.random.key(0) if fixed else key
        outputs, taps, updated = run_tapped(variables, inputs, key)
        taps = {path: x[-1] for path, x in taps.items()}
        return select(outputs, output), taps, updated

    model = Model(
        network.init, apply, apply_train, lambda *_: {}, paths, found.path,
        found.layout, tap_mode,
    )  # fmt: skip
    taps, tap_train = _make_taps(model, found, forward)
    return model._replace(taps=taps, tap_train=None if fixed else tap_train)


def require_mode(tap_mode: str) -> None:
    """Raises ValueError unless `tap_mode` is "inference" or "training"."""
    if tap_mode not in ("inference", "training"):
        raise ValueError(
            f'tap_mode must be "inference" or "training", got {tap_mode!r}.'
        )


def _trace(network, example, output) -> tuple[Trace, tuple[affine.Layer, ...]]:
    calls: affine.Calls = {}
    run = network.tap(calls)
    counts: dict[Path, int] = {}

    def tapped(variables, inputs, key):
        outputs, taps, _ = run(variables, inputs, key)
        counts.update({path: len(x) for path, x in taps.items()})
        chosen = select(outputs, output)
        _require_floating(chosen)
        return chosen, {path: tuple(x[-1][:2]) for path, x in taps.items()}

    abstract = jax.eval_shape(network.init, jax.random.key(0))
    args = abstract, example, jax.random.key(0)
    # Accelerators round products; the check compares two ways to make one.
    with jax.default_matmul_precision("highest"):
        graph = make_graph(tapped, *args)
    if set(counts) - set(calls):  # a cached jit inside the network hides its calls
        with jax.disable_jit():
            jax.eval_shape(tapped, *args)
    params = _params(graph.inputs, args)
    ranks = {path: len(graph.avals[x].shape) for path, x in params.items()}
    chosen, taps = graph.outputs
    layers = affine.find_layers(calls, counts, ranks)
    return Trace(graph, chosen, params, taps), layers


def _require_floating(chosen):
    if not jnp.issubdtype(chosen.dtype, jnp.floating) or chosen.ndim == 0:
        raise ValueError(
            "expected the network to put out floating-point numbers, one row an "
            f"example; got {chosen.dtype}{list(chosen.shape)}. Return logits or "
            "predictions, or select them with output=...."
        )


def _params(names, args) -> dict[Path, int]:
    """Returns the value of every parameter; Flax's boxes do not count as levels."""
    found = {}
    leaves = jax.tree_util.tree_leaves_with_path(args)
    for name, (keys, _) in zip(names, leaves, strict=True):
        path = tuple(key.key for key in keys[1:] if isinstance(key, DictKey))
        if keys[0].idx == 0 and path[:1] == ("params",):
            found[path[1:]] = name
    return found


def _multiply(features: jax.Array, head: HeadArrays, like: jax.Array) -> jax.Array:
    kernel = head.kernel.astype(features.dtype)
    outputs = jnp.matmul(features, kernel, precision="highest").astype(like.dtype)
    if head.bias is None:
        return outputs
    return outputs + jnp.broadcast_to(head.bias.astype(like.dtype), outputs.shape)


def _make_taps(model: Model, head: Head, forward: Any) -> tuple[Any, Any]:
    """Returns `taps` and `tap_train`; the inputs of the head are the features."""
    layout = head.layout

    def shaped(rows, outputs):
        lead = lead_shape(outputs.shape, layout)
        return rows.reshape(*lead, -1)

    def plain(variables, inputs, key):
        outputs, taps, updated = forward(variables, inputs, key)
        own = taps[head.path]
        outputs = own.outputs if layout.is_shifted else outputs
        tap = Tap(shaped(own.inputs, outputs), shaped(outputs, outputs))
        return taps, tap, updated

    def with_offset(variables, inputs, key):
        old = get_head(model, variables)
        zero = jax.tree.map(jnp.zeros_like, old)
        variables = set_head(model, variables, *zero)
        outputs, taps, updated = forward(variables, inputs, key)
        features = shaped(taps[head.path].inputs, outputs)
        offset = shaped(outputs, outputs)
        return taps, Tap(features, _multiply(features, old, offset), offset), updated

    def free(variables, inputs, key):
        old = get_head(model, variables)
        zero = jax.tree.map(jnp.zeros_like, old)
        variables = set_head(model, variables, *zero)
        array = read_array(variables, layout.kernel)

        def run(array):
            moved = write_array(variables, layout.kernel, array)
            return forward(moved, inputs, key)[0]

        outputs, rows = derivative_features(run, array, layout)
        features, offset = shaped(rows, outputs), shaped(outputs, outputs)
        _, taps, updated = forward(variables, inputs, key)
        tap = Tap(features, _multiply(features, old, offset), offset)
        return taps, tap if head.has_offset else tap._replace(offset=None), updated

    make = free if not head.is_tapped else with_offset if head.has_offset else plain

    def tap_train(variables, inputs, key):
        found, own, updated = make(variables, inputs, key)
        taps = {path: found[path] for path in model.layers} | {head.path: own}
        return taps, {**updated, "params": variables["params"]}

    return lambda *arguments: tap_train(*arguments)[0], tap_train
