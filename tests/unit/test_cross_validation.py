"""Leave-one-out and its generalisation against refits and scikit-learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

import lagrange_jax.ridge.criteria as leave_one_out_module
from lagrange_jax.ridge.criteria import leave_one_out
from tests.unit.test_ridge import BIAS, ROUTES, SHAPES, problem, spectrum_of

gcv = jax.jit(leave_one_out_module.gcv)
leave_one_out_errors = jax.jit(leave_one_out_module.leave_one_out_errors)


def refits(features, targets, weights, strength, use_bias):
    """The error of every example under a fit to all others."""
    alpha = weights.sum() * strength / 2
    errors = np.empty_like(targets)
    for i in range(len(features)):
        rest = np.arange(len(features)) != i
        model = Ridge(alpha=alpha, fit_intercept=use_bias)
        model.fit(features[rest], targets[rest], sample_weight=weights[rest])
        errors[i] = targets[i] - model.predict(features[i : i + 1])[0]
    return errors


@BIAS
@SHAPES
@ROUTES
def test_errors_are_those_of_refits(x64, n, d, use_bias, route):
    features, targets, weights = problem(n, d)
    spectrum = spectrum_of(features, targets, weights, use_bias, route)
    wanted = refits(features, targets, weights, 0.1, use_bias)
    # Thin eigenvectors do not reach examples of weight zero: those may stick out.
    seen = weights > 0 if route == "gram" else slice(None)
    found = leave_one_out_errors(spectrum, features, targets, 0.1, weights)
    np.testing.assert_allclose(found[seen], wanted[seen], 1e-9)
    criterion: Any = leave_one_out(features, targets, weights)
    total = weights @ wanted**2 / weights.sum()
    np.testing.assert_allclose(criterion(spectrum, 0.1), total, 1e-9)


def test_errors_are_those_of_scikit_learn(x64):
    features, targets, _ = problem(40, 6)
    spectrum = spectrum_of(features, targets)
    strengths = np.geomspace(1e-3, 10, 5)
    model = RidgeCV(alphas=40 * strengths / 2, store_cv_results=True)
    model.fit(features, targets)
    errors = jax.vmap(leave_one_out_errors, (None, None, None, 0))(
        spectrum, features, targets, strengths
    )
    squares = np.moveaxis(np.square(errors), 0, -1)
    np.testing.assert_allclose(squares, model.cv_results_, 1e-10, 1e-14)


@pytest.mark.parametrize("n", [700, 1024, 1100])
def test_blocks_of_rows_add_up(x64, n):
    features, targets, weights = problem(n, 4, k=2)
    spectrum = spectrum_of(features, targets, weights)
    errors = leave_one_out_errors(spectrum, features, targets, 0.1, weights)
    wanted = weights @ np.square(errors) / weights.sum()
    features[weights == 0] = np.nan
    criterion = jax.jit(leave_one_out(features, targets, weights))
    np.testing.assert_allclose(criterion(spectrum, 0.1), wanted, 1e-12)


def test_one_strength_an_output(x64):
    features, targets, weights = problem(30, 5)
    spectrum = spectrum_of(features, targets, weights)
    each = jnp.array([0.1, 1.0, 10.0])
    for criterion in (leave_one_out(features, targets, weights), gcv):
        found = jax.jit(criterion)(spectrum, each)
        alone = jax.jit(jax.vmap(criterion, (None, 0)))(spectrum, each)
        np.testing.assert_allclose(found, np.diag(alone), 1e-13)


def test_an_example_that_only_itself_speaks_for(x64):
    features, targets = np.eye(6)[:, :3], np.arange(6.0)[:, None]
    spectrum = spectrum_of(features, targets)
    errors = leave_one_out_errors(spectrum, features, targets, 0.0)
    assert np.isinf(errors[:3]).all() and np.isfinite(errors[3:]).all()
    wide = spectrum_of(*problem(9, 20)[:2])
    assert np.isinf(gcv(wide, 0.0)).all()


@BIAS
@SHAPES
@ROUTES
def test_gcv_is_its_definition(x64, n, d, use_bias, route):
    features, targets, _ = problem(n, d)
    spectrum = spectrum_of(features, targets, None, use_bias, route)
    x = features - features.mean(0) if use_bias else features
    for strength in (1e-3, 0.1, 10.0):
        hat = x @ np.linalg.solve(x.T @ x + n * strength / 2 * np.eye(d), x.T)
        hat += use_bias / n
        errors = targets - hat @ targets
        wanted = np.mean(errors**2, axis=0) / (1 - np.trace(hat) / n) ** 2
        found = gcv(spectrum, strength)
        # Both are small numbers over small numbers where a wide fit is near perfect.
        np.testing.assert_allclose(found, wanted, 1e-7)


def test_gcv_is_leave_one_out_where_leverages_are_equal(x64):
    angles = 2 * np.pi * np.arange(12) / 12
    features = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    targets = jax.random.normal(jax.random.key(0), (12, 2)) + features
    spectrum = spectrum_of(features, targets)
    wanted = leave_one_out(features, targets)(spectrum, jnp.float64(0.3))
    np.testing.assert_allclose(gcv(spectrum, 0.3), wanted, 1e-12)


def test_single_precision():
    exact = problem(60, 8)
    x, t, weights = problem(60, 8, dtype=np.float32)
    spectrum = spectrum_of(x, t, weights)
    found = leave_one_out_errors(spectrum, x, t, 0.1, weights)
    assert found.dtype == jnp.float32
    wanted = refits(exact[0], exact[1], exact[2], 0.1, True)
    np.testing.assert_allclose(found, wanted, 1e-3, 1e-4)
