"""Records and aliases that the whole library shares."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

__all__ = [
    "Batch",
    "Batches",
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
      targets: `[n, ..., k]`, or `[n]` where k = 1.
      weights: `[n]` non-negative weights of the examples, or None for all ones.
        A 0/1 mask selects examples; zero-weight examples are never looked at.
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
    """

    fold: Callable[..., Any]
    first: Batch
    while_loop: Callable[..., Any] = jax.lax.while_loop
    collect: Callable[..., Any] | None = None


class Tap(NamedTuple):
    """What one layer received and what it returned in a forward pass."""

    inputs: jax.Array
    outputs: jax.Array


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
        `layers`; in inference or training mode, as the maker of the record chose.
      layers: paths of the affine layers (dense and convolution), in call order.
      head: path of the last affine layer, the one that is solved for.
    """

    init: Callable[[Key], Variables]
    apply: Callable[[Variables, Any], jax.Array]
    apply_train: Callable[[Variables, Any, Key], tuple[jax.Array, Variables]]
    taps: Callable[[Variables, Any, Key], dict[Path, Tap]]
    layers: tuple[Path, ...]
    head: Path


InitTransform = Callable[[Key, Model, Variables, Batches], tuple[Variables, Any]]
"""`init(key, model, variables, batches) -> (variables, info)`, a pure function."""
