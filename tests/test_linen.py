"""The Linen adapter over the kinds of module people write."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lagrange_jax import linen
from lagrange_jax.params import get_layer, set_layer


class MLP(nn.Module):
    use_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(5, dtype=self.dtype)(x))
        return nn.Dense(3, use_bias=self.use_bias, dtype=self.dtype)(x)


class HeadFirst(nn.Module):
    def setup(self):
        self.head = nn.Dense(3)
        self.hidden = nn.Dense(5)

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x)))


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(MLP(name="encoder")(x))


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Conv(2, 3)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Noisy(nn.Module):
    """Batch normalisation and dropout before the head."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(16)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(x))
        return nn.Dense(3)(x)


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.tanh(nn.remat(MLP)()(x)))


class Jitted(nn.Module):
    """Two equal jitted blocks: the second is served from the cache of the first."""

    @nn.compact
    def __call__(self, x):
        block = nn.jit(MLP)
        x = block(name="first")(x)
        x = block(name="second")(x)
        return block(name="third")(x)


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4)(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = scan()(x, None)
        return nn.Dense(3)(x)


class Partitioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(3, kernel_init=init)(nn.tanh(nn.Dense(5, kernel_init=init)(x)))


class Scalar(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(5)(x)))[..., 0]


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(x, x)
        return nn.DenseGeneral(3)(x)


class Recorder(nn.Module):
    """Counts its training passes, and sows a loss nobody asked for."""

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("counters", "calls", lambda: jnp.int32(0))
        if train and not self.is_initializing():
            calls.value += 1
        self.sow("losses", "activity", jnp.sum(x))
        self.sow("intermediates", "hidden", x)
        return nn.Dense(3)(nn.tanh(nn.Dense(4)(x)))


class Shared(nn.Module):
    """The head's scope is the parent's: no name of its own in the path."""

    def setup(self):
        self.head = nn.Dense(3)
        nn.share_scope(self, self.head)

    def __call__(self, x):
        return self.head(x)


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        joined = jnp.concatenate([inputs["a"], inputs["b"]], axis=-1)
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(joined)))


FLAT, IMAGE, SEQUENCE = (6, 3), (6, 5, 5, 1), (6, 4, 3)
KINDS = {
    "compact": (MLP(), FLAT, ("Dense_1",)),
    "no_bias": (MLP(use_bias=False), FLAT, ("Dense_1",)),
    "bfloat16": (MLP(dtype=jnp.bfloat16), FLAT, ("Dense_1",)),
    "setup_head_first": (HeadFirst(), FLAT, ("head",)),
    "nested": (Nested(), FLAT, ("head",)),
    "sequential": (
        nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(3)]),
        FLAT,
        ("layers_2",),
    ),
    "cnn": (CNN(), IMAGE, ("Dense_0",)),
    "noisy": (Noisy(), FLAT, ("Dense_1",)),
    "remat": (Remat(), FLAT, ("Dense_0",)),
    "jit": (Jitted(), FLAT, ("third", "Dense_1")),
    "scan": (Scanned(), (6, 4), ("Dense_0",)),
    "partitioned": (Partitioned(), FLAT, ("Dense_0",)),
    "scalar": (Scalar(), FLAT, ("Dense_0",)),
    "sequence": (MLP(), SEQUENCE, ("Dense_1",)),
    "attention": (Attention(), SEQUENCE, ("DenseGeneral_0",)),
    "recorder": (Recorder(), FLAT, ("Dense_0",)),
    "shared_scope": (Shared(), FLAT, ()),
    "bare": (nn.Dense(3), FLAT, ()),
}


@functools.cache
def build(kind, features="inference"):
    module, shape, head = KINDS[kind]
    x = jax.random.normal(jax.random.key(1), shape)
    trains = kind in ("noisy", "recorder")
    kwargs = {"train_kwargs": {"train": True}} if trains else {}
    model = linen.as_model(module, x, features=features, **kwargs)
    return module, model, model.init(jax.random.key(2)), x, head


def features_by_derivative(model, variables, x):
    """Recovers the head's inputs from the derivative of the outputs by its kernel.

    d outputs[n, 0] / d kernel[:, 0] = features[n]: no hooks, no taps.
    """
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
    _, model, variables, x, head = build(kind)
    assert model.head == head
    tap = jax.jit(model.taps)(variables, x, key)[head]
    expected = features_by_derivative(model, variables, x)
    tolerance = 1e-2 if kind == "bfloat16" else 1e-5
    np.testing.assert_allclose(
        as_rows(tap.inputs), expected, rtol=tolerance, atol=tolerance
    )
    outputs = model.apply(variables, x).reshape(tap.outputs.shape)
    np.testing.assert_allclose(
        as_rows(tap.outputs), as_rows(outputs), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("kind", KINDS)
def test_apply_is_the_module_s_own(kind):
    module, model, variables, x, _ = build(kind)
    chex.assert_trees_all_close(model.apply(variables, x), module.apply(variables, x))
