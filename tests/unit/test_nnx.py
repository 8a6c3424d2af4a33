"""The NNX adapter over the kinds of module people write."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from lagrange_jax.models import nnx as lj_nnx
from lagrange_jax.models.params import set_layer
from tests.adapters import check_head_tap, check_static_argument, check_training_mode


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
        self.stack = make(rngs.split(4))
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
        return self.head(jnp.mean(jnp.asarray(self.rnn(x)), axis=1))


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
def build(kind, features: Any = "inference"):
    make, shape, head = KINDS[kind]
    x = jax.random.normal(jax.random.key(1), shape)
    model = lj_nnx.as_model(make, x, tap_mode=features)
    return make, model, jax.jit(model.init)(jax.random.key(2)), x, head


@pytest.mark.parametrize("kind", KINDS)
def test_head_inputs_are_those_of_the_network(kind):
    make, model, variables, x, head = build(kind)
    assert model.head == head
    module = make(nnx.Rngs(jax.random.key(2)))
    module.eval()
    check_head_tap(model, variables, x, module(x), 1e-2 if kind == "bfloat16" else 1e-5)


@pytest.mark.parametrize("kind", ["head_first", "noisy", "bridge"])
def test_init_over_keys_is_a_loop_of_builds(kind):
    make, model, _, _, _ = build(kind)
    keys = jax.random.split(jax.random.key(7), 3)
    batched = jax.vmap(model.init)(keys)
    for i, key in enumerate(keys):
        params = nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))
        one = jax.tree.map(lambda x: x[i], batched["params"])  # noqa: B023
        chex.assert_trees_all_close(one, params, rtol=1e-6)


def test_training_mode_drops_out_by_key_and_updates_statistics():
    _, model, variables, x, _ = build("noisy", "training")
    _, inference, _, _, _ = build("noisy")

    def statistics(variables):
        return variables["state"]["norm"]

    check_training_mode(model, inference, variables, x, ("hidden",), statistics)


def test_an_instance_keeps_its_own_variables_and_is_untouched(key):
    module = Noisy(nnx.Rngs(3))
    before = jax.tree.map(jnp.copy, nnx.state(module, nnx.Param))
    x = jax.random.normal(key, (6, 3))
    model = lj_nnx.as_model(module, x)
    variables = model.init(key)
    kernel = jnp.ones_like(module.head.kernel[...])
    changed = set_layer(variables, model.head, kernel=kernel)
    changed["state"]["norm"]["mean"]  # the state is there to be written back
    chex.assert_trees_all_equal(nnx.state(module, nnx.Param), before)
    assert type(module.head) is nnx.Linear
    lj_nnx.update(module, changed)
    module.eval()
    np.testing.assert_allclose(module(x), model.apply(changed, x), rtol=1e-5)
    np.testing.assert_array_equal(module.head.kernel[...], kernel)


def test_model_is_a_static_argument():
    _, model, variables, x, _ = build("head_first")
    check_static_argument(model, variables, x)


class Twice(MLP):
    def __call__(self, x):
        return self.head(super().__call__(x) @ jnp.ones((3, 5)))


class Softmax(MLP):
    def __call__(self, x):
        return jax.nn.softmax(super().__call__(x))


class Tied(MLP):
    def __call__(self, x):
        return super().__call__(x @ jnp.sin(self.head.kernel[...]).T @ jnp.ones((5, 3)))


@pytest.mark.parametrize(
    ("make", "head", "message"),
    [
        (Twice, None, "inputs of head 'head' change with its own kernel"),
        (Softmax, None, "not the output of head 'head': something .*exp"),
        (Tied, None, "inputs of head 'head' change with its own kernel"),
        (MLP, "hidden", r"not the output of head 'hidden': something .*\(tanh\)"),
        (MLP, "nope", "no layer 'nope' .*in call order: 'hidden', 'head'"),
        (Recurrent, "rnn/cell/dense_h", "not affine in head 'rnn/cell/dense_h'"),
        (CNN, "conv", r"not the output of head 'conv': something .*\(relu\)"),
        (lambda rngs: nnx.Dropout(0.5, rngs=rngs), None, "has no head to solve for"),
    ],
)
def test_a_wrong_head_is_refused(make, head, message):
    x = jnp.ones({CNN: IMAGE, Recurrent: SEQUENCE}.get(make, FLAT))
    with pytest.raises(ValueError, match=message):
        lj_nnx.as_model(make, x, head=head)
