"""The 10-15-1 network on two Gaussian clouds, trained for all strengths and sizes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import lagrange_jax as lj
from lagrange_jax.constraints import at_strength, fixed_norm
from lagrange_jax.datasets import gaussian_clouds

__all__ = ["DIMENSION", "Network", "Schedule", "draw_clouds", "make_model", "train"]

DIMENSION, HIDDEN = 10, 15

PENALISED = {
    "all": (1.0, 1.0, 1.0, 1.0),
    "kernels": (1.0, 0.0, 1.0, 0.0),
    "first": (1.0, 1.0, 0.0, 0.0),
    "second": (0.0, 0.0, 1.0, 1.0),
}
"""Strength of hidden kernel and bias, head kernel and bias, in units of the whole."""

HEADS = {
    "random": lambda scale: lj.chain(),
    "lagrange": lambda scale: lj.lagrange(fixed_norm(scale)),
    "evidence": lambda scale: lj.lagrange(at_strength("evidence")),
}
"""Init transforms by name, given the initial variance in units of 1 / fan-in."""


class Network(NamedTuple):
    """What one grid of networks has in common.

    Attributes:
      reading: "activation/divisor/batch/penalised", see `Config`.
      variance_scale: initial variance of every weight in units of 1 / fan-in.
      penalty: "l2" or "l1".
      head: name in `HEADS`.
      ratio: strength of the first layer over that of the second.
    """

    reading: str
    variance_scale: float = 1.0
    penalty: str = "l2"
    head: str = "random"
    ratio: float = 1.0


class Schedule(NamedTuple):
    """How a network is trained.

    Attributes:
      optimizer: "sgd", or "adam" with a rate that falls to zero on a cosine.
      rate: its (initial) learning rate.
      epochs: passes over the data.
      num_validation: held-out examples.
    """

    optimizer: str
    rate: float
    epochs: int
    num_validation: int


class MLP(nn.Module):
    """One hidden layer and one output."""

    activation: str

    @nn.compact
    def __call__(self, inputs):
        hidden = _activation(self.activation)(nn.Dense(HIDDEN, name="hidden")(inputs))
        return nn.Dense(1, name="head")(hidden)


def _activation(name):
    return getattr(jax.nn, name)


@functools.cache
def make_model(activation: str) -> lj.Model:
    """Returns the network; "identity" makes it linear."""
    return lj.linen.as_model(MLP(activation), np.zeros((1, DIMENSION), "f4"))


def draw_clouds(key: lj.types.Key, num_examples: int, divisor: jax.Array) -> lj.Batch:
    """Draws examples with targets -1 and 1 and inputs divided by `divisor`."""
    clouds = gaussian_clouds(key, num_examples, dimension=DIMENSION)
    return lj.Batch(clouds.inputs / divisor, 2 * clouds.targets - 1)


def cross_entropy(outputs, targets):
    """The cross-entropy of a logistic output, for targets -1 and 1."""
    return jax.nn.softplus(-targets * outputs)


def random_weights(scale) -> lj.InitTransform:
    """Normal weights of variance `scale` / fan-in, which may be traced."""
    draw = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")

    def scaled(key, shape, dtype=None, out_sharding=None):
        del out_sharding
        return jnp.sqrt(scale) * draw(key, shape, dtype)

    return lj.reinitialize(scaled)


def _make_optimizer(schedule: Schedule, l1_share, layers):
    """Returns `optimizer_fn(strength)`; the penalty is part of the objective."""
    if schedule.optimizer == "sgd":
        descent = optax.sgd(schedule.rate)
    else:
        decay = optax.cosine_decay_schedule(schedule.rate, schedule.epochs)
        descent = optax.adam(decay)

    def optimizer(strength):
        first, second = (
            {
                "hidden": {"kernel": s * layers[0], "bias": s * layers[1]},
                "head": {"kernel": s * layers[2], "bias": s * layers[3]},
            }
            for s in (strength * l1_share, strength * (1 - l1_share))
        )
        return optax.chain(lj.add_elastic_net_penalty(first, second), descent)

    return optimizer


@functools.cache
def _make_train(activation, batch_size, head, schedule, size):
    """Returns the training function of everything that is not an array.

    One function, and so one compiled program, serves all cases that differ in
    numbers only: seeds, initial scales, penalties and penalised layers.
    """
    model = make_model(activation)
    objective = lj.training.mlp_objective(model, cross_entropy, _activation(activation))

    def train(key, strength, num_examples, divisor, variance_scale, l1_share, layers):
        fit = lj.make_train(
            model,
            cross_entropy,
            _make_optimizer(schedule, l1_share, layers),
            lj.chain(random_weights(variance_scale), HEADS[head](variance_scale)),
            lambda key: draw_clouds(key, size, divisor),
            objective=objective,
            validation=lambda key: draw_clouds(key, schedule.num_validation, divisor),
            num_epochs=schedule.epochs,
            batch_size=batch_size,
        )
        result = fit(key, strength, num_examples)
        curves = (result.train_loss, jnp.asarray(result.validation_loss))
        losses = jnp.stack([curve[-1] for curve in curves])
        return jnp.where(result.diverged, jnp.inf, losses)

    return train


def train(
    network: Network,
    schedule: Schedule,
    strengths: np.ndarray,
    sizes: tuple[int, ...],
    seed: int,
) -> np.ndarray:
    """Trains one network for every strength and number of examples.

    Args:
      network: the network.
      schedule: its training.
      strengths: regularisation strengths.
      sizes: numbers of examples; smaller sets are the first part of larger ones.
      seed: draws data, validation data, initial weights and mini-batches.

    Returns:
      Training and validation loss after training `[2, strengths, sizes]`, without
      the penalty; infinite where training diverged.
    """
    activation, divisor, batch, penalised = network.reading.split("/")
    balance = network.ratio**0.5
    layers = np.array(PENALISED[penalised]) * np.repeat([balance, 1 / balance], 2)
    extra = {
        "divisor": float(divisor),
        "variance_scale": network.variance_scale,
        "l1_share": float(network.penalty == "l1"),
        "layers": layers,
    }
    axes = {
        "strength": np.asarray(strengths, np.float32),
        "num_examples": np.asarray(sizes, np.int32),
        "key": jax.random.key(seed)[None],
        **{name: np.asarray([x], np.float32) for name, x in extra.items()},
    }
    batch_size = None if batch == "full" else int(batch)
    run = _make_train(activation, batch_size, network.head, schedule, max(sizes))
    losses = lj.run_grid(run, axes, vmap_axes=("strength",)).values
    return np.moveaxis(losses.reshape(len(strengths), len(sizes), 2), -1, 0)
