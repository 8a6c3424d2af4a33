"""A head that is solved at every step: its gradient, and its use in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import lagrange_jax as lj
from lagrange_jax.models import HeadArrays
from lagrange_jax.models.linen import as_model
from lagrange_jax.training import resolve_head, resolved_objective

MEMORY = "resolved_head"


class Network(nn.Module):
    width: int = 6
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.width)(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(2)(x)


def examples(dtype="f4", n=32):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(n, 4))
    targets = np.sin(inputs[:, :2]) + 0.1 * random.normal(size=(n, 2))
    return lj.Batch(jnp.asarray(inputs, dtype), jnp.asarray(targets, dtype))


def make(dropout=0.0, width=6, ridge=0.1, **options):
    network, train = Network(width, dropout), {"train": True}
    model = as_model(network, (2, 4), tap_mode="training", train_kwargs=train)
    return model, resolved_objective(model, resolve_head(ridge, **options))


def begin(model, parts, batch, seed=0):
    variables, _ = lj.initialize(
        jax.random.key(seed), model, lj.chain(parts.init), batch
    )
    return variables


def ridge_loss(past, features, targets, decay, ridge):
    """Least decayed mean of squared errors plus the penalty; plain NumPy."""
    rows = [np.concatenate(x) for x in zip(past, (features, targets), strict=True)]
    weights = np.ones(len(rows[0]))
    weights[: len(past[0])] *= decay
    weights /= weights.sum()
    x, t = (part - weights @ part for part in rows)
    covariance, cross = x.T @ (weights[:, None] * x), x.T @ (weights[:, None] * t)
    penalty = ridge if ridge > 0 else -ridge * np.trace(covariance) / len(covariance)
    kernel = np.linalg.solve(covariance + penalty * np.eye(len(cross)), cross)
    loss = weights @ ((t - x @ kernel) ** 2).sum(1) + penalty * (kernel**2).sum()
    return loss, penalty, kernel


def test_the_gradient_is_that_of_the_reduced_objective():
    """Finite differences through the solve; the penalty is held as it is."""
    decay = 0.7
    # Flax's batch normalisation asks for promotion in double precision.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model, parts = make(decay=decay, ridge=0.1)
        batch, key = examples("f8"), jax.random.key(1)
        first, second = (jax.tree.map(lambda x, r=r: x[r], batch) for r in
                         (slice(0, 12), slice(12, 32)))  # fmt: skip
        variables = begin(model, parts, first)
        variables = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32
                                 else x, variables)  # fmt: skip
        gradient = jax.jit(parts.objective.gradient)
        tap = jax.jit(lambda v, x: model.taps(v, x, key)[model.head].inputs)
        past = tap({k: v for k, v in variables.items() if k != MEMORY},
                   first.inputs), first.targets  # fmt: skip
        _, variables, _ = gradient(variables, first, key)
        _, updated, found = gradient(variables, second, key)
        network = {k: v for k, v in variables.items() if k != MEMORY}

        def reduced(params, ridge):
            features = tap({**network, "params": params}, second.inputs)
            return ridge_loss(past, features, second.targets, decay, ridge)

        params = variables["params"]
        _, penalty, kernel = reduced(params, -0.1)
        # The batch is this share of all weight, and the gradient that of its mean.
        share = 20 / (20 + decay * 12)
        direction = jax.tree.map(
            lambda x: jnp.asarray(np.random.default_rng(2).normal(size=x.shape)), params
        )
        move = lambda h: jax.tree.map(lambda x, d: x + h * d, params, direction)  # noqa: E731
        losses = [reduced(move(h), penalty)[0] for h in (1e-5, -1e-5)]
        expected = (losses[0] - losses[1]) / 2e-5
        actual = share * sum(jax.tree.leaves(jax.tree.map(
            lambda g, d: jnp.sum(g * d), found, direction)))  # fmt: skip
    assert actual == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(updated["params"]["Dense_1"]["kernel"], kernel)
    assert not any(map(np.any, jax.tree.leaves(found["Dense_1"])))


def test_a_family_under_make_train():
    model, parts = make(dropout=0.2, decay=0.9, ridge=0.1)
    batch = examples()

    def optimizer(rate):
        return optax.masked(optax.adamw(rate), parts.mask)

    train = lj.make_train(
        model, optax.squared_error, optimizer, lj.chain(parts.init), batch,
        validation=batch, num_epochs=30, batch_size=8, objective=parts.objective,
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        grid = lj.run_grid(
            train, dict(strength=jnp.array([1e-3, 1e-2]), key=jnp.arange(2))
        )
    loss = np.asarray(grid.values.validation_loss)
    assert not grid.values.diverged.any()
    assert (loss[..., -1] < 0.5 * loss[..., 0]).all()
    head = grid.values.variables[MEMORY]["state"].head
    kernel = grid.values.variables["params"]["Dense_1"]["kernel"]
    np.testing.assert_array_equal(head.kernel, kernel)


def test_one_forward_pass_serves_both():
    """Also where batch normalisation updates its statistics."""
    model, parts = make(dropout=0.2)
    batch, key = examples(), jax.random.key(0)
    variables = begin(model, parts, batch)
    network = {k: v for k, v in variables.items() if k != MEMORY}
    plain = lj.training.make_objective(model, lambda y, t: (y - t) ** 2)
    given = (parts.objective, variables), (plain, network)
    ours, theirs = (
        jax.jit(x.gradient).lower(v, batch, key).as_text() for x, v in given
    )
    assert ours.count(".tanh ") == theirs.count(".tanh ") > 0
    _, updated, _ = jax.jit(parts.objective.gradient)(variables, batch, key)
    _, expected = model.apply_train(network, batch.inputs, key)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, updated["batch_stats"], expected["batch_stats"])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_memory_is_no_staler_than_promised(decay):
    """Of features that move by the same length at every step, all the same way."""
    resolver, steps, delta = resolve_head(0.1, decay=decay), 30, 0.02
    batches = np.random.default_rng(0).normal(size=(steps, 16, 3)).astype("f4")
    drift = np.float32(delta) * np.array([0.6, 0.8, 0.0], "f4")
    state = resolver.init(HeadArrays(jnp.zeros((3, 1)), jnp.zeros(1)))
    update, longest = jax.jit(resolver.update), 0.0
    for step, batch in enumerate(batches):
        features = batch + step * drift
        state = update(state, features, jnp.zeros((16, 1)))
        longest = max(longest, np.linalg.norm(features, axis=1).max())
    longest = max(longest, np.linalg.norm(batches + steps * drift, axis=2).max())
    held = state.moments.cov_xx + np.outer(state.moments.mean_x, state.moments.mean_x)
    weights = decay ** np.arange(steps)[::-1]
    now = batches + (steps - 1) * drift
    fresh = np.einsum("s,snd,sne->de", weights, now, now) / (16 * weights.sum())
    error = np.linalg.norm(held - fresh, 2)
    assert 0 < error <= 2 * longest * delta * decay / (1 - decay)


def test_a_failed_solve_keeps_the_head():
    batch = examples(n=60)
    resolver = resolve_head(lj.constraints.fixed_norm(1.0), every=3)
    update = jax.jit(resolver.update)
    states = [resolver.init(HeadArrays(jnp.ones((4, 2)), None))]
    for rows in np.split(np.arange(60), 6):
        states.append(update(states[-1], batch.inputs[rows], batch.targets[rows]))
    kernels = np.array([state.head.kernel for state in states])
    moved = np.any(kernels[1:] != kernels[:-1], axis=(1, 2))
    assert moved.tolist() == [True, False, False, True, False, False]
    np.testing.assert_allclose(np.sum(kernels[-1] ** 2, 0), 1, rtol=1e-5)
    assert states[-1].head.bias is None
    kept = update(states[-1], jnp.full((10, 4), jnp.nan), batch.targets[:10])
    np.testing.assert_array_equal(kept.head.kernel, kernels[-1])


def test_a_head_without_bias_is_ridge_regression():
    batch = examples(n=40)
    resolver = resolve_head(0.01, decay=0.0)
    state = resolver.init(HeadArrays(jnp.zeros((4, 2)), None))
    state = jax.jit(resolver.update)(state, batch.inputs, batch.targets)
    x, t = np.asarray(batch.inputs, float), np.asarray(batch.targets, float)
    penalty = 0.01 * np.trace(x.T @ x) / 4
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ t)
    np.testing.assert_allclose(state.head.kernel, expected, rtol=1e-4)


LOSSES = {
    "softmax": ("cross_entropy", 0.5, optax.losses.softmax_cross_entropy),
    "sigmoid": (lj.losses.sigmoid(), 0.25, lambda z, t: optax.losses.
                sigmoid_binary_cross_entropy(z, t).sum(1)),
    "huber": (lj.losses.huber(), 1.0, lambda z, t: optax.losses.
              huber_loss(z, t).sum(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses_fall_to_the_penalised_optimum(name):
    loss, curvature, reference = LOSSES[name]
    with jax.enable_x64(True):
        batch = examples("f8", n=60)
        targets = jax.nn.one_hot(batch.targets.argmax(1), 2, dtype=float)
        features = batch.inputs
        strength = curvature / 2 * 0.05 * jnp.var(features, 0).mean()

        def risk(kernel, bias):
            losses = reference(features @ kernel + bias[None], targets)
            return losses.mean() + strength * jnp.sum(kernel**2)

        resolver = resolve_head(0.05, loss=loss, decay=0.0)
        head = HeadArrays(3 * jnp.ones((4, 2)), jnp.array([1.0, -2.0]))

        def step(state, _):
            state = resolver.update(state, features, targets)
            return state, risk(*state.head)

        state, risks = jax.lax.scan(step, resolver.init(head), length=400)
        slopes = jax.grad(risk, (0, 1))(*state.head)
        assert risk(*head) >= risks[0]
        assert (np.diff(risks) <= 1e-14).all()
        assert max(float(jnp.abs(x).max()) for x in slopes) < 1e-6


def test_labels_train_and_ignored_ones_do_not_count():
    model, parts = make(loss="cross_entropy")
    batch = examples(n=48)
    labels = jnp.where(jnp.arange(48) < 40, batch.targets.argmax(1), -100)
    batch = batch._replace(targets=labels)
    variables = begin(model, parts, batch)
    outputs = model.apply({k: v for k, v in variables.items() if k != MEMORY},
                          batch.inputs)  # fmt: skip
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(
        outputs[:40], labels[:40]
    ).mean()
    loss = jax.jit(parts.objective.loss)
    assert loss(variables, batch) == pytest.approx(float(expected), rel=1e-6)
    gradient = jax.jit(parts.objective.gradient)
    values = []
    for _ in range(10):
        value, variables, _ = gradient(variables, batch, jax.random.key(0))
        values.append(float(value))
    assert values[-1] < 0.8 * values[0] < 0.8 * expected
    assert (np.diff(values) <= 0).all()


def test_what_cannot_be():
    wrongs: Any = dict(decay=1.0), dict(every=0), dict(ridge=0.0)
    for wrong in wrongs:
        with pytest.raises(ValueError, match="expected"):
            resolve_head(**wrong)
    with pytest.raises(ValueError, match="second derivatives are bounded"):
        resolve_head(loss=lj.losses.poisson())
    criterion: Any = "gcv"
    with pytest.raises(TypeError, match="Constraint"):
        resolve_head(criterion)
    with pytest.raises(TypeError, match="Mesh"):
        resolve_head(mesh=criterion)
    model = as_model(Network(), (2, 4))
    with pytest.raises(ValueError, match="training"):
        resolved_objective(model)
    model, parts = make()
    with pytest.raises(ValueError, match=r"solved\.init"):
        parts.objective.loss(model.init(jax.random.key(0)), examples())
