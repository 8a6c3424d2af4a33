"""The NNX adapter over the kinds of module people write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from lagrange_jax import nnx as lj_nnx
from lagrange_jax.params import get_layer, set_layer


class MLP(nnx.Module):
    """The head is defined first and called last."""

    def __init__(self, rngs, *, bias=True, dtype=None):
        self.head = nnx.Linear(5, 3, use_bias=bias, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(3, 5, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x)))


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.head = nnx.Linear(50, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).reshape(x.shape[0], -1))


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.norm(self.hidden(x)))))


class Listed(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(3)])

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(x)
            x = layer(x)
        return x


class Remat(nnx.Module):
    def __init__(self, rngs):
        self.body = MLP(rngs)
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(nnx.remat(lambda m, x: m(x))(self.body, x)))


class Stacked(nnx.Module):
    def __init__(self, rngs):
        make = nnx.vmap(lambda rngs: nnx.Linear(3, 3, rngs=rngs))
        self.stack = make(rngs.fork(split=4))
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        step = nnx.scan(
            lambda x, layer: jnp.tanh(layer(x)),
            in_axes=(nnx.Carry, 0),
            out_axes=nnx.Carry,
        )
        return self.head(step(x, self.stack))


class Recurrent(nnx.Module):
    """The cell's layers have plain kernels, but run inside a scan."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.remat(nn.Dense)(5)(x))
        return nn.Dense(3, name="head")(x)


def bridged(rngs):
    return nnx.bridge.ToNNX(LinenNet(), rngs=rngs).lazy_init(jnp.ones((1, 3)))


def sequential(rngs):
    return nnx.Sequential(
        nnx.Linear(3, 5, rngs=rngs), jnp.tanh, nnx.Linear(5, 3, rngs=rngs)
    )


FLAT, IMAGE, SEQUENCE = (6, 3), (6, 5, 5, 1), (6, 4, 3)
KINDS = {
    "head_first": (MLP, FLAT, ("head",)),
    "no_bias": (functools.partial(MLP, bias=False), FLAT, ("head",)),
    "bfloat16": (functools.partial(MLP, dtype=jnp.bfloat16), FLAT, ("head",)),
    "sequence": (MLP, SEQUENCE, ("head",)),
    "cnn": (CNN, IMAGE, ("head",)),
    "noisy": (Noisy, FLAT, ("head",)),
    "sequential": (sequential, FLAT, ("layers", 2)),
    "list": (Listed, FLAT, ("layers", 2)),
    "remat": (Remat, FLAT, ("head",)),
    "stacked": (Stacked, FLAT, ("head",)),
    "recurrent": (Recurrent, SEQUENCE, ("head",)),
    "bridge": (bridged, FLAT, ("head",)),
}


@functools.cache
def build(kind, features="inference"):
    make, shape, head = KINDS[kind]
    x = jax.random.normal(jax.random.key(1), shape)
    model = lj_nnx.as_model(make, x, features=features)
    return make, model, model.init(jax.random.key(2)), x, head


def features_by_derivative(model, variables, x):
    """d outputs[n, 0] / d kernel[:, 0] = features[n]: no hooks, no taps."""
    kernel = get_layer(variables, model.head)["kernel"]

    def first_outputs(column):
        moved = set_layer(variables, model.head, kernel=kernel.at[:, 0].set(column))
        outputs = model.apply(moved, x).reshape(-1, kernel.shape[1])
        return outputs[:, 0].astype(jnp.float32)

    return jax.jacrev(first_outputs)(kernel[:, 0])


def as_rows(x):
    return np.asarray(x.reshape(-1, x.shape[-1]).astype(jnp.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_head_inputs_are_those_of_the_network(kind, key):
    make, model, variables, x, head = build(kind)
    assert model.head == head
    tap = jax.jit(model.taps)(variables, x, key)[head]
    expected = features_by_derivative(model, variables, x)
    tolerance = 1e-2 if kind == "bfloat16" else 1e-5
    np.testing.assert_allclose(
        as_rows(tap.inputs), expected, rtol=tolerance, atol=tolerance
    )
    module = make(nnx.Rngs(jax.random.key(2)))
    module.eval()
    outputs = module(x)
    np.testing.assert_allclose(
        as_rows(tap.outputs), as_rows(outputs), rtol=tolerance, atol=tolerance
    )
