"""Records and aliases that the whole library shares."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

__all__ = [
    "Batch",
    "Batches",
    "HeadLayout",
    "InitTransform",
    "Key",
    "Model",
    "Path",
    "Tap",
    "Variables",
]

Key = jax.Array
"""A typed PRNG key, as made by `jax.random.key`."""

Path = tuple[str | int, ...]
"""Where a layer's parameters lie inside `variables["params"]`."""

Variables = Mapping[str, Any]
"""A network's arrays by collection, as `flax.linen.Module.init` returns them.

`variables["params"]` is trained by gradients; every other collection (batch
statistics, say) is state that a training pass may update.
"""


class Batch(NamedTuple):
    """Examples for one forward pass.

    Attributes:
      inputs: what the network is called with, leading axis n (any pytree).
      targets: `[n, ..., k]`, or `[n, ...]` where k = 1 or for labels.
      weights: non-negative weights, `[n]` of examples or `[n, ...]` of positions
        (tokens, pixels), or None for all ones. A 0/1 mask selects examples;
        zero-weight examples are never looked at.
    """

    inputs: Any
    targets: Any
    weights: Any = None


class Batches(NamedTuple):
    """Data as a fold, so that arrays and streams are one thing.

    Attributes:
      fold: `fold(step, state, *constants) -> state` calls
        `state = step(state, batch, *constants)` for every batch in order: inside a
        trace for arrays, as a Python loop of jitted steps for a stream.
      first: the first batch.
      while_loop: `while_loop(condition, body, state)` for a body that folds:
        `jax.lax.while_loop` for arrays, a Python loop for a stream.
      collect: `collect(function, *constants)` calls `function(index, batch,
        *constants)` for every batch in order and returns its arrays joined along their
        leading axis; None where examples cannot be brought to one place.
      num_examples: how many examples there are in all; None for a stream, which does
        not say.
    """

    fold: Callable[..., Any]
    first: Batch
    while_loop: Callable[..., Any] = jax.lax.while_loop
    collect: Callable[..., Any] | None = None
    num_examples: int | None = None


class Tap(NamedTuple):
    """What one layer received and what it returned in a forward pass.

    Attributes:
      inputs: `[..., d]`; for the head the features, one row a row of the outputs.
      outputs: `[..., k]`; for the head `inputs @ kernel + bias`.
      offset: `[..., k]`, only of the head: the outputs of the network minus those of
        its head (a constant, a skip connection); None where there is no such part.
    """

    inputs: jax.Array
    outputs: jax.Array
    offset: jax.Array | None = None


class HeadLayout(NamedTuple):
    """Where a head's matrix `[d, k]` and bias `[k]` lie among the parameters.

    Attributes:
      kernel: path of the array of weights inside `variables["params"]`.
      bias: path of the array of biases; None where the head has none.
      input_axes: axes of the kernel that together make d, in order.
      output_axes: axes of the kernel that together make k, in order.
      output_shape: trailing axes of the network's output that make k.
      bias_scale: the network adds `bias_scale` times the bias.
      is_shifted: whether the network puts out the head's outputs plus one number a
        row, as `log_softmax` does; a loss has to be blind to that number.
    """

    kernel: Path
    bias: Path | None
    input_axes: tuple[int, ...] = (0,)
    output_axes: tuple[int, ...] = (1,)
    output_shape: tuple[int, ...] = ()
    bias_scale: float = 1.0
    is_shifted: bool = False


class Model(NamedTuple):
    """A network as a record of pure functions; the library sees nothing else.

    `linen.as_model` and `nnx.as_model` make one from a Flax module. A
    hand-written record serves as well.

    Attributes:
      init: `init(key) -> variables`.
      apply: `apply(variables, inputs) -> outputs`, the inference pass.
      apply_train: `apply_train(variables, inputs, key) -> (outputs, variables)`,
        the training pass: dropout draws from `key`, and the returned variables
        hold the updated state.
      taps: `taps(variables, inputs, key) -> {path: Tap}` for every path in
        `layers`, and for the head.
      layers: paths of the affine layers (dense and convolution), in call order.
      head: path of the last affine layer, the one that is solved for.
      layout: how the head's parameters make a matrix; None for a layer with a
        "kernel" `[d, k]` and perhaps a "bias" `[k]`.
      tap_mode: the pass that `taps` looks at, "inference" or "training".
      tap_train: `tap_train(variables, inputs, key) -> (taps, variables)`, `taps` of a
        training pass and the state that it updated; None makes it two passes.
    """

    init: Callable[[Key], Variables]
    apply: Callable[[Variables, Any], jax.Array]
    apply_train: Callable[[Variables, Any, Key], tuple[jax.Array, Variables]]
    taps: Callable[[Variables, Any, Key], dict[Path, Tap]]
    layers: tuple[Path, ...]
    head: Path
    layout: HeadLayout | None = None
    tap_mode: Literal["inference", "training"] = "inference"
    tap_train: Callable[[Variables, Any, Key], tuple[Any, Variables]] | None = None


InitTransform = Callable[[Key, Model, Variables, Batches], tuple[Variables, Any]]
"""`init(key, model, variables, batches) -> (variables, info)`, a pure function."""
