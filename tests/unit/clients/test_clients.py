"""Networks as people publish them, each a small copy of its structure.

They are passed to `as_model` as they are: arguments of the call, outputs in records,
batch normalisation over a named axis, heads called twice or inside a loop.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
from flax import linen as nn
from flax import nnx, struct
from flax.training import train_state

import lagrange_jax as lj
from lagrange_jax.models.params import get_head
from lagrange_jax.training import grid_mesh, make_train
from tests.unit.clients import nnx_networks

N = 12


class Mnist(nnx.Module):
    """Flax's MNIST: dropout takes `rngs` as an argument of the call."""

    def __init__(self, *, rngs):
        self.conv = nnx.Conv(1, 2, kernel_size=(3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(rate=0.5)
        self.linear = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.linear(self.dropout(x.reshape(x.shape[0], -1), rngs=rngs))


class ResNet(nn.Module):
    """Flax's and scenic's ImageNet ResNet: statistics over the axis "batch"."""

    @nn.compact
    def __call__(self, x, train=True):
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, axis_name="batch"
        )
        x = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(4, (1, 1))(x))
        x = jnp.mean(nn.relu(x + y), axis=(1, 2))
        return jnp.asarray(nn.Dense(3)(x), jnp.float32)


class Tagger(nn.Module):
    """Flax's nlp_seq: arguments by name alone."""

    @nn.compact
    def __call__(self, *, inputs, train=False):
        x = nn.Embed(7, 5)(inputs.astype("int32"))
        x = x + nn.MultiHeadDotProductAttention(1, deterministic=not train)(x)
        return nn.Dense(3)(nn.LayerNorm()(x))


class DecoderCell(nn.Module):
    teacher_force: bool = True

    @nn.compact
    def __call__(self, carry, x):
        state, last = carry
        x = x if self.teacher_force else last
        state, y = nn.LSTMCell(5)(state, x)
        logits = nn.Dense(3, name="projection")(y)
        token = jax.random.categorical(self.make_rng("lstm"), logits)
        prediction = jax.nn.one_hot(token, 3, dtype=jnp.float32)
        return (state, prediction), (logits, prediction)


class Seq2seq(nn.Module):
    """Flax's seq2seq: the head lies in a scanned cell that draws its next input."""

    @nn.compact
    def __call__(self, tokens):
        decoder = nn.scan(
            DecoderCell,
            variable_broadcast="params",
            split_rngs={"params": False, "lstm": True},
            in_axes=1,
            out_axes=1,
        )
        state = jnp.zeros((len(tokens), 5)), jnp.ones((len(tokens), 5))
        _, outputs = decoder()((state, tokens[:, 0]), tokens)
        return outputs


class Sst2(nn.Module):
    """Flax's sst2: two inputs, the lengths of padded texts among them."""

    @nn.compact
    def __call__(self, token_ids, lengths, deterministic=None):
        x = nn.Embed(7, 5)(token_ids)
        mask = jnp.arange(token_ids.shape[1])[None] < lengths[:, None]
        x = jnp.where(mask[..., None], x, 0).sum(1) / lengths[:, None]
        x = nn.tanh(nn.Dense(6)(x))
        x = nn.Dropout(0.5)(x, deterministic=deterministic)
        return nn.Dense(1)(x)


class VAE(nn.Module):
    """Flax's VAE: a key among the arguments, the reconstruction among the outputs."""

    @nn.compact
    def __call__(self, x, z_rng):
        hidden = nn.relu(nn.Dense(8)(x))
        mean, logvar = nn.Dense(2)(hidden), nn.Dense(2)(hidden)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(z_rng, logvar.shape)
        return nn.Dense(6, name="fc2")(nn.relu(nn.Dense(8)(z))), mean, logvar


class ActorCritic(nn.Module):
    """Flax's PPO: log-probabilities of the policy, and the value."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="hidden")(x))
        policy = nn.log_softmax(nn.Dense(4, name="logits")(x))
        return policy, nn.Dense(1, name="value")(x)


@struct.dataclass
class Categorical:
    logits: Any


class Policy(nn.Module):
    """PureJaxRL's PPO: a distribution over actions, and the value as a vector."""

    @nn.compact
    def __call__(self, x):
        actor = nn.Dense(4, name="actor")(nn.tanh(nn.Dense(6)(x)))
        value = nn.Dense(1, name="critic")(nn.tanh(nn.Dense(6)(x)))
        return Categorical(actor), jnp.squeeze(value, axis=-1)


class BigVision(nn.Module):
    """big_vision's ViT and BiT: a zero head, called for patches and for the image."""

    @nn.compact
    def __call__(self, image, *, train=False):
        out = {"tokens": (x := nn.Dense(6)(image))}
        x = nn.LayerNorm()(x + nn.gelu(nn.Dense(6)(x)))
        head = nn.Dense(3, name="head", kernel_init=nn.initializers.zeros)
        out["logits_2d"] = head(x)
        out["logits"] = logits = head(out.setdefault("pooled", x.mean(1)))
        return logits, out


@struct.dataclass
class ClassifierOutput:
    logits: Any
    hidden_states: Any = None


class Bert(nn.Module):
    """A Hugging Face classifier: arguments by name, a record of outputs."""

    @nn.compact
    def __call__(self, input_ids, attention_mask, deterministic=True, return_dict=True):
        x = nn.Embed(7, 6)(input_ids)
        mask = nn.make_attention_mask(attention_mask > 0, attention_mask > 0)
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(2)(x, mask=mask))
        pooled = nn.tanh(nn.Dense(6, name="pooler")(x[:, 0]))
        pooled = nn.Dropout(0.1)(pooled, deterministic=deterministic)
        logits = nn.Dense(3, name="classifier")(pooled)
        return ClassifierOutput(logits, (x,)) if return_dict else (logits,)


class ConvNext(nnx.Module):
    """bonsai's ConvNeXt: `rngs` wanted at every call, and no layer scale."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, rngs):
        x = nnx.gelu(self.stem(x))
        keep = jax.random.bernoulli(rngs.dropout(), 0.9, (x.shape[0], 1, 1, 1))
        return self.head(self.norm(jnp.where(keep, x, 0.9 * x).mean((1, 2))))


RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(N, 4, 4, 1)).astype(np.float32)
ROWS = RANDOM.normal(size=(N, 6)).astype(np.float32)
PATCHES = RANDOM.normal(size=(N, 4, 6)).astype(np.float32)
TOKENS = RANDOM.integers(0, 7, (N, 5))
LENGTHS = RANDOM.integers(1, 6, N).astype(np.float32)
KEY = jax.random.key(7)

# Network, inputs, options of as_model, path of the head.
CLIENTS: dict[str, tuple[Any, Any, dict[str, Any], tuple[Any, ...]]] = {
    "mnist": (Mnist, IMAGES, {}, ("linear",)),
    "resnet": (
        ResNet(),
        IMAGES,
        dict(train_kwargs={"train": True}, eval_kwargs={"train": False}),
        ("Dense_0",),
    ),
    "nlp_seq": (Tagger(), TOKENS, {}, ("Dense_0",)),
    "seq2seq": (
        Seq2seq(),
        PATCHES[..., :3],
        dict(output=0),
        ("ScanDecoderCell_0", "projection"),
    ),
    "sst2": (
        Sst2(),
        (TOKENS, LENGTHS),
        dict(
            train_kwargs={"deterministic": False}, eval_kwargs={"deterministic": True}
        ),
        ("Dense_1",),
    ),
    "vae": (
        VAE(),
        ROWS,
        dict(output=0, train_kwargs={"z_rng": KEY}, eval_kwargs={"z_rng": KEY}),
        ("fc2",),
    ),
    "ppo": (ActorCritic(), ROWS, dict(output=1), ("value",)),
    "policy": (Policy(), ROWS, dict(output=(0, "logits")), ("actor",)),
    "big_vision": (BigVision(), PATCHES, dict(output=(1, "logits")), ("head",)),
    "bert": (
        Bert(),
        {"input_ids": TOKENS, "attention_mask": np.ones_like(TOKENS)},
        dict(
            output="logits",
            train_kwargs={"deterministic": False},
        ),
        ("classifier",),
    ),
    "convnext": (ConvNext, IMAGES, {}, ("head",)),
    "jimm_vit": (nnx_networks.JimmViT, IMAGES, {}, ("classifier",)),
    "bonsai_vit": (nnx_networks.BonsaiViT, IMAGES, {}, ("classifier",)),
    "bonsai_resnet": (nnx_networks.BonsaiResNet, IMAGES, {}, ("fc",)),
    "mamba2": (nnx_networks.Mamba2, TOKENS, dict(output="logits"), ("lm_head",)),
}


@pytest.fixture(autouse=True)
def as_elsewhere():
    """Other people's code runs with JAX's own rules of promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def build(name):
    network, inputs, options, _ = CLIENTS[name]
    room = lj.linen if isinstance(network, nn.Module) else lj.nnx
    return room.as_model(network, inputs, **options)


@functools.cache
def solve(name):
    """The network with a solved head, the examples and the shape of the outputs."""
    key = jax.random.key(0)
    inputs = jax.tree.map(jnp.asarray, CLIENTS[name][1])
    model = build(name)
    abstract = jax.eval_shape(model.init, key)
    shape = jax.eval_shape(model.apply, abstract, inputs).shape
    targets = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    bound = lj.constraints.fixed_norm(1e4, relation="at_most")
    variables, info = lj.initialize(key, model, lj.lagrange(bound), (inputs, targets))
    lj.check(info)
    return model, variables, inputs, targets


@pytest.mark.parametrize("name", CLIENTS)
def test_head_is_solved_and_the_network_trains_on(name, key):
    model, variables, inputs, targets = solve(name)
    path = CLIENTS[name][3]
    assert model.head == path

    tap = jax.jit(model.taps)(variables, inputs, key)[path]
    features = np.asarray(tap.inputs, np.float64).reshape(-1, tap.inputs.shape[-1])
    has_bias = get_head(model, variables).bias is not None
    columns = np.c_[features, np.ones(len(features))] if has_bias else features
    rows = targets.reshape(len(features), -1).astype(np.float64)
    rest = rows - columns @ np.linalg.lstsq(columns, rows, rcond=1e-6)[0]
    outputs = np.asarray(model.apply(variables, inputs), np.float64)
    loss = ((outputs.reshape(rows.shape) - rows) ** 2).sum(1).mean()
    np.testing.assert_allclose(loss, (rest**2).sum(1).mean(), rtol=1e-3)

    @jax.jit
    def step(variables, key):
        state = train_state.TrainState.create(
            apply_fn=model.apply_train, params=variables["params"], tx=optax.sgd(1e-2)
        )

        def objective(params):
            outputs, _ = model.apply_train({**variables, "params": params}, inputs, key)
            return jnp.mean((outputs - targets) ** 2)

        value, gradient = jax.value_and_grad(objective)(state.params)
        return value, state.apply_gradients(grads=gradient).params

    value, params = step(variables, key)
    assert np.isfinite(value)
    assert jax.tree.structure(params) == jax.tree.structure(variables["params"])


@pytest.mark.parametrize("name", ["mnist", "jimm_vit"])
def test_variables_go_back_into_an_nnx_optimizer(name):
    model, variables, inputs, targets = solve(name)
    module = CLIENTS[name][0](rngs=nnx.Rngs(0))
    lj.nnx.update(module, variables)
    optimizer = nnx.Optimizer(module, optax.sgd(1e-4), wrt=nnx.Param)
    module.eval()

    def loss(module):
        return jnp.mean((module(inputs) - targets) ** 2)

    @nnx.jit
    def step(module, optimizer):
        value, gradient = nnx.value_and_grad(loss)(module)
        optimizer.update(module, gradient)
        return value, loss(module)

    before, after = step(module, optimizer)
    solved = jnp.mean((model.apply(variables, inputs) - targets) ** 2)
    np.testing.assert_allclose(before, solved, rtol=1e-4)
    assert np.isfinite(after) and after != before


def test_log_probabilities_are_solved_for_as_logits(key):
    """Flax's PPO normalises its policy inside of the network."""
    model = lj.linen.as_model(ActorCritic(), ROWS, output=0)
    labels = np.arange(N) % 4
    init = lj.lagrange(
        lj.constraints.fixed_norm(4.0, per_output=False), loss="cross_entropy"
    )
    variables, info = lj.initialize(key, model, init, (ROWS, labels))
    lj.check(info)
    log_p = np.asarray(model.apply(variables, ROWS), np.float64)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
    loss = -log_p[np.arange(N), labels].mean()
    np.testing.assert_allclose(loss, info.objective, rtol=1e-5)

    # Among heads of this norm the optimum is that of the penalty at its multiplier.
    features = np.asarray(model.taps(variables, ROWS, key)[model.head].inputs, float)

    def penalised(head):
        kernel, bias = head[:32].reshape(8, 4), head[32:]
        log_p = scipy.special.log_softmax(features @ kernel + bias, axis=1)
        loss = -log_p[np.arange(N), labels].mean()
        return loss + float(info.multiplier) * (kernel**2).sum()

    best = scipy.optimize.minimize(penalised, np.zeros(36), tol=1e-10)
    wanted = best.fun - float(info.multiplier) * 4.0
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)

    for blind in (lj.lagrange(), lj.zero_head()):
        with pytest.raises(ValueError, match=r"log-probabilities.*cross-entropy"):
            lj.initialize(key, model, blind, (ROWS, np.eye(4)[labels]))


@pytest.mark.parametrize("name", ["resnet", "mamba2"])
def test_a_grid_of_clients_starts_from_solved_heads(name):
    model, _, inputs, targets = solve(name)

    def decay(strength):
        return optax.chain(optax.add_decayed_weights(strength), optax.sgd(0.01))

    data: Any = (inputs, targets)
    train = make_train(
        model,
        optax.losses.squared_error,
        decay,
        lj.lagrange(lj.constraints.fixed_norm(1.0)),
        data,
        num_steps=2,
        batch_size=4,
    )
    axes = {
        "strength": [0.0, 0.1],
        "num_examples": [8, 12],
        "key": jax.random.split(KEY, 2),
    }
    one_device = grid_mesh(jax.devices()[:1])
    found = lj.run_grid(train, axes, mesh=one_device).values
    assert found.train_loss.shape == (2, 2, 2, 2)
    assert np.isfinite(found.train_loss).all()
    assert found.is_solved.all()
    start, end = found.train_loss[..., 0], found.train_loss[..., 1]
    np.testing.assert_allclose(start[0], start[1], rtol=1e-5)  # one head, any strength
    assert (end[0] != end[1]).all() and np.unique(start[0]).size == 4
