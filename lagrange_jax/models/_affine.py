"""Which layers of a network are affine, and which one is the head?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lagrange_jax.models.params import get_layer
from lagrange_jax.types import Path, Tap, Variables

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "TAPS",
    "Layer",
    "check_features",
    "describe_choices",
    "example_rows",
    "find_head",
    "find_layers",
    "format_path",
    "read_taps",
    "tappable_paths",
]

# Names under which the adapters sow what a layer receives and returns.
TAPS = "lagrange_jax_taps"
INPUTS, OUTPUTS = "lagrange_jax_inputs", "lagrange_jax_outputs"

Calls = dict[Path, tuple[bool, int]]
Taps = dict[Path, list[Tap]]


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


def format_path(path: Path) -> str:
    """Returns a path as users write it, "encoder/Dense_0"."""
    return "/".join(map(str, path)) if path else "(the module itself)"


def check_features(features: str) -> None:
    """Raises ValueError unless `features` is "inference" or "training"."""
    if features not in ("inference", "training"):
        raise ValueError(
            f'features must be "inference" or "training", got {features!r}.'
        )


def example_rows(inputs: Any) -> Any:
    """Returns the first two rows of every array in `inputs`, enough for a check."""
    rows = jax.tree.map(lambda x: x[:2] if jnp.ndim(x) else x, inputs)
    return jax.tree.map(jnp.asarray, rows)


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


def _kernel_rank(variables: Variables, path: Path) -> int:
    try:
        return get_layer(variables, path)["kernel"].ndim
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0


def find_layers(
    trace: Callable[[], tuple[Calls, Taps]], variables: Variables
) -> tuple[Layer, ...]:
    """Returns the affine layers of a network in call order.

    Args:
      trace: traces a forward pass; returns (is_dense, rank of its kernel) for every
        layer called, in order, and the taps that got out.
      variables: the network's variables, possibly abstract.
    """
    calls, taps = trace()
    if set(taps) - set(calls):  # a cached jit inside the network hides its calls
        with jax.disable_jit():
            calls, taps = trace()
    return tuple(
        Layer(
            path, is_dense, len(taps.get(path, ())), _kernel_rank(variables, path) == n
        )
        for path, (is_dense, n) in calls.items()
    )


def tappable_paths(layers: Sequence[Layer]) -> tuple[Path, ...]:
    """Returns the paths of the layers called once, with a kernel of their own."""
    return tuple(x.path for x in layers if x.num_calls == 1 and x.has_kernel)


def describe_choices(layers: Sequence[Layer]) -> str:
    """Returns a sentence that lists the dense layers, for error messages."""
    names = [repr(format_path(x.path)) for x in layers if x.is_dense]
    return f"The dense layers are, in call order: {', '.join(names) or 'none'}."


def _named(layers: Sequence[Layer], head: str | Sequence[str | int]) -> Layer:
    parts = head.replace(".", "/").split("/") if isinstance(head, str) else head
    wanted = [str(part) for part in parts if part != ""]
    for layer in layers:
        if [str(part) for part in layer.path] == wanted:
            return layer
    raise ValueError(
        f"no layer {head!r} is called in the network. {describe_choices(layers)}"
    )


def find_head(
    layers: Sequence[Layer], head: str | Sequence[str | int] | None = None
) -> Path:
    """Returns the path of the head: the named layer, or the last dense one called.

    Args:
      layers: the layers of the network in call order.
      head: "a/b", "a.b" or ("a", "b"); None for the last dense layer.

    Raises:
      ValueError: there is no such layer, or it is not a dense layer called once.
    """
    dense = [layer for layer in layers if layer.is_dense]
    if head is None and not dense:
        raise ValueError(
            "the network calls no dense layer, so it has no head to solve for. "
            "Let it end in one (flax.linen.Dense or flax.nnx.Linear)."
        )
    layer = dense[-1] if head is None else _named(layers, head)
    name = format_path(layer.path)
    if not layer.is_dense:
        raise ValueError(
            f"head {name!r} is a convolution; the head must be a dense layer. "
            f"Name another one with head=.... {describe_choices(layers)}"
        )
    if layer.num_calls > 1:
        raise ValueError(
            f"head {name!r} is called {layer.num_calls} times in one forward pass, so "
            "the output is not affine in its kernel. Give the last call a layer of "
            f"its own, or name another layer with head=.... {describe_choices(layers)}"
        )
    if layer.num_calls == 0 or not layer.has_kernel:
        raise ValueError(
            f"head {name!r} runs inside a lifted transform (scan, vmap, weight "
            "normalisation), where its inputs or kernel are out of reach. Move it out, "
            f"or name another layer with head=.... {describe_choices(layers)}"
        )
    return layer.path
