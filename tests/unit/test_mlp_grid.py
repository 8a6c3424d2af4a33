"""The tiled path gives the numbers of the general one, and says when it cannot."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lagrange_jax.initializers.lagrange import lagrange
from lagrange_jax.initializers.transforms import chain, reinitialize
from lagrange_jax.models import linen
from lagrange_jax.training.grid import grid_mesh, run_grid
from lagrange_jax.training.mlp_objective import mlp_objective
from lagrange_jax.training.objective import make_objective
from lagrange_jax.training.train import make_train
from lagrange_jax.transforms.masks import kernels_only
from lagrange_jax.transforms.penalties import add_elastic_net_penalty, add_l1_penalty
from lagrange_jax.types import Batch

# One more than two tiles, so that the last tile is moved back.
NUM_EXAMPLES = 257


class MLP(nn.Module):
    activation: str = "tanh"
    outputs: int = 1
    use_bias: bool = True
    depth: int = 1

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = getattr(nn, self.activation)(nn.Dense(7)(x))
        return nn.Dense(self.outputs, use_bias=self.use_bias)(x)


LOSSES = {
    "squared": (optax.losses.squared_error, 2),
    "logistic": (optax.losses.sigmoid_binary_cross_entropy, 1),
    "softmax": (optax.losses.softmax_cross_entropy, 3),
    "labels": (optax.losses.softmax_cross_entropy_with_integer_labels, 3),
}


@functools.cache
def model(**options):
    return linen.as_model(MLP(**options), np.zeros((1, 4), np.float32))


@functools.cache
def dataset(loss="logistic"):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(NUM_EXAMPLES, 4)).astype(np.float32)
    scores = np.sin(2 * inputs[:, :3]) + 0.5 * rng.normal(size=(NUM_EXAMPLES, 3))
    targets = {
        "squared": scores[:, :2],
        "logistic": scores[:, :1] > 0,
        "softmax": np.eye(3)[scores.argmax(1)],
    }
    if loss == "labels":
        return Batch(jnp.asarray(inputs), jnp.asarray(scores.argmax(1), jnp.int32))
    return Batch(jnp.asarray(inputs), jnp.asarray(targets[loss], jnp.float32))


def sgd(strength):
    decay = optax.add_decayed_weights(strength, kernels_only)
    return optax.chain(decay, optax.sgd(0.1))


def momentum(strength):
    return optax.chain(add_l1_penalty(strength), optax.sgd(0.05, momentum=0.9))


def adam(strength):
    first_only = {"Dense_0": {"kernel": True, "bias": False}, "Dense_1": False}
    penalty = add_elastic_net_penalty(strength, 2 * strength, mask=first_only)
    return optax.chain(penalty, optax.adam(0.02))


def both(loss, optimizer_fn, activation="tanh", init=None, **schedule):
    """The general and the tiled training function of one set-up."""
    loss_fn, outputs = LOSSES[loss]
    schedule = {"num_epochs": 20, "validation": dataset(loss), **schedule}
    network = model(activation=activation, outputs=outputs)
    arguments = (network, loss_fn, optimizer_fn, init, dataset(loss))
    tiled = mlp_objective(network, loss_fn, getattr(nn, activation))
    return (
        make_train(*arguments, **schedule),
        make_train(*arguments, objective=tiled, **schedule),
    )


def grid(sizes=(20, NUM_EXAMPLES)):
    keys = jax.random.split(jax.random.key(0), 1)
    strengths = np.array([0.0, 1e-3, 0.05])
    return {"strength": strengths, "num_examples": list(sizes), "key": keys}


def run_tiled(train, axes, **options):
    return run_grid(train, axes, vmap_axes=("strength",), **options)


def one_device():
    return grid_mesh(jax.devices()[:1])


@pytest.mark.parametrize(
    ("loss", "activation", "weighted"),
    [
        ("squared", "tanh", True),
        ("logistic", "tanh", False),
        ("softmax", "sigmoid", False),
        ("labels", "relu", True),
    ],
)
def test_loss_and_gradient_are_those_of_automatic_differentiation(
    key, loss, activation, weighted
):
    loss_fn, outputs = LOSSES[loss]
    network, batch = model(activation=activation, outputs=outputs), dataset(loss)
    if weighted:
        weights = jax.random.uniform(key, (NUM_EXAMPLES,))
        batch = batch._replace(weights=jnp.where(weights > 0.3, weights, 0))
    general = make_objective(network, loss_fn)
    tiled = mlp_objective(network, loss_fn, getattr(nn, activation))
    variables = jax.jit(jax.vmap(network.init))(jax.random.split(key, 3))
    found, expected = (
        jax.jit(jax.vmap(objective.gradient, (0, None, None)))(variables, batch, key)
        for objective in (tiled, general)
    )
    chex.assert_trees_all_close(found, expected, atol=2e-6)
    single = jax.tree.map(lambda x: x[0], variables)
    loss = jax.jit(tiled.loss)(single, batch)
    np.testing.assert_allclose(loss, expected[0][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "optimizer_fn", "activation", "schedule"),
    [
        ("logistic", sgd, "tanh", {"num_epochs": 500, "record_every": 100}),
        ("squared", momentum, "sigmoid", {}),
        ("labels", adam, "relu", {}),
        ("logistic", sgd, "sigmoid", {"num_epochs": 4, "batch_size": 32}),
        (
            "softmax",
            momentum,
            "tanh",
            {"num_epochs": None, "num_steps": 30, "batch_size": 150},
        ),
    ],
)
def test_both_paths_give_the_same_grid(loss, optimizer_fn, activation, schedule):
    general, tiled = both(loss, optimizer_fn, activation, **schedule)
    expected = run_grid(general, grid(), mesh=one_device())
    found = run_tiled(tiled, grid(), mesh=one_device())
    assert not expected.values.diverged.any()
    chex.assert_trees_all_close(found.values, expected.values, atol=1e-5)


def test_the_lagrangian_head_is_solved_for_inside_the_grid():
    he_normal = reinitialize(jax.nn.initializers.he_normal())
    general, tiled = both("squared", sgd, init=chain(he_normal, lagrange()))
    expected = run_grid(general, grid(), mesh=one_device()).values
    found = run_tiled(tiled, grid(), mesh=one_device()).values
    chex.assert_trees_all_close(found.train_loss, expected.train_loss, rtol=1e-5)
    chex.assert_trees_all_close(found.variables, expected.variables, atol=1e-5)
    assert (found.info[1].multiplier != 0).all()


def test_devices_and_chunks_change_no_result():
    tiled = both("logistic", sgd, num_epochs=3)[1]
    axes, told = grid(sizes=[5, 20, 130, 200]), []
    one = run_tiled(
        tiled,
        axes,
        mesh=one_device(),
        chunk_size=1,
        progress=lambda done, total: told.append((done, total)),
    )
    many = run_tiled(tiled, axes, mesh=grid_mesh(jax.devices()[:3]))
    chex.assert_trees_all_close(one.values, many.values, atol=1e-6)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_trace_for_all_sizes():
    chex.clear_trace_counter()
    train = chex.assert_max_traces(both("logistic", sgd, num_epochs=2)[1], n=1)
    run_tiled(train, grid(sizes=[5, 20, 130]), mesh=one_device(), chunk_size=1)


def test_a_diverged_member_harms_nobody(key):
    tiled = both("squared", lambda rate: optax.sgd(rate))[1]
    rates = jnp.array([0.05, 1e6, 0.1])
    train = jax.jit(jax.vmap(tiled, (None, 0, None)))
    family = train(key, rates, 100)
    np.testing.assert_array_equal(family.diverged, [False, True, False])
    # Again with a tame rate in place of the wild one.
    tame = train(key, rates.at[1].set(0.2), 100)
    for i in (0, 2):
        a, b = (jax.tree.map(lambda x, i=i: x[i], x) for x in (family, tame))
        chex.assert_trees_all_equal(a, b)


def test_a_plain_vmap_over_sizes_is_refused(key):
    tiled = both("logistic", sgd)[1]
    with pytest.raises(ValueError, match="must see the same examples"):
        run_grid(tiled, grid(), mesh=one_device())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "activation tanh"),
        ({"use_bias": False}, "two dense layers with biases"),
        ({"depth": 2}, "got the layers"),
    ],
)
def test_other_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mlp_objective(model(**options), optax.losses.squared_error, jnp.tanh)
