"""Is the network affine in the kernel of its head? Checked on an example."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lagrange_jax.models._affine import Layer, describe_choices, format_path
from lagrange_jax.models.params import get_layer, set_layer
from lagrange_jax.types import Key, Path, Tap, Variables

__all__ = ["check_head"]

Forward = Callable[[Variables, Any, Key], tuple[Any, dict[Path, Tap]]]

# Products may be rounded to bfloat16 on accelerators; the terms of a sum of d of
# them add up to a few units of 2^-8. A head that is not affine is off by order one.
_TOLERANCE = 0.05

# The head's inputs come from one compiled program run twice, so they agree but for
# the order of parallel sums; tied weights may move saturated units by very little.
_UNCHANGED = 1e-4

# Below any size that matters: keeps 0 / 0 out where all values are zero.
_TINY = 1e-30


def _noise(key: Key, tree: Any, size: float) -> Any:
    """Returns uniform noise in [-size, size] for floating leaves, zeros for others."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))

    def draw(key, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros_like(x)
        return jax.random.uniform(key, x.shape, x.dtype, -size, size)

    return treedef.unflatten([draw(*pair) for pair in zip(keys, leaves, strict=True)])


def _randomise(
    key: Key, variables: Variables, head: Path, inputs: Any
) -> tuple[Variables, Any]:
    """Adds noise where zeros would hide a mistake: tanh(0) = 0, and tied 0 = 0."""
    for_params, for_head, for_inputs = jax.random.split(key, 3)
    add = lambda x, noise: x + noise  # noqa: E731
    moved = jax.tree.map(
        add, variables["params"], _noise(for_params, variables["params"], 0.1)
    )
    variables = {**variables, "params": moved}
    layer = get_layer(variables, head)
    layer = jax.tree.map(add, layer, _noise(for_head, layer, 3.0))
    # Only placeholders, all zero, are replaced: real inputs may have to be positive.
    inputs = jax.tree.map(
        lambda x, noise: jnp.where(jnp.any(x != 0), x, jnp.abs(noise)),
        inputs,
        _noise(for_inputs, inputs, 1.0),
    )
    return set_layer(variables, head, **layer), inputs


def _by_hand(features: jax.Array, variables: Variables, head: Path) -> jax.Array:
    layer = get_layer(variables, head)
    arrays = {name: value.astype(jnp.float32) for name, value in layer.items()}
    outputs = jnp.matmul(features, arrays["kernel"], precision="highest")
    bias = arrays.get("bias", jnp.zeros(outputs.shape[-1]))
    return outputs + jnp.broadcast_to(bias, outputs.shape)


class _Deviation(NamedTuple):
    """What should be finite, and three relative errors that should be zero."""

    size: Any
    after_head: Any
    of_features: Any
    of_layer: Any


def _measure(
    forward: Forward, variables: Variables, head: Path, inputs: Any, key: Key
) -> _Deviation:
    """Compares the network with its head computed by hand, for two kernels."""
    for_start, for_kernel, for_forward = jax.random.split(key, 3)
    variables, inputs = _randomise(for_start, variables, head, inputs)
    kernel = get_layer(variables, head)["kernel"]

    def run(kernel):
        moved = set_layer(variables, head, kernel=kernel)
        outputs, taps = forward(moved, inputs, for_forward)
        tap = jax.tree.map(lambda x: x.astype(jnp.float32), taps[head])
        outputs = outputs.astype(jnp.float32).reshape(tap.outputs.shape)
        return tap.inputs, outputs, tap.outputs, _by_hand(tap.inputs, moved, head)

    # One compiled forward pass for both kernels; results [2, ...].
    kernels = jnp.stack([kernel, kernel + _noise(for_kernel, kernel, 1.0)])
    features, outputs, head_outputs, expected = jax.lax.map(run, kernels)
    size = jnp.max(jnp.abs(outputs)) + jnp.max(jnp.abs(features))
    scale = jnp.maximum(jnp.max(jnp.abs(head_outputs)), _TINY)
    features_scale = jnp.maximum(jnp.max(jnp.abs(features)), _TINY)
    return _Deviation(
        size,
        after_head=jnp.max(jnp.abs(outputs - head_outputs)) / scale,
        of_features=jnp.max(jnp.abs(features[1] - features[0])) / features_scale,
        of_layer=jnp.max(jnp.abs(head_outputs - expected)) / scale,
    )


def _after_head(name: str, found: str, choices: str) -> ValueError:
    return ValueError(
        f"the output of the network is not the output of head {name!r}: {found}. "
        "Return the logits (or predictions) of the last dense layer from the "
        f"module, or name another layer with head=.... {choices}"
    )


def _check_shapes(outputs: Any, tap: Tap, name: str, choices: str) -> None:
    if not hasattr(outputs, "shape"):
        raise _after_head(name, f"it is a {type(outputs).__name__}", choices)
    expected = tap.outputs.shape
    # A scalar head may drop its last axis: targets of shape [n] do the same.
    squeezed = expected[:-1] if expected[-1:] == (1,) else expected
    if outputs.shape not in (expected, squeezed):
        found = f"its shape is {outputs.shape}, the head's {expected}"
        raise _after_head(name, found, choices)


def check_head(
    forward: Forward,
    init: Callable[[Key], Variables],
    head: Path,
    layers: Sequence[Layer],
    inputs: Any,
) -> None:
    """Checks on an example that the network is affine in the kernel of its head.

    At random parameters the outputs must be those of the head, the head's must be
    `features @ kernel + bias`, and another kernel must leave the features alone.

    Args:
      forward: `forward(variables, inputs, key) -> (outputs, taps)`.
      init: `init(key) -> variables`.
      head: path of the head.
      layers: all layers met, for the messages.
      inputs: an example of one or two rows.

    Raises:
      ValueError: one of the three does not hold.
    """
    name, choices = format_path(head), describe_choices(layers)
    key = jax.random.key(0, impl="rbg")  # compiles in half the time of the default
    outputs, taps = jax.eval_shape(lambda k: forward(init(k), inputs, k), key)
    _check_shapes(outputs, taps[head], name, choices)
    # JIT keeps this cheap for deep networks: everything after init is one program.
    measure = jax.jit(lambda k, x: _measure(forward, init(k), head, x, k))
    deviation = _Deviation(*map(float, measure(key, inputs)))
    if not math.isfinite(deviation.size):
        raise ValueError(
            "the network gives non-finite values on example_inputs, so its head "
            f"{name!r} cannot be checked. Pass finite, typical inputs."
        )
    if deviation.after_head > _TOLERANCE:
        raise _after_head(name, "something (a softmax?) follows it", choices)
    if deviation.of_features > _UNCHANGED:
        raise ValueError(
            f"the inputs of head {name!r} change with its own kernel: its weights are "
            "tied to an earlier layer. Give the head weights of its own, or name "
            f"another layer with head=.... {choices}"
        )
    if deviation.of_layer > _TOLERANCE:
        raise ValueError(
            f"the output of head {name!r} is not inputs @ kernel + bias: its kernel is "
            "transformed before it is used (weight normalisation? LoRA?). Use a plain "
            f"dense layer, or name another layer with head=.... {choices}"
        )
