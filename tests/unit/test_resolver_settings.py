"""A re-solved head on a mesh, in half precision, and in loops of NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lagrange_jax as lj
from experiments.benchmarks.pod import collective_bytes, moments_bytes
from lagrange_jax.distributed.sharding import shard_batch
from lagrange_jax.models import HeadArrays
from lagrange_jax.training import resolve_head, resolved_objective

D, K, N = 6, 3, 40


def examples(n=N, k=K):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(n, 4)).astype("f4")
    noise = 0.1 * random.normal(size=(n, k)).astype("f4")
    return lj.Batch(jnp.asarray(inputs), jnp.asarray(np.sin(inputs[:, :k]) + noise))


def network(dtype=jnp.float32):
    parts = [nn.Dense(D, dtype=dtype, param_dtype=dtype), nn.tanh]
    return nn.Sequential([*parts, nn.Dense(K, dtype=dtype, param_dtype=dtype)])


def make(loss, dtype=jnp.float32, mesh=None):
    model = lj.linen.as_model(network(dtype), (2, 4), tap_mode="training")
    resolver = resolve_head(0.1, loss=loss, mesh=mesh)
    return model, resolved_objective(model, resolver)


def train(parts, variables, batch, steps=3):
    """Gradient descent; returns the variables and the losses."""

    @jax.jit
    def step(variables, key):
        loss, variables, gradient = parts.objective.gradient(variables, batch, key)
        move = lambda x, g: x - jnp.asarray(0.1, x.dtype) * g  # noqa: E731
        params = jax.tree.map(move, variables["params"], gradient)
        return {**variables, "params": params}, loss

    losses = []
    for i in range(steps):
        variables, loss = step(variables, jax.random.key(i))
        losses.append(float(loss))
    return variables, losses


def begin(model, parts, batch):
    return lj.initialize(jax.random.key(0), model, lj.chain(parts.init), batch)[0]


def ridge_regression(features, targets, ridge):
    """Kernel and bias in double precision."""
    x, t = np.asarray(features, float), np.asarray(targets, float)
    mean_x, mean_t = x.mean(0), t.mean(0)
    x, t = x - mean_x, t - mean_t
    shift = ridge * np.trace(x.T @ x) / x.shape[1]
    kernel = np.linalg.solve(x.T @ x + shift * np.eye(x.shape[1]), x.T @ t)
    return kernel, mean_t - mean_x @ kernel


@pytest.mark.parametrize(
    "loss, axis_type",
    [("squared_error", AxisType.Explicit), ("cross_entropy", AxisType.Auto)],
)
def test_a_mesh_changes_no_number(loss, axis_type):
    mesh = jax.make_mesh((8,), ("data",), (axis_type,))
    batch = examples(n=37)
    if loss == "cross_entropy":
        batch = batch._replace(targets=batch.targets.argmax(1))
    model, whole = make(loss)
    variables = begin(model, whole, batch)
    expected, losses = train(whole, variables, batch)
    _, spread = make(loss, mesh=mesh)
    rows = shard_batch(batch, mesh)  # three rows of weight zero fill up
    laid = jax.device_put(variables, NamedSharding(mesh, P()))
    found, found_losses = train(spread, laid, rows)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, found["params"], expected["params"])
    kernel = found["params"]["layers_2"]["kernel"]
    assert kernel.sharding.is_fully_replicated


def test_moments_travel_and_rows_stay():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    resolver = resolve_head(mesh=mesh)
    spread, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    shapes = (4096, D), (4096, K)
    rows = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=spread) for s in shapes]
    state = resolver.init(HeadArrays(jnp.zeros((D, K)), jnp.zeros(K)))
    state = jax.device_put(state, everywhere)
    compiled = jax.jit(resolver.update).lower(state, *rows).compile()
    found = collective_bytes(str(compiled.as_text()))
    assert found == {"all-reduce": moments_bytes(D, K)}
    odd = [jax.ShapeDtypeStruct((12, s[1]), jnp.float32) for s in shapes]
    with pytest.raises(ValueError, match="shard_batch"):
        jax.eval_shape(resolver.update, state, *odd)


def test_half_precision_is_widened_before_the_solve():
    """The oracle has the halves' own features, which a compiled pass may not round."""
    batch = examples()
    model, parts = make("squared_error", jnp.bfloat16)
    variables = begin(model, parts, batch)
    tap = model.taps(variables, batch.inputs, jax.random.key(0))[model.head]
    kernel, bias = ridge_regression(tap.inputs, batch.targets, 0.1)
    assert tap.inputs.dtype == jnp.bfloat16
    trained, losses = train(parts, variables, batch, steps=1)
    head = trained["resolved_head"]["state"].head
    assert head.kernel.dtype == head.bias.dtype == jnp.float32
    np.testing.assert_allclose(head.kernel, kernel, atol=2e-3)
    np.testing.assert_allclose(head.bias, bias, atol=2e-3)
    outputs = np.asarray(tap.inputs, float) @ kernel + bias
    error = ((outputs - batch.targets) ** 2).sum(1).mean()
    assert losses[0] == pytest.approx(float(error), rel=2e-3)
    of_network = trained["params"]["layers_2"]["kernel"]
    assert of_network.dtype == jnp.bfloat16
    np.testing.assert_array_equal(of_network, head.kernel.astype(jnp.bfloat16))


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_a_half_precision_body_trains(loss):
    batch = examples()
    if loss == "cross_entropy":
        batch = batch._replace(targets=batch.targets.argmax(1))
    model, wide = make(loss)
    variables = begin(model, wide, batch)
    expected = train(wide, variables, batch, steps=20)[1]
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["params"])
    parts = make(loss, jnp.bfloat16)[1]
    variables, found = train(parts, {**variables, "params": halves}, batch, steps=20)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found[-1] < 0.8 * found[0]
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(variables["params"]))


def test_halves_are_taken_as_they_are():
    """Features, targets, weights and head in half precision, in a loop of one's own."""
    batch = jax.tree.map(lambda x: x.astype(jnp.bfloat16), examples())
    head = HeadArrays(jnp.zeros((4, K), jnp.bfloat16), jnp.zeros(K, jnp.bfloat16))
    weights, offset = jnp.ones(N, jnp.bfloat16), jnp.ones((N, K), jnp.bfloat16)
    inputs, targets = (np.asarray(x, float) for x in batch[:2])
    kernel, bias = ridge_regression(inputs, targets - 1, 0.1)
    for loss in ("squared_error", lj.losses.huber(100.0)):
        resolver = resolve_head(loss=loss, decay=0.0)
        state = resolver.init(head)
        update = jax.jit(resolver.update)
        new = update(state, batch.inputs, batch.targets, weights, offset)
        types = jax.tree.map(lambda x: (x.shape, x.dtype), (state, new))
        assert types[0] == types[1]
        np.testing.assert_allclose(new.head.kernel, kernel, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new.head.bias, bias, rtol=1e-4, atol=1e-5)


class Module(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, D, rngs=rngs)
        self.norm = nnx.BatchNorm(D, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(D, K, rngs=rngs)

    def features(self, x):
        return self.dropout(jnp.tanh(self.norm(self.hidden(x))))

    def __call__(self, x):
        return self.head(self.features(x))


def test_an_nnx_module_trains_as_a_model():
    batch = examples()
    module = Module(nnx.Rngs(0))
    before = np.array(module.norm.mean[...])
    model = lj.nnx.as_model(module, batch.inputs, tap_mode="training")
    parts = resolved_objective(model, resolve_head(0.1))
    variables, losses = train(parts, begin(model, parts, batch), batch, steps=20)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    lj.nnx.update(module, variables)
    module.eval()
    error = ((module(batch.inputs) - batch.targets) ** 2).sum(1).mean()
    assert parts.objective.loss(variables, batch) == pytest.approx(
        float(error), rel=1e-5
    )
    head = variables["resolved_head"]["state"].head
    np.testing.assert_array_equal(module.head.kernel[...], head.kernel)
    assert np.any(module.norm.mean[...] != before)


def test_a_loop_of_nnx():
    """The resolver beside an `nnx.Optimizer`, both changed in place."""
    batch, resolver = examples(), resolve_head(0.1)
    module: Any = Module(nnx.Rngs(0))
    head = HeadArrays(module.head.kernel[...], module.head.bias[...])
    body = nnx.All(nnx.Param, lambda path, _: "head" not in path)
    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=body)

    @nnx.jit
    def step(module, optimizer, state):
        def loss(module):
            features = module.features(batch.inputs)
            solved = resolver.update(state, features, batch.targets)
            kernel, bias = map(jnp.asarray, solved.head)
            errors = features @ kernel + bias[None] - batch.targets
            return (errors**2).sum(1).mean(), solved

        found = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, body), has_aux=True)
        (value, state), gradient = found(module)
        optimizer.update(module, gradient)
        module.head.kernel[...], module.head.bias[...] = state.head
        return value, state

    state, losses = resolver.init(head), []
    for _ in range(20):
        value, state = step(module, optimizer, state)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    np.testing.assert_array_equal(module.head.kernel[...], state.head.kernel)
