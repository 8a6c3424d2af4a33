"""The fast temporal convolution against Flax's own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lagrange_jax.models.linen
from experiments.backbones import RulCNN, TemporalConv, fold_time, unfold_time

# Sums of some hundred float32 products in another order.
RTOL, ATOL = 2e-5, 2e-6


class PlainCNN(nn.Module):
    """The same network from Flax's convolutions, under the same names."""

    @nn.compact
    def __call__(self, windows):
        x = windows[..., None]
        for i in range(4):
            x = jnp.tanh(nn.Conv(10, (10, 1), name=f"TemporalConv_{i}")(x))
        x = jnp.tanh(nn.Conv(1, (3, 1), name="TemporalConv_4")(x))
        x = jnp.tanh(nn.Dense(100, name="Dense_0")(x.reshape(len(windows), -1)))
        return nn.Dense(1, name="head")(x)


def assert_trees_close(actual, expected):
    def check(a, b):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, rtol=RTOL, atol=ATOL)

    jax.tree.map(check, actual, expected)


@pytest.fixture(scope="module")
def windows():
    return jax.random.normal(jax.random.key(1), (6, 30, 14))


def test_folding_is_undone(windows):
    folded = fold_time(windows, 6)
    assert folded.shape == (6, 1, 5, 6 * 14)
    np.testing.assert_array_equal(unfold_time(folded, 14)[..., 0], windows)


@pytest.mark.parametrize(("width", "steps"), [(1, 5), (2, 30), (3, 10), (10, 5)])
def test_layer_equals_flax_conv(key, windows, width, steps):
    plain, fast = nn.Conv(4, (width, 1)), TemporalConv(4, (width, 1))
    variables = plain.init(key, windows[..., None])
    variables["params"]["bias"] = jnp.arange(4.0)
    initial = fast.init(key, fold_time(windows, steps))
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, variables)

    def run_fast(variables, windows):
        folded: Any = fast.apply(variables, fold_time(windows, steps))
        return unfold_time(folded, 14)

    def run_plain(variables, windows):
        return plain.apply(variables, windows[..., None])

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(run):
        outputs, pullback = jax.vjp(run, variables, windows)
        return outputs, pullback(jnp.sin(outputs))

    assert_trees_close(values_and_gradients(run_fast), values_and_gradients(run_plain))


def test_network_equals_flax_layers(key, windows):
    plain, fast = PlainCNN(), RulCNN()
    variables = fast.init(key, windows)
    assert jax.tree.structure(variables) == jax.tree.structure(plain.init(key, windows))

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(module):
        outputs, pullback = jax.vjp(lambda v: module.apply(v, windows), variables)
        return outputs, pullback(outputs - 1)

    assert_trees_close(values_and_gradients(fast), values_and_gradients(plain))


def test_library_sees_every_layer(key, windows):
    model = lagrange_jax.models.linen.as_model(RulCNN(), windows)
    assert model.head == ("head",)
    taps = model.taps(model.init(key), windows, key)
    assert [path[0] for path in taps] == [
        *(f"TemporalConv_{i}" for i in range(5)),
        "Dense_0",
        "head",
    ]
    assert taps["head",].inputs.shape == (6, 100)


def test_mistakes_are_named(key, windows):
    with pytest.raises(ValueError, match=r"30 time steps.*blocks of 7"):
        fold_time(windows, 7)
    folded = fold_time(windows, 3)
    with pytest.raises(ValueError, match="width <= 7"):
        TemporalConv(4, (10, 1)).init(key, folded)
    with pytest.raises(ValueError, match=r"\(width, 1\)"):
        TemporalConv(4, (3, 3)).init(key, folded)
    with pytest.raises(ValueError, match="no option strides"):
        TemporalConv(4, (3, 1), strides=2).init(key, folded)
