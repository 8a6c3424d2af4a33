"""A strength means the same optimum, or the same updates, in every unit."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, special
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

import lagrange_jax as lj

N, B, RATE = 150, 25, 0.01
SETTING: dict[str, Any] = {"num_examples": N, "batch_size": B, "learning_rate": RATE}
OBJECTIVES: dict[Any, Any] = {
    "cross_entropy": ("mean_loss", "summed_loss", "sklearn_C", "glmnet_lambda"),
    "squared_error": (
        *("mean_loss", "summed_loss", "sklearn_Ridge_alpha", "sklearn_MLP_alpha"),
        *("glmnet_lambda", "multiplier", "head_norm_sq"),
    ),
}
DECAYS: Any = ("decay", "raw_decay", "timescale_steps", "timescale_epochs")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, 4))
    signal = features @ np.array([1.0, -0.5, 0.2, 0.0])
    return features, signal + rng.normal(size=N)


@pytest.fixture(scope="module")
def spectrum(data):
    features, targets = (jnp.asarray(x, jnp.float32) for x in data)
    return lj.decompose(lj.compute_moments(features, targets[:, None]))


def minimise(data, strength, loss, penalty):
    """The mean loss and its penalty, by SciPy; an L1 weight is two positive parts."""
    features, targets = data
    labels = np.where(targets > 0, 1.0, -1.0)

    def objective(theta):
        w, bias = theta[:4] - theta[4:8], theta[8]
        outputs = features @ w + bias
        if loss == "squared_error":
            each, slope = (outputs - targets) ** 2, 2 * (outputs - targets)
        else:
            each = np.logaddexp(0, -labels * outputs)
            slope = -labels * special.expit(-labels * outputs)
        gradient = features.T @ slope / N
        value, size = each.mean(), theta[:8].sum()
        both = np.concatenate([gradient, -gradient, [slope.mean()]])
        if penalty == "l2":
            both[:8] += strength * np.concatenate([w, -w])
            return value + strength / 2 * (w**2).sum(), both
        both[:8] += strength
        return value + strength * size, both

    bounds = [(0, None)] * 8 + [(None, None)]
    tight = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000}
    found = optimize.minimize(
        objective, np.zeros(9), jac=True, bounds=bounds, options=tight
    )
    return found.x[:4] - found.x[4:8]


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_round_trips_of_objectives(loss, spectrum):
    for first, second in itertools.permutations(OBJECTIVES[loss], 2):
        kwargs: dict[str, Any] = dict(SETTING, loss=loss, spectrum=spectrum)
        value = 0.3
        there = lj.convert_strength(value, first, second, **kwargs)
        back = lj.convert_strength(there, second, first, **kwargs)
        np.testing.assert_allclose(back, value, 1e-4, err_msg=f"{first} {second}")


@pytest.mark.parametrize("first, second", list(itertools.permutations(DECAYS, 2)))
def test_round_trips_of_decays(first: Any, second: Any):
    value = np.geomspace(1e-4, 10.0, 7)
    there = lj.convert_strength(value, first, second, **SETTING)
    back = lj.convert_strength(there, second, first, **SETTING)
    np.testing.assert_allclose(back, value, 1e-12)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("strength", [0.003, 0.05])
def test_logistic_regression_has_the_same_optimum(data, penalty, strength):
    features, targets = data
    C = lj.convert_strength(
        strength, "mean_loss", "sklearn_C", penalty=penalty, num_examples=N
    )
    ratio = {"l1": 1.0, "l2": 0.0}[penalty]
    oracle = LogisticRegression(
        C=C, l1_ratio=ratio, solver="saga", tol=1e-9, max_iter=20000
    ).fit(features, targets > 0)
    wanted = minimise(data, strength, "cross_entropy", penalty)
    np.testing.assert_allclose(oracle.coef_[0], wanted, atol=2e-5)


def test_ridge_and_lasso_have_the_same_optimum(data, spectrum):
    features, targets = data
    kwargs: dict[str, Any] = dict(loss="squared_error", num_examples=N)
    alpha = lj.convert_strength(0.2, "mean_loss", "sklearn_Ridge_alpha", **kwargs)
    ridge = Ridge(alpha).fit(features, targets).coef_
    wanted = minimise(data, 0.2, "squared_error", "l2")
    np.testing.assert_allclose(ridge, wanted, atol=1e-5)
    norm = lj.convert_strength(
        0.2, "mean_loss", "head_norm_sq", loss="squared_error", spectrum=spectrum
    )
    np.testing.assert_allclose(norm, (wanted**2).sum(), rtol=1e-4)
    kwargs["penalty"] = "l1"
    alpha = lj.convert_strength(0.2, "mean_loss", "sklearn_Lasso_alpha", **kwargs)
    lasso = Lasso(alpha, tol=1e-10).fit(features, targets).coef_
    np.testing.assert_allclose(
        lasso, minimise(data, 0.2, "squared_error", "l1"), atol=1e-5
    )
    same = lj.convert_strength(alpha, "sklearn_Lasso_alpha", "glmnet_lambda", **kwargs)
    assert same == pytest.approx(alpha)


def adamw(gradient, w, decay, steps, is_multiplied):
    """Written out, with the decay multiplied by the rate or not."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * step - (RATE if is_multiplied else 1.0) * decay * w
    return w


def test_adamw_multiplies_its_decay_by_the_rate(x64):
    def gradient(w):
        return 2 * (w - 1.5)

    start, tau = np.array([0.5, -2.0]), 40.0
    decay = lj.convert_strength(tau, "timescale_steps", "decay", **SETTING)
    raw = lj.convert_strength(decay, "decay", "raw_decay", **SETTING)
    assert decay == pytest.approx(1 / (RATE * tau)) and raw == pytest.approx(1 / tau)
    ours = adamw(gradient, start, decay, 30, True)
    np.testing.assert_allclose(adamw(gradient, start, raw, 30, False), ours, 1e-12)
    optimizer = optax.adamw(RATE, weight_decay=decay)
    params: Any = jnp.asarray(start)
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(30):
            updates, state = optimizer.update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, ours, rtol=1e-6)


def test_the_timescale_is_that_of_forgetting():
    decay = lj.convert_strength(20.0, "timescale_epochs", "decay", **SETTING)
    steps = round(20.0 * N / B)
    w = adamw(lambda w: 0 * w, np.ones(1), decay, steps, True)
    np.testing.assert_allclose(w, np.exp(-1), rtol=0.01)


def test_gradient_descent_makes_a_penalty_of_a_decay():
    decay = lj.convert_strength(0.3, "mean_loss", "decay", optimizer="sgd")
    assert decay == 0.3
    pairs: Any = (("mean_loss", "decay"), ("timescale_steps", "sklearn_C"))
    for first, second in pairs:
        with pytest.raises(ValueError, match="optimizer='sgd'"):
            lj.convert_strength(0.3, first, second, **SETTING)


def test_strengths_may_be_traced():
    convert = jax.jit(
        lambda s, n: lj.convert_strength(s, "mean_loss", "sklearn_C", num_examples=n)
    )
    assert convert(0.5, 4.0) == 0.5


def test_mistakes_are_named():
    convert = lj.convert_strength
    with pytest.raises(ValueError, match="from_"):
        convert(1.0, "C", "mean_loss")  # pyright: ignore
    with pytest.raises(ValueError, match="num_examples for the unit"):
        convert(1.0, "sklearn_C", "mean_loss")
    with pytest.raises(ValueError, match="value as positive"):
        convert(0.0, "mean_loss", "sklearn_C", num_examples=5)
    with pytest.raises(ValueError, match="num_examples as positive"):
        convert(1.0, "mean_loss", "sklearn_C", num_examples=0)
    with pytest.raises(ValueError, match="unit of L1"):
        convert(1.0, "mean_loss", "sklearn_Lasso_alpha", loss="squared_error")
    with pytest.raises(ValueError, match="unit of L2"):
        convert(1.0, "mean_loss", "multiplier", penalty="l1", loss="squared_error")
    with pytest.raises(ValueError, match="unit of loss='squared_error'"):
        convert(1.0, "mean_loss", "multiplier")
    with pytest.raises(TypeError, match="value"):
        convert("1e-3", "mean_loss", "sklearn_C", num_examples=5)
