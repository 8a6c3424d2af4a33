from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.linear_model import ElasticNet, Lasso, Ridge

from lagrange_jax.transforms import penalties
from lagrange_jax.transforms.masks import kernels_only
from lagrange_jax.transforms.proximal import prox_elastic_net, prox_l1, proximal_adam

STEPS = 2000
RATE = 0.3


def adam_rate():
    return optax.cosine_decay_schedule(0.1, STEPS)


def regression(seed=0, n=60, d=12):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, d))
    truth = np.r_[2.0, -1.5, 1.0, np.zeros(d - 3)]
    return inputs, 0.7 + inputs @ truth + 0.3 * rng.normal(size=n)


def updated(params, updates) -> Any:
    return optax.apply_updates(params, updates)


def minimise(tx, inputs, targets, steps=STEPS) -> Any:
    """Minimises half the mean squared error of a linear model from zero."""

    def loss(params):
        residual = inputs @ params["kernel"] + params["bias"] - targets
        return 0.5 * jnp.mean(residual**2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (updated(params, updates), state), None

    params = {"kernel": jnp.zeros(inputs.shape[1]), "bias": jnp.zeros(())}
    # Optax's Adam and its schedules rely on JAX's usual promotion.
    with jax.numpy_dtype_promotion("standard"):
        carry = params, tx.init(params)
        (params, _), _ = jax.lax.scan(step, carry, length=steps)
    return params


def sgd_l1(s1, s2):
    del s2
    return optax.chain(optax.sgd(RATE), prox_l1(s1, RATE, mask=kernels_only))


def sgd_net(s1, s2):
    return optax.chain(
        optax.sgd(RATE), prox_elastic_net(s1, s2, RATE, mask=kernels_only)
    )


def momentum_net(s1, s2):
    prox = prox_elastic_net(s1, s2, RATE / (1 - 0.5), mask=kernels_only)
    return optax.chain(optax.sgd(RATE, momentum=0.5), prox)


def scheduled_net(s1, s2):
    rate = optax.cosine_decay_schedule(RATE, STEPS, alpha=0.5)
    return optax.chain(
        optax.sgd(rate), prox_elastic_net(s1, s2, rate, mask=kernels_only)
    )


def adam_net(s1, s2):
    return proximal_adam(adam_rate(), s1, s2, mask=kernels_only)


def fit_oracle(inputs, targets, s1, s2):
    """scikit-learn's optimum of half the mean squared error and the elastic net."""
    if s1 == 0.0:
        model = Ridge(s2 * len(targets))
    elif s2 == 0.0:
        model = Lasso(s1, tol=1e-13, max_iter=100_000)
    else:
        model = ElasticNet(
            s1 + s2, l1_ratio=s1 / (s1 + s2), tol=1e-13, max_iter=100_000
        )
    return model.fit(inputs, targets)


@pytest.mark.parametrize(
    ("make", "s1", "s2"),
    [
        (sgd_l1, 0.2, 0.0),
        (sgd_net, 0.2, 0.3),
        (sgd_net, 0.0, 0.3),
        (momentum_net, 0.2, 0.3),
        (scheduled_net, 0.2, 0.3),
        (adam_net, 0.2, 0.0),
        (adam_net, 0.2, 0.3),
        (adam_net, 0.0, 0.3),
    ],
)
def test_same_optimum_and_zeros_as_scikit_learn(x64, make, s1, s2):
    inputs, targets = regression()
    params = minimise(make(s1, s2), inputs, targets)
    oracle = fit_oracle(inputs, targets, s1, s2)
    np.testing.assert_allclose(params["kernel"], oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(params["bias"], oracle.intercept_, atol=1e-5)
    np.testing.assert_array_equal(params["kernel"] == 0, oracle.coef_ == 0)
    assert (np.sum(oracle.coef_ == 0) >= 5) == (s1 > 0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: optax.chain(optax.adam(adam_rate()), prox_l1(s, adam_rate())),
        lambda s: optax.chain(optax.sgd(RATE, momentum=0.5), prox_l1(s, RATE)),
    ],
    ids=["adam", "momentum"],
)
def test_the_wrong_chain_is_wrong(x64, wrong):
    inputs, targets = regression()
    params = minimise(wrong(0.2), inputs, targets - targets.mean())
    oracle = Lasso(0.2, tol=1e-13).fit(inputs, targets)
    assert np.abs(params["kernel"] - oracle.coef_).max() > 0.05


@pytest.mark.parametrize("make", [sgd_net, adam_net])
def test_vmap_over_strengths_is_the_loop(x64, make):
    inputs, targets = regression()
    strengths = jnp.array([0.0, 0.03, 0.4])

    def train(s1):
        return minimise(make(s1, 0.1), inputs, targets, steps=300)["kernel"]

    batch = jax.jit(jax.vmap(train))(strengths)
    for one, strength in zip(batch, strengths, strict=True):
        np.testing.assert_allclose(one, train(float(strength)), atol=1e-12)
    assert np.all(np.diff(np.sum(batch == 0, axis=1)) > 0)


def test_plain_adam_where_nothing_is_penalised(key):
    params = {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.ones(2)}

    def train(tx) -> Any:
        state, new = tx.init(params), params
        for i in range(3):
            grads = jax.tree.map(lambda w: jnp.sin(w + i), params)  # noqa: B023
            updates, state = tx.update(grads, state, new)
            new = updated(new, updates)
        return new

    with jax.numpy_dtype_promotion("standard"):
        ours = train(proximal_adam(0.1, 0.5, mask=kernels_only))
        theirs = train(optax.adam(0.1))
    np.testing.assert_allclose(ours["bias"], theirs["bias"], rtol=1e-6)
    assert np.all(ours["kernel"] != theirs["kernel"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("make", [sgd_net, adam_net])
def test_dtype_zeros_none_leaves_and_boxes(key, make, dtype):
    kernel = jax.random.normal(key, (5, 4)).astype(dtype).at[0, 0].set(0)
    params = {"layer": {"kernel": kernel, "bias": None}, "bias": jnp.ones(2, dtype)}
    boxed = jax.tree.map(lambda w: nn.Partitioned(w, ("data",) * w.ndim), params)

    def step(params):
        tx = make({"layer": jnp.float32(100.0), "bias": 0.0}, 0.1)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        return updated(params, updates)

    with jax.numpy_dtype_promotion("standard"):
        new, inside = step(params), step(boxed)
    assert new["layer"]["bias"] is None and new["layer"]["kernel"].dtype == dtype
    # The threshold exceeds every weight, and the bias is not selected.
    np.testing.assert_array_equal(new["layer"]["kernel"], 0)
    np.testing.assert_array_equal(new["bias"], params["bias"])
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(inside), new)


def test_exact_zeros_from_low_precision_gradients(key):
    params = {"w": jax.random.normal(key, (50,))}
    grads = {"w": jnp.zeros(50, jnp.bfloat16)}
    tx = prox_l1(10.0, 1.0)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updated(params, updates)["w"], 0)


def test_strength_per_layer(x64):
    inputs, targets = regression()
    half = inputs.shape[1] // 2
    strength = {"kernel": jnp.r_[jnp.full(half, 0.1), jnp.full(half, 0.4)], "bias": 0.0}
    tx = optax.chain(optax.sgd(RATE), prox_l1(strength, RATE))
    params = minimise(tx, inputs, targets)
    # The Lasso with weighted coefficients is the Lasso on inputs divided by them.
    weights = np.asarray(strength["kernel"])
    oracle = Lasso(1.0, tol=1e-13, max_iter=100_000).fit(inputs / weights, targets)
    np.testing.assert_allclose(params["kernel"], oracle.coef_ / weights, atol=1e-5)
    np.testing.assert_array_equal(params["kernel"] == 0, oracle.coef_ == 0)


@pytest.mark.parametrize(
    "make", [lambda s: prox_l1(s, 0.1), lambda s: proximal_adam(0.1, s)]
)
def test_schedules_of_the_strength_and_missing_params(make):
    params = {"w": jnp.ones(3)}
    tx, constant = make(lambda count: 100.0 * (count == 1)), make(0.0)
    state, reference = tx.init(params), constant.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        first, state = jax.jit(tx.update)(grads, state, params)
        second, state = jax.jit(tx.update)(grads, state, params)
        expected, _ = jax.jit(constant.update)(grads, reference, params)
    jax.tree.map(np.testing.assert_allclose, first, expected)
    np.testing.assert_array_equal(updated(params, second)["w"], 0)
    assert optax.tree.get(state, "count") == 2
    with pytest.raises(ValueError, match="not passing `params`"):
        tx.update(grads, state)


def test_constants_keep_no_state():
    assert prox_l1(0.1, 0.1).init({}) == optax.EmptyState()
    assert prox_l1(0.1, lambda count: 0.1).init({}) == penalties.PenaltyState(0)


@pytest.mark.parametrize("make", [sgd_net, adam_net])
def test_nnx_optimizer(make):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, make(1000.0, 0.0), wrt=nnx.Param)
    grads = nnx.grad(lambda m: 0.0 * jnp.sum(m.kernel[...]))(model)
    with jax.numpy_dtype_promotion("standard"):
        optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(after["kernel"], 0)
    np.testing.assert_array_equal(after["bias"], before["bias"])
