"""Heads of every kind: what is affine is solved, what is not is refused by name."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import lagrange_jax as lj
from lagrange_jax.models import linen
from lagrange_jax.models import nnx as lj_nnx
from lagrange_jax.models.params import get_head, set_head

D, K = 6, 3
kernel_init = nn.initializers.lecun_normal()


class Net(nn.Module):
    """A hidden layer, then `end(module, hidden, inputs)`."""

    end: Any
    width: int = 8

    @nn.compact
    def __call__(self, x):
        hidden = nn.tanh(nn.Dense(self.width, name="body")(x))
        return self.end(self, hidden, x)


def dense(h, **kwargs):
    return nn.Dense(K, name="head", **kwargs)(h)


def own(module, name, shape):
    return module.param(name, kernel_init, shape)


def constant(_, h, x):
    return dense(h) + 0.3


def skip(module, h, x):
    return dense(h) + x @ own(module, "skip", (D, K))


def residual(_, h, x):
    return dense(h) + h[..., :K] ** 2


def scaled(_, h, x):
    return 0.25 * dense(h)


def squeezed(_, h, x):
    return nn.Dense(1, name="head")(h)[..., 0]


def pooled(_, h, x):
    return dense(h.reshape(-1, 2, 4)).mean(1)


def general(_, h, x):
    h = h.reshape(-1, 2, 4)
    return nn.DenseGeneral((3, 2), axis=(-2, -1), name="head")(h)


def einsum(_, h, x):
    return nn.Einsum((8, K), "bd,dk->bk", name="head")(h)


def einsum_transposed(_, h, x):
    h = h.reshape(-1, 2, 4)
    return nn.Einsum((2, K, 4), "bhd,hkd->bk", use_bias=False, name="head")(h)


def by_hand(module, h, x):
    bias = module.param("b", nn.initializers.ones, (K,))
    return h @ own(module, "w", (8, K)) + jnp.broadcast_to(bias, (len(h), K))


def transposed(module, h, x):
    return h @ own(module, "w", (K, 8)).T


def attend(_, h, x):
    return nn.Embed(K, 8, name="head").attend(h)


def bfloat16(_, h, x):
    return dense(h, dtype=jnp.bfloat16).astype(jnp.float32)


SERVED = {
    # end: (path of the head, whether there is an offset)
    constant: (("head",), True),
    skip: (("head",), True),
    residual: (("head",), True),
    scaled: (("head",), False),
    squeezed: (("head",), False),
    pooled: (("head",), False),
    general: (("head",), False),
    einsum: (("head",), False),
    einsum_transposed: (("head",), False),
    by_hand: (("w",), False),
    transposed: (("w",), False),
    attend: (("head", "embedding"), False),
    bfloat16: (("head",), False),
}


@functools.cache
def build(end):
    x = jax.random.normal(jax.random.key(1), (7, D))
    model = linen.as_model(Net(end), x)
    variables = jax.jit(model.init)(jax.random.key(2))
    return model, variables, x


@pytest.mark.parametrize("end", SERVED)
def test_output_is_features_times_kernel_plus_offset(end, key):
    model, variables, x = build(end)
    path, has_offset = SERVED[end]
    assert model.head == path
    tap = jax.jit(model.taps)(variables, x, key)[path]
    assert (tap.offset is not None) == has_offset
    kernel = np.linspace(-1, 1, get_head(model, variables).kernel.size)
    kernel = kernel.reshape(get_head(model, variables).kernel.shape)
    old = get_head(model, variables).bias
    bias = None if old is None else np.arange(kernel.shape[1]) + 1.0
    moved = set_head(
        model,
        variables,
        jnp.asarray(kernel, jnp.float32),
        None if bias is None else jnp.asarray(bias, jnp.float32),
    )
    expected = np.asarray(tap.inputs, np.float64) @ kernel
    expected += 0 if bias is None else bias
    expected += 0 if tap.offset is None else tap.offset
    outputs = np.asarray(jax.jit(model.apply)(moved, x)).reshape(expected.shape)
    tolerance = 3e-2 if end is bfloat16 else 2e-6
    np.testing.assert_allclose(outputs, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("end", [skip, scaled, general, by_hand])
def test_solved_head_has_the_least_loss(end, key):
    model, variables, x = build(end)
    inputs = jax.random.normal(jax.random.key(3), (40, D))
    shape = (40, *jax.eval_shape(model.apply, variables, x).shape[1:])
    targets = jax.random.normal(jax.random.key(4), shape)
    init = lj.lagrange(lj.constraints.fixed_norm(1e4, relation="at_most"))
    solved, info = lj.initialize(key, model, init, (inputs, targets))
    lj.check(info)
    outputs = np.asarray(model.apply(solved, inputs), np.float64).reshape(40, -1)
    rest = np.asarray(targets, np.float64).reshape(40, -1)
    loss = ((outputs - rest) ** 2).sum(1).mean()
    tap = model.taps(solved, inputs, key)[model.head]
    rest = rest if tap.offset is None else rest - np.asarray(tap.offset)
    columns = [np.asarray(tap.inputs, np.float64)]
    if get_head(model, solved).bias is not None:
        columns.append(np.ones((40, 1)))
    columns = np.concatenate(columns, axis=1)
    least = rest - columns @ np.linalg.lstsq(columns, rest, rcond=None)[0]
    tolerance = 3e-2 if end is bfloat16 else 1e-4
    np.testing.assert_allclose(loss, (least**2).sum(1).mean(), rtol=tolerance)
    np.testing.assert_allclose(loss, info.objective, rtol=tolerance)


def offset_and_normalised(_, h, x):
    logits = dense(h) + x[..., :K]
    return logits - jax.scipy.special.logsumexp(logits, axis=-1, keepdims=True)


NORMALISED = {
    "log_softmax": lambda _, h, x: jax.nn.log_softmax(dense(h)),
    "half precision": lambda _, h, x: jax.nn.log_softmax(
        dense(h, dtype=jnp.bfloat16).astype(jnp.float32)
    ),
    "with an offset": offset_and_normalised,
}


@pytest.mark.parametrize("kind", NORMALISED)
def test_log_probabilities_are_those_of_the_head(kind, key):
    model, variables, x = build(NORMALISED[kind])
    tap = jax.jit(model.taps)(variables, x, key)[model.head]
    logits = tap.outputs if tap.offset is None else tap.outputs + tap.offset
    found = jax.nn.log_softmax(logits.astype(jnp.float32))
    np.testing.assert_allclose(found, model.apply(variables, x), atol=1e-5)
    kernel, bias = get_head(model, variables)
    outputs = np.asarray(tap.inputs) @ np.asarray(kernel) + np.asarray(bias)
    tolerance = 3e-2 if kind == "half precision" else 1e-5
    np.testing.assert_allclose(tap.outputs, outputs, atol=tolerance)


def shifted(logits):
    return logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))


REFUSED = {
    "soft cap": (lambda _, h, x: 30 * jnp.tanh(dense(h) / 30), r"follows it|\(tanh\)"),
    "softmax": (lambda _, h, x: jax.nn.softmax(dense(h)), "exp"),
    "log-softmax of a scaled head": (
        lambda _, h, x: jax.nn.log_softmax(2 * dense(h)),
        "normalises the output of head 'head'",
    ),
    "log-softmax of other axes": (
        lambda _, h, x: jax.nn.log_softmax(dense(h), axis=0),
        "follows it",
    ),
    "hidden from the derivative": (
        lambda _, h, x: shifted(dense(h)),
        "affine in head",
    ),
    "own scales": (
        lambda m, h, x: dense(h) * own(m, "scale", (1, K)),
        "scaled one by one",
    ),
    "weight normalisation": (
        lambda _, h, x: nn.WeightNorm(nn.Dense(K, name="head"))(h),
        "rsqrt",
    ),
    "normalised by hand": (
        lambda m, h, x: h @ jnp.tanh(own(m, "w", (8, K))),
        r"not affine in head 'w': .*tanh",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_affine_is_refused_by_name(kind):
    end, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        linen.as_model(Net(end), (2, D))


def test_tied_embeddings_are_blamed():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(5, 8)
            return embed.attend(nn.tanh(nn.Dense(8)(embed(tokens))))

    with pytest.raises(ValueError, match="not affine in head 'Embed_0/embedding'"):
        linen.as_model(Tied(), jnp.zeros((2, 4), jnp.int32))


def test_a_frozen_part_of_a_wrapped_layer_is_offset(key):
    class Lora(nnx.Module):
        def __init__(self, rngs):
            self.body = nnx.Linear(D, 8, rngs=rngs)
            self.head = nnx.LoRALinear(8, K, lora_rank=2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.body(x)))

    x = jax.random.normal(key, (5, D))
    model = lj_nnx.as_model(Lora, x)
    variables = model.init(key)
    low_rank = jax.tree.map(jnp.ones_like, variables["params"]["head"]["lora"])
    variables["params"]["head"]["lora"] = low_rank
    tap = model.taps(variables, x, key)[("head",)]
    assert tap.offset is not None
    expected = tap.inputs @ low_rank["lora_a"] @ low_rank["lora_b"]
    np.testing.assert_allclose(tap.offset, expected, rtol=1e-5)
    np.testing.assert_allclose(
        tap.outputs + tap.offset, model.apply(variables, x), rtol=1e-4, atol=1e-5
    )
    low = lj_nnx.as_model(Lora, x, head="head/lora/lora_b")
    assert get_head(low, variables).kernel.shape == (2, K)


def test_convolution_heads_are_solved_at_every_pixel(key):
    class Segmenter(nn.Module):
        size: tuple[int, int]

        @nn.compact
        def __call__(self, x):
            return nn.Conv(2, self.size, name="head")(nn.relu(nn.Conv(3, (3, 3))(x)))

    images = jax.random.normal(key, (3, 4, 4, 2))
    for size in ((1, 1), (3, 3)):
        model = linen.as_model(Segmenter(size), images)
        variables = model.init(key)
        tap = model.taps(variables, images, key)[("head",)]
        assert tap.inputs.shape == (3, 4, 4, 3 * size[0] * size[1])
        outputs = model.apply(variables, images)
        np.testing.assert_allclose(tap.outputs, outputs, rtol=1e-4, atol=1e-5)
