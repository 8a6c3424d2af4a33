"""The Linen adapter over the kinds of module people write."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lagrange_jax.models import linen
from lagrange_jax.models.params import set_layer
from tests.adapters import check_head_tap, check_static_argument, check_training_mode


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
def build(kind, features: Any = "inference"):
    module, shape, head = KINDS[kind]
    x = jax.random.normal(jax.random.key(1), shape)
    trains = kind in ("noisy", "recorder")
    train = {"train": True} if trains else None
    model = linen.as_model(module, x, tap_mode=features, train_kwargs=train)
    return module, model, jax.jit(model.init)(jax.random.key(2)), x, head


@pytest.mark.parametrize("kind", KINDS)
def test_head_inputs_are_those_of_the_network(kind):
    _, model, variables, x, head = build(kind)
    assert model.head == head
    outputs = jax.jit(model.apply)(variables, x)
    check_head_tap(model, variables, x, outputs, 1e-2 if kind == "bfloat16" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_apply_is_the_module_s_own(kind):
    module, model, variables, x, _ = build(kind)
    outputs, expected = (jax.jit(f)(variables, x) for f in (model.apply, module.apply))
    chex.assert_trees_all_close(outputs, expected)


@pytest.mark.parametrize("kind", ["compact", "noisy", "scan", "partitioned"])
def test_jit_and_vmap_over_keys_are_loops(kind, key):
    _, model, _, x, head = build(kind)

    def features(key):
        return model.taps(model.init(key), x, key)[head].inputs

    keys = jax.random.split(key, 3)
    loop = jnp.stack([features(k) for k in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(features))(keys), loop, atol=1e-5)


def test_training_mode_drops_out_by_key_and_updates_statistics():
    _, model, variables, x, _ = build("noisy", "training")
    _, inference, _, _, _ = build("noisy")

    def statistics(variables):
        return variables["batch_stats"]["BatchNorm_0"]

    check_training_mode(model, inference, variables, x, ("Dense_0",), statistics)


def test_taps_of_training_need_a_pass_that_trains():
    module, shape, _ = KINDS["noisy"]
    with pytest.raises(ValueError, match=r'train_kwargs=\{"train": True\}'):
        linen.as_model(module, shape, tap_mode="training")
    told = linen.as_model(
        module, shape, tap_mode="training", train_kwargs={"train": False}
    )
    assert told.tap_mode == "training"


def test_state_is_kept_and_what_is_sown_is_not(key):
    _, model, variables, x, _ = build("recorder")
    assert set(variables) == {"params", "counters"}
    for _ in range(3):
        _, variables = model.apply_train(variables, x, key)
    assert set(variables) == {"params", "counters"}
    assert variables["counters"]["calls"] == 3


def test_layers_are_in_call_order_without_scanned_ones():
    assert build("setup_head_first")[1].layers == (("hidden",), ("head",))
    assert build("cnn")[1].layers == (("Conv_0",), ("Conv_1",), ("Dense_0",))
    assert build("scan")[1].layers == (("Dense_0",),)
    blocks = [(b, d) for b in ("first", "second", "third") for d in range(2)]
    assert build("jit")[1].layers == tuple((b, f"Dense_{d}") for b, d in blocks)


def test_layer_inputs_are_the_layer_s_own(key):
    _, model, variables, x, _ = build("compact")
    taps = model.taps(variables, x, key)
    first, second = (variables["params"][f"Dense_{i}"] for i in range(2))
    np.testing.assert_array_equal(taps[("Dense_0",)].inputs, x)
    hidden = jnp.tanh(x @ first["kernel"] + jnp.expand_dims(first["bias"], 0))
    np.testing.assert_allclose(taps[("Dense_1",)].inputs, hidden, atol=1e-6)
    changed = set_layer(variables, model.head, kernel=2 * second["kernel"])
    expected = 2 * hidden @ second["kernel"] + jnp.expand_dims(second["bias"], 0)
    np.testing.assert_allclose(model.apply(changed, x), expected, atol=1e-5)


def test_inputs_may_be_a_tree(key):
    inputs = {"a": jnp.ones((4, 2)), "b": np.zeros((4, 1))}
    model = linen.as_model(TwoInputs(), inputs)
    tap = model.taps(model.init(key), inputs, key)[model.head]
    chex.assert_shape(tap[:2], [(4, 5), (4, 3)])


def test_model_is_a_static_argument():
    _, model, variables, x, _ = build("compact")
    check_static_argument(model, variables, x)


class Bad(nn.Module):
    """One way each in which a network is not affine in its last layer."""

    fault: str

    @nn.compact
    def __call__(self, x):
        head = nn.Dense(3, name="head")
        if self.fault == "tied":
            head(jnp.zeros((1, 3))) if self.is_initializing() else None
            x = x @ jnp.sin(self.get_variable("params", "head")["kernel"])
        if self.fault == "twice":
            x = head(x)
        if self.fault == "normalised":
            return nn.WeightNorm(head)(x)
        if self.fault == "tuple":
            return head(x), x
        if self.fault == "tanh":
            return jnp.tanh(head(x))
        return jax.nn.softmax(head(x)) if self.fault == "softmax" else head(x)


@pytest.mark.parametrize(
    ("fault", "head", "message"),
    [
        ("twice", None, "inputs of head 'head' change with its own kernel"),
        ("softmax", None, "not the output of head 'head': something .*exp"),
        ("tanh", None, r"not the output of head 'head': something .*\(tanh\)"),
        ("tuple", None, r"is a tuple, .*output=.*holds \[0\] \[2, 3\], \[1\]"),
        ("tied", None, "inputs of head 'head' change with its own kernel"),
        ("normalised", None, "not affine in head 'head': something .*rsqrt"),
        ("none", "a.b", "no layer 'a.b' .*in call order: 'head'"),
    ],
)
def test_a_wrong_head_is_refused(fault, head, message):
    # Zeros: the check must not be fooled by an example that hides the mistake.
    with pytest.raises(ValueError, match=message):
        linen.as_model(Bad(fault), jnp.zeros((2, 3)), head=head)


@pytest.mark.parametrize(
    ("module", "x", "kwargs", "message"),
    [
        (nn.Sequential([jnp.tanh]), jnp.ones(FLAT), {}, "has no head to solve for"),
        (MLP(), jnp.ones((0, 3)), {}, "example_inputs of at least one row"),
        (MLP(), jnp.ones(FLAT), {"tap_mode": "train"}, "tap_mode must be"),
        (
            MLP(),
            jnp.ones(FLAT),
            {"head": "Dense_0"},
            r"not the output of head 'Dense_0': something .*\(tanh\)",
        ),
        (
            Scanned(),
            jnp.ones((6, 4)),
            {"head": "ScanCell_0/Dense_0"},
            "not affine in head 'ScanCell_0/Dense_0'",
        ),
    ],
)
def test_other_mistakes_are_refused(module, x, kwargs, message):
    with pytest.raises(ValueError, match=message):
        linen.as_model(module, x, **kwargs)


@pytest.mark.parametrize("name", ["encoder/Dense_1", "encoder.Dense_1"])
def test_a_layer_can_be_named_in_three_ways(name):
    x = jnp.ones(FLAT)
    with pytest.raises(ValueError, match="affine in head 'encoder/Dense_1', but"):
        linen.as_model(Nested(), x, head=name)
    assert linen.as_model(Nested(), x, head=("head",)).head == ("head",)
