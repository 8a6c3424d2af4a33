"""Steps and epochs of an optimiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from lagrange_jax.training.objective import Objective
from lagrange_jax.types import Batch, Key, Variables

__all__ = ["State", "make_advance", "make_update"]


class State(NamedTuple):
    """A network in training."""

    variables: Variables
    optimizer: Any
    diverged: jax.Array


def make_update(objective: Objective, optimizer: Any) -> Callable[..., State]:
    """Returns `update(state, batch, key) -> state`, one step of the optimiser."""

    def update(state: State, batch: Batch, key: Key) -> State:
        loss, variables, gradient = objective.gradient(state.variables, batch, key)
        params = variables["params"]
        chex.assert_rank(loss, 0)  # an objective of the user's own promises both
        chex.assert_trees_all_equal_shapes(gradient, params)
        told = dict(value=loss, grad=gradient)
        value_fn = _make_value_fn(objective, state.variables, batch, key)
        # Optax's Adam raises a Python float to an integer count.
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimizer.update(
                gradient, state.optimizer, params, value_fn=value_fn, **told
            )
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(updates))
        params = optax.apply_updates(params, updates)
        diverged = state.diverged | ~finite
        new = State({**variables, "params": params}, memory, diverged)
        keep = lambda old, new: jnp.where(diverged, old, new)  # noqa: E731
        return jax.tree.map(keep, state._replace(diverged=diverged), new)

    return update


def _make_value_fn(objective, variables, batch, key):
    """Returns the loss of one batch and of one draw, as a line search evaluates it."""

    def value_and_grad(params):
        trial = {**variables, "params": params}
        value, _, gradient = objective.gradient(trial, batch, key)
        return value, gradient

    # Its own gradient: an objective need not be differentiable by JAX.
    @jax.custom_vjp
    def value_fn(params):
        return value_and_grad(params)[0]

    def backward(gradient, cotangent):
        scale = lambda x: (cotangent * x).astype(x.dtype)  # noqa: E731
        return (jax.tree.map(scale, gradient),)

    value_fn.defvjp(value_and_grad, backward)
    return value_fn


def make_advance(
    update: Callable[..., State],
    data: Batch,
    count: Any,
    batch_size: int | None,
    by_epoch: bool,
) -> Callable[..., State]:
    """Returns `advance(state, key) -> state`, one epoch or one step."""
    if batch_size is None:
        return lambda state, key: update(state, data, key)
    size = len(data.targets)
    take = lambda rows: jax.tree.map(lambda x: x[rows], data)  # noqa: E731

    def step(state, key):
        draw_key, update_key = jax.random.split(key)
        rows = jax.random.randint(draw_key, (batch_size,), 0, count)
        return update(state, take(rows), update_key)

    def epoch(state, key):
        order_key, update_key = jax.random.split(key)
        order = _shuffle(order_key, size, count)

        def body(i, state):
            ranks = i * batch_size + jnp.arange(batch_size)
            batch = take(order[jnp.minimum(ranks, size - 1)])
            # The last mini-batch of an epoch may be short.
            weights = jnp.where(ranks < count, batch.weights, 0)
            batch = batch._replace(weights=weights)
            return update(state, batch, jax.random.fold_in(update_key, i))

        return lax.fori_loop(0, (count + batch_size - 1) // batch_size, body, state)

    return epoch if by_epoch else step


def _shuffle(key, size, count):
    """Returns the first `count` indices in random order, then the others."""
    rank = jax.random.uniform(key, (size,))
    return jnp.argsort(jnp.where(jnp.arange(size) < count, rank, 2.0))
