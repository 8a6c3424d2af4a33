"""A head that is solved at every step: its gradient, its use, and the study of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import lagrange_jax as lj
from experiments import launch
from experiments.common import record
from experiments.studies.resolved_head import tables
from experiments.studies.resolved_head.config import Config
from experiments.studies.resolved_head.head import Head, resolve_head
from experiments.studies.resolved_head.objective import COLLECTION, resolved
from lagrange_jax.models.linen import as_model


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


def make(dropout=0.0, width=6, **options):
    model = as_model(Network(width, dropout), (2, 4), tap_mode="training")
    return model, resolved(model, resolve_head(**options))


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
    with jax.enable_x64(True):
        model, parts = make(decay=decay, ridge=0.1)
        batch, key = examples("f8"), jax.random.key(1)
        first, second = (jax.tree.map(lambda x, r=r: x[r], batch) for r in
                         (slice(0, 12), slice(12, 32)))  # fmt: skip
        variables = begin(model, parts, first)
        variables = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32
                                 else x, variables)  # fmt: skip
        gradient = jax.jit(parts.objective.gradient)
        tap = jax.jit(lambda v, x: model.taps(v, x, key)[model.head].inputs)
        past = tap({k: v for k, v in variables.items() if k != COLLECTION},
                   first.inputs), first.targets  # fmt: skip
        _, variables, _ = gradient(variables, first, key)
        _, updated, found = gradient(variables, second, key)
        network = {k: v for k, v in variables.items() if k != COLLECTION}

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
    assert not grid.values.diverged.any() and (loss[..., -1] < 0.5 * loss[..., 0]).all()
    head = grid.values.variables[COLLECTION]["state"].head
    kernel = grid.values.variables["params"]["Dense_1"]["kernel"]
    np.testing.assert_array_equal(head.kernel, kernel)


def test_one_forward_pass_serves_both():
    model, parts = make(dropout=0.2, width=128)
    batch, key = examples(n=512), jax.random.key(0)
    variables = begin(model, parts, batch)
    network = {k: v for k, v in variables.items() if k != COLLECTION}
    plain = lj.training.make_objective(model, lambda y, t: (y - t) ** 2)

    def flops(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled.cost_analysis()["transcendentals"]

    ours = flops(parts.objective.gradient, variables, batch, key)
    assert ours <= 1.05 * flops(plain.gradient, network, batch, key)


@pytest.mark.parametrize("options", [dict(every=3), dict(proximal=True, decay=0.0)])
def test_updates_stay_finite_and_follow(options):
    batch = examples(n=60)
    head = Head(jnp.zeros((4, 2)), jnp.zeros(2))
    resolver = resolve_head(**options)
    update = jax.jit(resolver.update)
    state = resolver.init(head)
    for rows in np.split(np.arange(60), 6):
        state = update(state, batch.inputs[rows], batch.targets[rows])
    errors = batch.inputs @ state.head.kernel + state.head.bias[None] - batch.targets
    assert jnp.mean(errors**2) < 0.5 * jnp.mean(batch.targets**2)
    kept = update(state, jnp.full((10, 4), jnp.nan), batch.targets[:10])
    np.testing.assert_array_equal(kept.head.kernel, state.head.kernel)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="decay"):
        resolve_head(decay=1.0)
    model = as_model(Network(), (2, 4))
    with pytest.raises(ValueError, match="training"):
        resolved(model, resolve_head())


@pytest.fixture
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("standard_promotion")
def test_smoke(tmp_path, capsys):
    arguments = ["resolved_head", "--smoke", "--out", str(tmp_path)]
    assert launch.main(arguments) == 0
    table = capsys.readouterr().out
    assert "diabetes" in table and "decay 0.99" in table
    assert (tmp_path / "verdicts.png").stat().st_size > 1000
    rows = record.read_rows(tmp_path)
    assert launch.main(arguments) == 0
    assert record.read_rows(tmp_path) == rows
    assert len(tables.read_verdicts(tmp_path)[0].loss) == len(Config.smoke().seeds)


def verdict(time, loss):
    time, loss = np.array(time), np.array(loss)
    make = partial(tables.Verdict, "p", "zero", 1e-3, "decay 0.9", 1e-3, 1.0)
    return make(time, time, loss, loss)


def test_verdicts():
    assert tables.is_faster(verdict([0.7, 0.8, 0.9], [1, 1, 1]))
    assert not tables.is_faster(verdict([0.1, 0.1, np.inf], [1, 1, 1]))
    assert tables.is_lower(verdict([1, 1, 1], [0.9, 0.91, 0.92]))
    assert tables.is_higher(verdict([1, 1, 1], [1.1, 1.11, 1.12]))
    assert not tables.is_lower(verdict([1, 1, 1], [0.5, 1.0, 1.2]))
