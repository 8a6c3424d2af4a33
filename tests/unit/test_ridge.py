"""The ridge path against scikit-learn, NumPy and its own definition."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

import lagrange_jax.ridge.path as ridge
from lagrange_jax.ridge.path import (
    multiplier_to_strength,
    ridge_path,
    strength_to_multiplier,
)
from lagrange_jax.statistics.gram import decompose_gram
from lagrange_jax.statistics.moments import compute_moments
from lagrange_jax.statistics.spectrum import decompose
from tests.heads import solve_norm

solve_ridge = jax.jit(ridge.solve_ridge)
ridge_loss = jax.jit(ridge.ridge_loss)
norm_of_strength = jax.jit(ridge.norm_of_strength)
strength_of_norm = jax.jit(ridge.strength_of_norm)
degrees_of_freedom = jax.jit(ridge.degrees_of_freedom)

STRENGTHS = np.geomspace(1e-4, 1e3, 8)
BIAS = pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no_bias"])
SHAPES = pytest.mark.parametrize("n, d", [(60, 8), (9, 20)], ids=["tall", "wide"])
ROUTES = pytest.mark.parametrize("route", ["moments", "gram"])


def problem(n=60, d=8, k=3, seed=0, dtype: Any = np.float64) -> Any:
    """Features of unequal scales and means; weights with zeros among them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * np.linspace(0.3, 2, d) + rng.normal(size=d)
    targets = features @ rng.normal(size=(d, k)) + rng.normal(size=(n, k)) + 1.5
    weights = rng.uniform(0.2, 2, size=n) * (rng.uniform(size=n) > 0.2)
    return tuple(a.astype(dtype) for a in (features, targets, weights))


@partial(jax.jit, static_argnames=("use_bias", "route"))
def spectrum_of(features, targets, weights=None, use_bias=True, route="moments"):
    if route == "gram":
        return decompose_gram(features, targets, weights, use_bias=use_bias)
    return decompose(compute_moments(features, targets, weights), use_bias=use_bias)


def design(features, targets, weights, use_bias):
    """Rows times the root of their weight's share, centred where there is a bias."""
    share = weights / weights.sum()
    if use_bias:
        features = features - share @ features
        targets = targets - share @ targets
    root = np.sqrt(share)[:, None]
    return root * features, root * targets


def condition(spectrum, strength):
    s = np.maximum(spectrum.eigenvalues, 0)
    return (s[-1] + strength / 2) / (s[0] + strength / 2)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@BIAS
@SHAPES
@ROUTES
@pytest.mark.parametrize("weighted", [True, False], ids=["weights", "ones"])
def test_path_is_that_of_scikit_learn(x64, n, d, use_bias, route, weighted):
    features, targets, weights = problem(n, d)
    weights = weights if weighted else None
    spectrum = spectrum_of(features, targets, weights, use_bias, route)
    path = ridge_path(spectrum, STRENGTHS)
    count = n if weights is None else weights.sum()
    for i, strength in enumerate(STRENGTHS):
        model = Ridge(alpha=count * strength / 2, fit_intercept=use_bias)
        model.fit(features, targets, sample_weight=weights)
        tolerance = max(1e-13, 16 * condition(spectrum, strength) * 2.0**-52)
        assert relative(path.kernel[i].T, model.coef_) < tolerance
        if use_bias:
            assert relative(path.bias[i], model.intercept_) < tolerance
        else:
            assert not np.any(path.bias[i])


@SHAPES
@ROUTES
def test_no_strength_is_the_pseudo_inverse(x64, n, d, route):
    features, targets, weights = problem(n, d)
    head = solve_ridge(spectrum_of(features, targets, weights, route=route), 0.0)
    x, t = design(features, targets, weights, True)
    assert relative(head.kernel, np.linalg.pinv(x) @ t) < 1e-11


@BIAS
@SHAPES
@ROUTES
def test_loss_norm_and_degrees_of_freedom(x64, n, d, use_bias, route):
    features, targets, weights = problem(n, d)
    spectrum = spectrum_of(features, targets, weights, use_bias, route)
    x, _ = design(features, targets, weights, use_bias)
    for strength in [0.0, *STRENGTHS]:
        head = solve_ridge(spectrum, strength)
        kernel, bias = map(np.asarray, head)
        errors = features @ kernel + bias - targets
        loss = weights @ errors**2 / weights.sum()
        # An interpolated target leaves the rounding error of the residual.
        noise = 1e-24 * np.asarray(spectrum.variance).max()
        np.testing.assert_allclose(ridge_loss(spectrum, strength), loss, 1e-9, noise)
        norm = np.sum(kernel**2, axis=0)
        np.testing.assert_allclose(norm_of_strength(spectrum, strength), norm, 1e-12)
        hat = (
            x @ np.linalg.pinv(np.vstack([x, np.sqrt(strength / 2) * np.eye(d)]))[:, :n]
        )
        found = degrees_of_freedom(spectrum, strength)
        assert found.shape == ()
        np.testing.assert_allclose(found, np.trace(hat), 1e-10)


def test_a_strength_is_twice_the_multiplier(x64):
    assert strength_to_multiplier(jnp.float64(3.0)) == 1.5
    assert multiplier_to_strength(jnp.float64(1.5)) == 3.0
    features, targets, _ = problem()
    spectrum = spectrum_of(features, targets)

    def objective(kernel):
        errors = (features - features.mean(0)) @ kernel - (targets - targets.mean(0))
        return jnp.sum(errors**2) / len(features) + 0.7 / 2 * jnp.sum(kernel**2)

    head = solve_ridge(spectrum, 0.7)
    np.testing.assert_allclose(jax.grad(objective)(head.kernel), 0, atol=1e-13)
    solution = solve_norm(spectrum, norm_of_strength(spectrum, 0.7))
    np.testing.assert_allclose(multiplier_to_strength(solution.multiplier), 0.7, 1e-11)
    assert relative(solution.kernel, head.kernel) < 1e-12


@SHAPES
@ROUTES
def test_norm_and_strength_are_inverse_maps(x64, n, d, route):
    spectrum = spectrum_of(*problem(n, d)[:2], route=route)
    for strength in STRENGTHS:
        norm = norm_of_strength(spectrum, strength)
        found = strength_of_norm(spectrum, norm)
        np.testing.assert_allclose(found, np.full(3, strength), 1e-9)
        found = strength_of_norm(spectrum, norm.sum())
        assert found.shape == ()
        np.testing.assert_allclose(found, strength, 1e-9)
    largest = norm_of_strength(spectrum, 0.0)
    assert not np.any(strength_of_norm(spectrum, 1.01 * largest))
    assert strength_of_norm(spectrum, 1.01 * largest.sum()) == 0


def test_one_strength_an_output(x64):
    spectrum = spectrum_of(*problem())
    each = jnp.array([0.1, 1.0, 10.0])
    head = solve_ridge(spectrum, each)
    for function in (norm_of_strength, ridge_loss, degrees_of_freedom):
        found = function(spectrum, each)
        for j, strength in enumerate(each):
            one = solve_ridge(spectrum, strength)
            np.testing.assert_array_equal(head.kernel[:, j], one.kernel[:, j])
            alone = jnp.broadcast_to(function(spectrum, strength), (3,))[j]
            np.testing.assert_allclose(found[j], alone, 1e-15)
    two = ridge_path(spectrum, jnp.stack([each, 2 * each]))
    assert two.kernel.shape == (2, 8, 3) and two.bias.shape == (2, 3)


@pytest.mark.parametrize("function", [norm_of_strength, ridge_loss, degrees_of_freedom])
def test_derivative_in_the_strength(x64, function):
    spectrum, step = spectrum_of(*problem()), 1e-5
    total = lambda strength: jnp.sum(function(spectrum, strength))  # noqa: E731
    slope = (total(0.5 + step) - total(0.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(0.5), slope, 1e-8)


@ROUTES
def test_vmap_is_a_loop_and_jit_changes_nothing(x64, route):
    spectrum = spectrum_of(*problem(), route=route)
    path = ridge_path(spectrum, STRENGTHS)
    losses = jax.jit(jax.vmap(ridge_loss, (None, 0)))(spectrum, STRENGTHS)
    for i, strength in enumerate(STRENGTHS):
        kernel = ridge.solve_ridge(spectrum, strength).kernel
        np.testing.assert_allclose(path.kernel[i], kernel, 1e-12, 1e-15)
        np.testing.assert_allclose(
            losses[i], ridge.ridge_loss(spectrum, strength), 1e-12
        )
    data = [problem(seed=seed) for seed in range(3)]
    stacked = [np.stack(arrays) for arrays in zip(*data, strict=True)]
    many = jax.vmap(partial(spectrum_of, route=route))(*stacked)
    heads = jax.vmap(solve_ridge, (0, None))(many, 0.3)
    for i, arrays in enumerate(data):
        one = solve_ridge(spectrum_of(*arrays, route=route), 0.3)
        assert relative(heads.kernel[i], one.kernel) < 1e-12


@SHAPES
@ROUTES
def test_single_precision(n, d, route):
    spectrum = spectrum_of(*problem(n, d, dtype=np.float32), route=route)
    assert spectrum.projections.dtype == jnp.float32
    features, targets, weights = problem(n, d)
    x, t = design(features, targets, weights, True)
    for strength in (0.01, 1.0, 100.0):
        wanted = np.linalg.solve(x.T @ x + strength / 2 * np.eye(d), x.T @ t)
        tolerance = 16 * condition(spectrum, strength) * 2.0**-23
        assert relative(solve_ridge(spectrum, strength).kernel, wanted) < tolerance
        loss = np.sum((x @ wanted - t) ** 2, axis=0)
        floor = 1e-6 * np.asarray(spectrum.variance).max()
        np.testing.assert_allclose(ridge_loss(spectrum, strength), loss, 1e-4, floor)


def test_empty_features_and_rows_of_weight_zero(x64):
    features, targets, weights = problem()
    features[weights == 0], targets[weights == 0] = np.nan, np.inf
    for route in ("moments", "gram"):
        spectrum = spectrum_of(features, targets, weights, route=route)
        used = weights > 0
        clean = spectrum_of(features[used], targets[used], weights[used], route=route)
        wanted = solve_ridge(clean, 0.3)
        assert relative(solve_ridge(spectrum, 0.3).kernel, wanted.kernel) < 1e-12
        nothing = spectrum_of(np.ones((5, 3)), targets[used][:5], route=route)
        for strength in (0.0, 1.0):
            assert not np.any(solve_ridge(nothing, strength).kernel)
            loss = ridge_loss(nothing, strength)
            np.testing.assert_allclose(loss, targets[used][:5].var(0), 1e-14)


def test_mistakes_are_named():
    spectrum = spectrum_of(*problem(dtype=np.float32))
    with pytest.raises(ValueError, match="ridge_path"):
        solve_ridge(spectrum, jnp.ones(4))
    with pytest.raises(ValueError, match="norm_sq"):
        strength_of_norm(spectrum, jnp.ones(4))
