from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.linear_model import Lasso, Ridge

import lagrange_jax.transforms.penalties as penalties
from lagrange_jax.transforms.masks import by_path, head_only, kernels_only

MAKERS = {
    "l1": lambda s, mask=None: penalties.add_l1_penalty(s, mask=mask),
    "l2": lambda s, mask=None: penalties.add_l2_penalty(s, mask=mask),
    "net": lambda s, mask=None: penalties.add_elastic_net_penalty(s, 2.0, mask=mask),
}
VALUES = {
    "l1": lambda w, s, mask=None: penalties.l1_penalty(w, s, mask=mask),
    "l2": lambda w, s, mask=None: penalties.l2_penalty(w, s, mask=mask),
    "net": lambda w, s, mask=None: penalties.elastic_net_penalty(w, s, 2.0, mask=mask),
}
KINDS = pytest.mark.parametrize("kind", ["l1", "l2", "net"])


def dictionary(key, dtype=jnp.float32) -> Any:
    keys = iter(jax.random.split(key, 4))
    return {
        name: {
            "kernel": jax.random.normal(next(keys), (3, 2), dtype),
            "bias": jax.random.normal(next(keys), (2,), dtype),
        }
        for name in ("hidden", "head")
    }


def added(tx, params, count=1) -> Any:
    """What the last of `count` updates adds to zero gradients."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(zeros, state, params)
    return updates


def assert_trees_equal(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def regression(seed=0, n=60, d=8):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, d))
    truth = np.r_[2.0, -1.5, 1.0, np.zeros(d - 3)]
    return inputs, 0.7 + inputs @ truth + 0.3 * rng.normal(size=n)


def minimise(tx, inputs, targets, steps) -> Any:
    """Minimises half the mean squared error of a linear model from zero."""

    def loss(params):
        residual = inputs @ params["kernel"] + params["bias"] - targets
        return 0.5 * jnp.mean(residual**2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": jnp.zeros(inputs.shape[1]), "bias": jnp.zeros(())}
    # Optax's Adam and its schedules rely on JAX's usual promotion.
    with jax.numpy_dtype_promotion("standard"):
        carry = params, tx.init(params)
        (params, _), _ = jax.lax.scan(step, carry, length=steps)
    return params


@KINDS
def test_adds_the_gradient_of_the_reported_penalty(key, kind):
    params = dictionary(key)
    expected = jax.grad(VALUES[kind])(params, 0.3, kernels_only)
    actual = added(MAKERS[kind](0.3, kernels_only), params)
    assert_trees_equal(actual, expected, rtol=1e-6)


def test_penalty_values(key):
    params = dictionary(key)
    kernel, bias = (np.asarray(params["head"][n]) for n in ("kernel", "bias"))
    l1, l2 = np.abs(kernel).sum(), 0.5 * np.square(kernel).sum()
    mask = head_only(("head", "kernel"))
    np.testing.assert_allclose(
        penalties.l1_penalty(params, 3.0, mask=mask), 3 * l1, 1e-6
    )
    np.testing.assert_allclose(
        penalties.l2_penalty(params, 3.0, mask=mask), 3 * l2, 1e-6
    )
    value = penalties.elastic_net_penalty(params, 2.0, jnp.float32(3.0), mask=mask)
    np.testing.assert_allclose(value, 2 * l1 + 3 * l2, 1e-6)
    layers = {"hidden": 0.0, "head": {"kernel": 0.0, "bias": 2.0}}
    value = penalties.l1_penalty(params, layers)
    np.testing.assert_allclose(value, 2 * np.abs(bias).sum(), 1e-6)
    assert penalties.l2_penalty({}, 1.0) == 0.0


def test_penalty_value_is_summed_in_single_precision():
    params = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(3), "c": None}
    value = penalties.l1_penalty(params, 1.0)
    assert value.dtype == jnp.float32 and value == 1003.0


@KINDS
def test_zero_weights_get_no_gradient(kind):
    params = {"w": jnp.array([0.0, -0.0, 1.0])}
    update = added(MAKERS[kind](0.5), params)["w"]
    assert update[0] == 0.0 and update[1] == 0.0 and update[2] > 0.0


@KINDS
def test_strength_per_layer_and_per_weight(key, kind):
    params = dictionary(key)
    per_weight = jnp.arange(6.0).reshape(3, 2)
    layers = {"hidden": 0.1, "head": {"kernel": per_weight, "bias": jnp.float32(0.3)}}
    actual = added(MAKERS[kind](layers), params)
    for_layer = {s: added(MAKERS[kind](s), params) for s in (0.1, 0.3, 1.0, 0.0)}
    assert_trees_equal(actual["hidden"], for_layer[0.1]["hidden"], rtol=1e-6)
    head = for_layer[0.3]["head"]["bias"]
    np.testing.assert_allclose(actual["head"]["bias"], head, rtol=1e-6)
    zero, one = (for_layer[s]["head"]["kernel"] for s in (0.0, 1.0))
    expected = zero + per_weight * (one - zero)
    np.testing.assert_allclose(actual["head"]["kernel"], expected, rtol=1e-5)


@KINDS
def test_masks_of_each_kind(key, kind):
    params = dictionary(key)
    full, none = added(MAKERS[kind](0.3), params), jax.tree.map(jnp.zeros_like, params)
    expected = {"hidden": none["hidden"], "head": full["head"]}
    for mask in (
        {"hidden": False, "head": True},
        lambda p: {name: name == "head" for name in p},
        head_only(("head",)),
        by_path("head/.*"),
    ):
        assert_trees_equal(added(MAKERS[kind](0.3, mask), params), expected)


@KINDS
def test_schedules_are_evaluated_at_the_step_count(key, kind):
    params = dictionary(key)
    schedule = optax.piecewise_constant_schedule(0.5, {2: 0.1})
    tx = MAKERS[kind]({"hidden": schedule, "head": 0.2})
    assert tx.init(params) == penalties.PenaltyState(0)
    with jax.numpy_dtype_promotion("standard"):
        early, late = added(tx, params, count=1), added(tx, params, count=4)
    for actual, strength in ((early, 0.5), (late, 0.05)):
        expected = added(MAKERS[kind]({"hidden": strength, "head": 0.2}), params)
        assert_trees_equal(actual, expected, rtol=1e-6)


@KINDS
def test_constants_keep_no_state_and_missing_params_raise(key, kind):
    params = dictionary(key)
    tx = MAKERS[kind](jnp.float32(0.1))
    assert tx.init(params) == optax.EmptyState()
    with pytest.raises(ValueError) as of_optax:
        optax.add_decayed_weights(0.1).update(params, optax.EmptyState(), None)
    with pytest.raises(ValueError) as ours:
        tx.update(params, tx.init(params))
    assert str(ours.value) == str(of_optax.value)


@KINDS
def test_vmap_over_traced_strengths_is_the_loop(key, kind):
    params = dictionary(key)
    strengths = jnp.array([0.0, 0.1, 1.0])
    batch = jax.jit(jax.vmap(lambda s: added(MAKERS[kind](s), params)))(strengths)
    for i, strength in enumerate(strengths):
        one = added(MAKERS[kind](float(strength)), params)
        assert_trees_equal(jax.tree.map(lambda x: x[i], batch), one, rtol=1e-6)  # noqa: B023


@KINDS
def test_bfloat16_none_leaves_and_boxes(key, kind):
    params = dictionary(key, jnp.bfloat16)
    params["head"]["bias"] = None
    boxed = jax.tree.map(lambda w: nn.Partitioned(w, ("data",) * w.ndim), params)
    strength = {"hidden": jnp.float32(0.1), "head": 0.2}
    plain = added(MAKERS[kind](strength, mask=kernels_only), params)
    inside = added(MAKERS[kind](strength, mask=kernels_only), boxed)
    assert plain["head"]["bias"] is None
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(plain))
    assert jax.tree.structure(inside) == jax.tree.structure(boxed)
    assert_trees_equal(nn.unbox(inside), plain)


@KINDS
def test_nnx_optimizer(kind):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = optax.chain(MAKERS[kind](0.1, kernels_only), optax.sgd(0.5))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda m: 0.0 * jnp.sum(m.kernel[...]))(model))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    expected = before["kernel"] - 0.5 * added(MAKERS[kind](0.1), before)["kernel"]
    np.testing.assert_allclose(after["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], before["bias"])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_coupled_l2_is_ridge_regression(x64, optimizer):
    inputs, targets = regression()
    alpha = 12.0
    strength = alpha / len(targets)  # Half the mean squared error.
    if optimizer == "sgd":
        scaling = optax.sgd(0.5)
    else:
        scaling = optax.adam(optax.cosine_decay_schedule(0.1, 2000))
    tx = optax.chain(penalties.add_l2_penalty(strength, mask=kernels_only), scaling)
    params = minimise(tx, inputs, targets, steps=2000)
    oracle = Ridge(alpha).fit(inputs, targets)
    np.testing.assert_allclose(params["kernel"], oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(params["bias"], oracle.intercept_, atol=1e-5)


def test_decoupled_l2_in_adam_is_not_ridge_regression(x64):
    inputs, targets = regression()
    tx = optax.chain(
        optax.scale_by_adam(),
        penalties.add_l2_penalty(12.0 / len(targets), mask=kernels_only),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 2000)),
    )
    params = minimise(tx, inputs, targets, steps=2000)
    oracle = Ridge(12.0).fit(inputs, targets)
    assert np.abs(params["kernel"] - oracle.coef_).max() > 0.05


def test_subgradient_comes_near_the_lasso_without_zeros(x64):
    inputs, targets = regression()
    rate = optax.cosine_decay_schedule(0.1, 3000)
    tx = optax.chain(penalties.add_l1_penalty(0.2, mask=kernels_only), optax.sgd(rate))
    params = minimise(tx, inputs, targets, steps=3000)
    oracle = Lasso(0.2, tol=1e-12).fit(inputs, targets)
    np.testing.assert_allclose(params["kernel"], oracle.coef_, atol=1e-3)
    assert np.sum(oracle.coef_ == 0) >= 3 and np.all(params["kernel"] != 0)
