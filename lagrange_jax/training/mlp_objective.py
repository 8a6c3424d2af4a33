r"""The fast path for grids of small dense networks on a CPU.

A plain `vmap` over networks with fifteen hidden units leaves a CPU with tiny matrix
products over data it must fetch again for each network. Here the networks that see
the same examples (all strengths of one size and seed) are trained as one: their
first layers form a single matrix product, the examples lie along the minor axis,
and they are taken in tiles that stay in the cache, as many as `num_examples` asks
for and no more.

Only the loss and its gradient are done differently, by an objective for `make_train`.
Initialisation, optimiser, schedule and records are its own, with the same numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from lagrange_jax._checks import require_callable, require_kind
from lagrange_jax.models.params import get_layer, set_layer
from lagrange_jax.training.objective import LossFn, Objective, example_losses
from lagrange_jax.types import Batch, Model

__all__ = ["mlp_objective"]

# Examples in a tile. The hidden layers of 14 networks of 15 units are then about
# 100 KiB and stay in the second-level cache. Tiles of 256 are 5 % faster where there
# are thousands of examples and 70 % slower where there are a hundred; 512 take twice
# as long throughout.
TILE = 128

# Products may be rounded to bfloat16 on accelerators, 2^-8 a term; another
# activation or a layer between is off by order one.
FORM_TOLERANCE = 0.05


class _Layers(NamedTuple):
    """Weights of a network with one hidden layer, or of s of them side by side."""

    kernel_1: Float[Array, "*s d m"]
    bias_1: Float[Array, "*s m"]
    kernel_2: Float[Array, "*s m k"]
    bias_2: Float[Array, "*s k"]


class _Merged(NamedTuple):
    """The same for s networks, with their first layers as one."""

    affine_1: Float[Array, "d+1 s*m"]
    kernel_2: Float[Array, "s m k"]
    bias_2: Float[Array, "s k"]


def mlp_objective(
    model: Model, loss_fn: LossFn, activation: Callable[[Array], Array]
) -> Objective:
    """Returns the mean loss of networks with one hidden layer, in tiles.

    For `make_train(..., objective=...)`, whose training function `run_grid` then maps
    with `vmap_axes=("strength",)`: all strengths of one size and seed side by side.
    Further axes that act on the weights alone, such as an initial scale, may join them.
    Sizes, and keys that decide the data or the mini-batches, take turns.

    Args:
      model: a network `dense(activation(dense(inputs)))` with biases.
      loss_fn: one loss an example.
      activation: the elementwise activation of the hidden layer.

    Returns:
      The objective.

    Raises:
      ValueError: if the network is not of this form; later, under `jax.vmap`, if the
        networks do not see the same examples.
    """
    require_kind("model", model, Model)
    require_callable("loss_fn", loss_fn)
    require_callable("activation", activation)
    _check_form(model, activation)
    value_and_grad = _make_value_and_grad(loss_fn, activation)

    def loss(variables, batch):
        return value_and_grad(_get_layers(model, variables), batch)[0]

    def gradient(variables, batch, key):
        del key
        value, layers = value_and_grad(_get_layers(model, variables), batch)
        return value, variables, _set_layers(model, variables, layers)["params"]

    return Objective(loss, gradient)


def _make_value_and_grad(loss_fn, activation):
    """Returns the mean loss and its gradient, merged over networks under `vmap`."""
    family = partial(_family_value_and_grad, loss_fn, activation)

    @custom_vmap
    def value_and_grad(layers, batch):
        single = jax.tree.map(lambda x: x[None], layers)
        return jax.tree.map(lambda x: x[0], family(single, batch))

    @value_and_grad.def_vmap
    def rule(axis_size, in_batched, layers, batch):
        layers_batched, batch_batched = in_batched
        if any(jax.tree.leaves(batch_batched)):
            raise ValueError(
                "networks that are trained side by side must see the same examples; "
                "got a vmapped batch. Use run_grid(..., vmap_axes=('strength',)), or "
                "make_train without this objective for a plain vmap over sizes and "
                "keys."
            )
        layers = jax.tree.map(
            lambda x, batched: (
                x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            ),
            layers,
            layers_batched,
        )
        out = family(layers, batch)
        return out, jax.tree.map(lambda _: True, out)

    return value_and_grad


def _family_value_and_grad(loss_fn, activation, layers: _Layers, batch: Batch):
    """Mean loss and gradient of s networks on one batch, tile by tile."""
    rows = len(batch.targets)
    size = min(TILE, rows)
    weights = jnp.ones(rows) if batch.weights is None else batch.weights
    # Tiles behind the last example that counts are not looked at.
    last = jnp.max(jnp.where(weights > 0, jnp.arange(1, rows + 1), 0))
    merged = _merge(layers)

    def add(i, totals):
        start = jnp.minimum(i * size, rows - size)
        cut = lambda x: lax.dynamic_slice_in_dim(x, start, size)  # noqa: E731
        inputs, targets, share = cut(batch.inputs), cut(batch.targets), cut(weights)
        # Where the last tile was moved back it repeats examples: they count once.
        share = jnp.where(start + jnp.arange(size) < i * size, 0, share)
        tile = _tile(loss_fn, activation, merged, Batch(inputs, targets, share))
        return jax.tree.map(jnp.add, totals, tile)

    zeros = jnp.zeros(len(layers.bias_1)), jax.tree.map(jnp.zeros_like, merged)
    totals = lax.fori_loop(0, (last + size - 1) // size, add, zeros)
    weight = weights.sum().astype(float)
    scale = 1 / jnp.where(weight > 0, weight, 1)
    loss, gradient = jax.tree.map(lambda x: scale.astype(x.dtype) * x, totals)
    return loss, _split(gradient)


def _tile(loss_fn, activation, merged: _Merged, batch: Batch):
    """Summed loss and gradient of s networks on one tile, examples minor.

    The order of the arguments of each product is the one that XLA's CPU kernels run
    fastest; exchanging them costs half as much time again.
    """
    s, m, _ = merged.kernel_2.shape
    rows = len(batch.inputs)
    inputs = jnp.concatenate([batch.inputs.T, jnp.ones((1, rows), batch.inputs.dtype)])
    hidden, backward = jax.vjp(activation, _dot(merged.affine_1, inputs, 0, 0))
    hidden = hidden.reshape(s, m, rows)
    outputs = _batched_dot(merged.kernel_2, hidden, 1, 1) + merged.bias_2[:, :, None]

    def loss(outputs):
        losses = example_losses(loss_fn, outputs.T, batch.targets)
        weights = batch.weights.astype(losses.dtype)
        return jnp.where(weights > 0, weights * losses, 0).sum()

    losses, errors = jax.vmap(jax.value_and_grad(loss))(outputs)
    errors_1 = _batched_dot(merged.kernel_2, errors, 2, 1).reshape(s * m, rows)
    (errors_1,) = backward(errors_1)
    return losses, _Merged(
        affine_1=_dot(inputs, errors_1, 1, 1),
        kernel_2=_batched_dot(hidden, errors, 2, 2),
        bias_2=errors.sum(-1),
    )


def _merge(layers: _Layers) -> _Merged:
    s, d, m = layers.kernel_1.shape
    affine = jnp.concatenate([layers.kernel_1, layers.bias_1[:, None]], axis=1)
    affine = affine.transpose(1, 0, 2).reshape(d + 1, s * m)
    return _Merged(affine, layers.kernel_2, layers.bias_2)


def _split(merged: _Merged) -> _Layers:
    s, m, _ = merged.kernel_2.shape
    affine = merged.affine_1.reshape(-1, s, m).transpose(1, 0, 2)
    return _Layers(affine[:, :-1], affine[:, -1], merged.kernel_2, merged.bias_2)


def _dot(a, b, axis_a, axis_b):
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


def _batched_dot(a, b, axis_a, axis_b):
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((0,), (0,))))


def _get_layers(model, variables) -> _Layers:
    first, second = (get_layer(variables, path) for path in model.layers)
    return _Layers(first["kernel"], first["bias"], second["kernel"], second["bias"])


def _set_layers(model, variables, layers: _Layers):
    first, second = model.layers
    variables = set_layer(variables, first, kernel=layers.kernel_1, bias=layers.bias_1)
    return set_layer(variables, second, kernel=layers.kernel_2, bias=layers.bias_2)


def _check_form(model, activation):
    """Raises unless the network is dense, activation, dense, with two biases."""
    expected = (
        "expected a network dense(activation(dense(inputs))) of two dense layers with "
        "biases"
    )
    # Also inside a trace the network is checked on numbers, once.
    with jax.ensure_compile_time_eval():
        variables = model.init(jax.random.key(0))
        layers = [get_layer(variables, path) for path in model.layers]
        if len(layers) != 2 or any(
            set(layer) != {"kernel", "bias"} or layer["kernel"].ndim != 2
            for layer in layers
        ):
            raise ValueError(f"{expected}; got the layers {model.layers}.")
        layers = _get_layers(model, variables)
        inputs = jax.random.normal(jax.random.key(1), (8, len(layers.kernel_1)))
        hidden = activation(inputs @ layers.kernel_1 + layers.bias_1[None])
        outputs = hidden @ layers.kernel_2 + layers.bias_2[None]
        found, _ = model.apply_train(variables, inputs, jax.random.key(2))
        if found.shape != outputs.shape or not jnp.allclose(
            found, outputs, rtol=FORM_TOLERANCE, atol=FORM_TOLERANCE
        ):
            name = getattr(activation, "__name__", activation)
            raise ValueError(
                f"{expected} and the activation {name}; the given network returns "
                "something else. Leave objective=None: make_train takes any network."
            )
