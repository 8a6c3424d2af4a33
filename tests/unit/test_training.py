"""Training: the loop against NumPy, the mask, the schedule, failure and state."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn.linear_model import Ridge

import lagrange_jax.models.linen
from lagrange_jax.models.params import get_layer, set_layer
from lagrange_jax.training.train import make_train
from lagrange_jax.types import Batch, Model


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(jnp.tanh(nn.Dense(5, name="hidden")(x)))


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(8)(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(x))
        return nn.Dense(1)(x)


def ridge_sgd(strength):
    return optax.chain(optax.add_decayed_weights(strength), optax.sgd(0.1))


def regression(n=24, d=3, k=2, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, d)).astype(np.float32)
    targets = inputs @ rng.normal(size=(d, k)) + 0.3 * rng.normal(size=(n, k)) + 0.5
    return Batch(jnp.asarray(inputs), jnp.asarray(targets, jnp.float32))


@functools.cache
def mlp():
    return lagrange_jax.models.linen.as_model(MLP(), np.zeros((1, 3), np.float32))


def train_mlp(optimizer_fn=ridge_sgd, init=None, data=None, **schedule):
    data = regression() if data is None else data
    schedule = schedule or {"num_epochs": 5}
    return make_train(
        mlp(), optax.losses.squared_error, optimizer_fn, init, data, **schedule
    )


def counter(n):
    """A network whose parameters count how often each example is trained on.

    The output is one parameter an example, and the loss is the output, so that plain
    SGD of rate 1 subtracts the example's share of its mini-batch.
    """
    zeros = {"params": {"seen": {"kernel": jnp.zeros((n, 1))}}}

    def apply(variables, inputs):
        return inputs @ variables["params"]["seen"]["kernel"]

    model = Model(
        lambda key: zeros,
        apply,
        lambda v, x, key: (apply(v, x), v),
        lambda v, x, key: {},
        (("seen",),),
        ("seen",),
    )
    data = Batch(jnp.eye(n), jnp.zeros(n))

    def train(key, num_examples, **schedule):
        run = make_train(
            model,
            lambda outputs, targets: outputs,
            lambda _: optax.sgd(1.0),
            None,
            data,
            **schedule,
        )
        result = jax.jit(run)(key, 0.0, num_examples)
        return -np.ravel(result.variables["params"]["seen"]["kernel"])

    return train


def numpy_descent(variables, inputs, targets, strength, steps, rate=0.1):
    """Gradient descent of the mean squared error plus strength/2 ||params||^2."""
    layers = [get_layer(variables, (name,)) for name in ("hidden", "head")]
    v, a, w, b = (
        np.asarray(x[name], np.float64) for x in layers for name in ("kernel", "bias")
    )
    losses = []
    for _ in range(steps + 1):
        hidden = np.tanh(inputs @ v + a)
        errors = hidden @ w + b - targets
        losses.append((errors**2).sum(1).mean())
        back = 2 * errors / len(inputs)
        front = back @ w.T * (1 - hidden**2)
        gradients = inputs.T @ front, front.sum(0), hidden.T @ back, back.sum(0)
        final = v, a, w, b
        v, a, w, b = (
            x - rate * (g + strength * x) for x, g in zip(final, gradients, strict=True)
        )
    return final, losses


@functools.cache
def recorded_run():
    """Twelve epochs in three intervals, compiled once for several tests."""
    keep_start = lambda key, model, variables, batches: (variables, variables)  # noqa: E731
    validation = regression(n=9, seed=1)
    train = train_mlp(
        init=keep_start, num_epochs=12, record_every=4, validation=validation
    )
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(train, n=1))


@pytest.mark.parametrize("num_examples", [24, 7])
@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_full_batch_is_gradient_descent_on_the_first_examples(
    key, num_examples, strength
):
    result = recorded_run()(key, jnp.float32(strength), jnp.int32(num_examples))
    data, validation = jax.device_get((regression(), regression(n=9, seed=1)))
    inputs, targets = data.inputs[:num_examples], data.targets[:num_examples]
    final, losses = numpy_descent(result.info, inputs, targets, strength, 12)
    hidden = get_layer(result.variables, ("hidden",))
    head = get_layer(result.variables, ("head",))
    found = hidden["kernel"], hidden["bias"], head["kernel"], head["bias"]
    chex.assert_trees_all_close(found, final, atol=1e-5)
    np.testing.assert_allclose(result.train_loss, losses[::4], rtol=1e-5)
    norms = np.array([np.linalg.norm(final[0]), np.linalg.norm(final[2])])
    np.testing.assert_allclose(result.kernel_norm[-1], norms, rtol=1e-5)
    outputs = np.tanh(validation.inputs @ final[0] + final[1]) @ final[2] + final[3]
    validation_loss = ((outputs - validation.targets) ** 2).sum(1).mean()
    np.testing.assert_allclose(result.validation_loss[-1], validation_loss, rtol=1e-5)
    assert not result.diverged


def test_a_linear_network_ends_at_the_ridge_solution(key):
    data = regression(n=40, k=1)
    model = lagrange_jax.models.linen.as_model(nn.Dense(1), data.inputs[:1])

    def optimizer_fn(strength):
        mask = {"kernel": True, "bias": False}
        decay = optax.add_decayed_weights(strength, mask)
        return optax.chain(decay, optax.sgd(0.2))

    train = make_train(
        model, optax.losses.squared_error, optimizer_fn, None, data, num_steps=400
    )
    strengths, n = jnp.array([0.01, 0.3, 2.0]), 25
    results = jax.jit(jax.vmap(train, (None, 0, None)))(key, strengths, n)
    for i, strength in enumerate(strengths):
        # Ridge sums the squared errors and halves no penalty.
        ridge = Ridge(alpha=n * float(strength) / 2)
        ridge.fit(data.inputs[:n], data.targets[:n, 0])
        kernel = results.variables["params"]["kernel"][i, :, 0]
        np.testing.assert_allclose(kernel, ridge.coef_, atol=1e-5)


def test_record_r_is_a_run_of_that_many_epochs(key):
    options = {"batch_size": 5}
    whole = jax.jit(train_mlp(num_epochs=6, record_every=2, **options))(key, 0.01, 11)
    part = jax.jit(train_mlp(num_epochs=4, **options))(key, 0.01, 11)
    assert whole.train_loss.shape == (4,)
    np.testing.assert_allclose(whole.train_loss[:3:2], part.train_loss, rtol=1e-6)


@pytest.mark.parametrize("num_examples", [12, 16])
def test_an_epoch_sees_each_of_the_first_examples_once(key, num_examples):
    seen = counter(20)(key, num_examples, num_epochs=3, batch_size=4)
    expected = np.where(np.arange(20) < num_examples, 3 / 4, 0)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_the_last_mini_batch_of_an_epoch_may_be_short(key):
    seen = counter(20)(key, 10, num_epochs=1, batch_size=4)
    # Two batches of four and one of two, each of total weight one.
    np.testing.assert_allclose(np.sort(seen[:10]), [0.25] * 8 + [0.5] * 2, atol=1e-6)
    assert not seen[10:].any()


def test_steps_draw_among_the_first_examples_only(key):
    seen = counter(20)(key, 10, num_steps=50, batch_size=4)
    np.testing.assert_allclose(seen.sum(), 50, rtol=1e-5)
    assert (seen[:10] > 0).all() and not seen[10:].any()
    assert len(np.unique(seen[:10].round(3))) > 1


def test_example_weights_of_the_dataset_count(key):
    data = regression()
    kept = np.arange(24) % 3 > 0
    weighted = train_mlp(data=data._replace(weights=jnp.asarray(kept, jnp.float32)))
    fewer = train_mlp(data=jax.tree.map(lambda x: x[kept], data))
    a, b = jax.jit(weighted)(key, 0.01), jax.jit(fewer)(key, 0.01)
    chex.assert_trees_all_close(a, b, atol=1e-6)


def test_initialisation_sees_the_first_examples_inside_the_trace(key):
    def mean_bias(key, model, variables, batches):
        def add(total, batch):
            return total + batch.weights @ batch.targets / batch.weights.sum()

        bias = batches.fold(add, jnp.zeros(2))
        return set_layer(variables, model.head, bias=bias), {"bias": bias}

    data = regression()
    train = train_mlp(lambda _: optax.sgd(0.0), mean_bias, num_epochs=1)
    sizes = jnp.array([3, 24])
    result = jax.jit(jax.vmap(train, (None, None, 0)))(key, 0.0, sizes)
    expected = np.stack([data.targets[:3].mean(0), data.targets.mean(0)])
    np.testing.assert_allclose(result.info["bias"], expected, atol=1e-6)
    bias = result.variables["params"]["head"]["bias"]
    np.testing.assert_allclose(bias, expected, atol=1e-6)


def test_data_may_be_a_function_of_the_key():
    def clouds(key):
        inputs = jax.random.normal(key, (24, 3))
        return Batch(inputs, inputs[:, :2])

    train = jax.jit(train_mlp(data=clouds, validation=clouds, num_epochs=2))
    a, b, c = (train(jax.random.key(i), 0.0) for i in (0, 0, 1))
    chex.assert_trees_all_equal(a, b)
    assert a.train_loss[0] != c.train_loss[0]
    assert a.train_loss[0] != a.validation_loss[0]


def test_a_diverged_member_is_frozen_and_harms_nobody(key):
    train = train_mlp(lambda rate: optax.sgd(rate), num_epochs=30, record_every=10)
    rates = jnp.array([0.05, 1e4, 0.1])
    family = jax.jit(jax.vmap(train, (None, 0, None)))(key, rates, 24)
    np.testing.assert_array_equal(family.diverged, [False, True, False])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(family.variables))
    for i in (0, 2):
        alone = jax.jit(train)(key, rates[i], 24)
        member = jax.tree.map(lambda x, i=i: x[i], family)
        chex.assert_trees_all_close(member, alone, atol=1e-6)


def test_a_non_finite_start_is_flagged(key):
    data = regression()
    broken = data._replace(inputs=data.inputs.at[0, 0].set(jnp.nan))
    result = jax.jit(train_mlp(data=broken))(key, 0.0)
    assert result.diverged
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.variables))


def test_strength_may_be_any_pytree(key):
    def optimizer_fn(strength):
        return optax.chain(
            optax.add_decayed_weights(strength["decay"]), optax.sgd(strength["rate"])
        )

    train = jax.jit(train_mlp(optimizer_fn))
    result = train(key, {"decay": jnp.float32(0.05), "rate": jnp.float32(0.1)})
    expected = jax.jit(train_mlp())(key, jnp.float32(0.05))
    chex.assert_trees_all_close(result, expected, atol=1e-6)


def test_state_and_dropout_go_through_the_loop(key):
    data = regression(n=32, k=1)
    model = lagrange_jax.models.linen.as_model(
        Noisy(), data.inputs[:1], train_kwargs={"train": True}
    )
    loss = optax.losses.squared_error
    train = make_train(model, loss, optax.adam, None, data, num_epochs=40, batch_size=8)
    result = jax.jit(train)(key, 0.02, 30)
    assert result.train_loss[-1] < 0.5 * result.train_loss[0]
    # The measured loss is that of inference with the running averages.
    outputs = Noisy().apply(result.variables, data.inputs[:30])
    expected = np.mean((outputs - data.targets[:30]) ** 2)
    np.testing.assert_allclose(result.train_loss[-1], expected, rtol=1e-5)
    means = jax.tree.leaves(result.variables["batch_stats"])
    assert all(np.abs(x).max() > 0 for x in means)


def test_targets_without_output_axis_meet_one_column(key):
    data = regression(k=1)
    model = lagrange_jax.models.linen.as_model(nn.Dense(1), data.inputs[:1])
    runs = [
        make_train(
            model, optax.losses.squared_error, ridge_sgd, None, batch, num_epochs=3
        )
        for batch in (data, data._replace(targets=data.targets[:, 0]))
    ]
    chex.assert_trees_all_equal(*(jax.jit(run)(key, 0.1) for run in runs))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"num_epochs": 2, "num_steps": 2}, "exactly one of num_epochs and num_steps"),
        ({"batch_size": 2}, "exactly one of num_epochs and num_steps"),
        ({"num_epochs": 5, "record_every": 2}, "record_every to divide the 5"),
        ({"num_epochs": 0}, "at least 1"),
    ],
)
def test_a_contradictory_schedule_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        train_mlp(**schedule)


def test_a_mean_instead_of_losses_is_refused(key):
    def mean_squared_error(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    train = make_train(
        mlp(), mean_squared_error, ridge_sgd, None, regression(), num_epochs=1
    )
    with pytest.raises(ValueError, match="one loss an example"):
        train(key, 0.0)
