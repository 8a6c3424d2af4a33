"""The evidence against the density of a Gaussian and scikit-learn's BayesianRidge."""

import jax
import numpy as np
import pytest
from scipy.linalg import helmert
from scipy.stats import multivariate_normal
from sklearn.linear_model import BayesianRidge

import lagrange_jax.ridge.marginal_likelihood as evidence_module
from lagrange_jax.ridge.marginal_likelihood import negative_log_evidence
from lagrange_jax.ridge.selection import choose_strength
from tests.unit.test_ridge import BIAS, ROUTES, SHAPES, problem, spectrum_of

evidence = jax.jit(evidence_module.evidence)


def contrasts(features, targets, use_bias):
    """Rows that a bias of flat prior leaves: all differences, orthonormal."""
    if not use_bias:
        return features, targets
    matrix = helmert(len(features))
    return matrix @ features, matrix @ targets


@BIAS
@SHAPES
@ROUTES
def test_evidence_is_the_density_of_the_targets(x64, n, d, use_bias, route):
    features, targets, _ = problem(n, d)
    spectrum = spectrum_of(features, targets, None, use_bias, route)
    x, t = contrasts(features, targets, use_bias)
    for strength in (1e-2, 1.0, 100.0):
        found = evidence(spectrum, strength)
        for j in range(3):
            noise, prior = found.noise_variance[j], found.prior_variance[j]
            np.testing.assert_allclose(2 * noise / (prior * n), strength, 1e-12)

            def log_density(noise, j=j, ratio=strength * n / 2):
                covariance = noise * (np.eye(len(x)) + x @ x.T / ratio)
                density = multivariate_normal(cov=covariance).logpdf(t[:, j])
                return density - use_bias * np.log(n) / 2

            best = log_density(float(noise))
            np.testing.assert_allclose(found.log_evidence[j], best, 1e-9)
            assert best > max(log_density(1.01 * noise), log_density(0.99 * noise))


@BIAS
def test_best_strength_is_that_of_bayesian_ridge(x64, use_bias):
    features, targets, _ = problem(60, 8)
    spectrum = spectrum_of(features, targets, None, use_bias)
    criterion = negative_log_evidence
    choice = choose_strength(spectrum, criterion, per_output=True)
    x, t = contrasts(features, targets, use_bias)
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    for j in range(3):
        model = BayesianRidge(max_iter=10_000, tol=1e-12, fit_intercept=False, **flat)
        model.fit(x, t[:, j])
        wanted = 2 * model.lambda_ / (model.alpha_ * len(features))
        assert choice.edge[j] == 0
        np.testing.assert_allclose(choice.strength[j], wanted, 1e-5)
        one = evidence(spectrum, choice.strength)
        np.testing.assert_allclose(1 / one.noise_variance[j], model.alpha_, 1e-5)
        np.testing.assert_allclose(1 / one.prior_variance[j], model.lambda_, 1e-5)


def test_weights_count_examples(x64):
    features, targets, _ = problem(20, 4)
    times = np.arange(20) % 3
    repeated = [np.repeat(a, times, axis=0) for a in (features, targets)]
    found = evidence(spectrum_of(features, targets, times.astype(float)), 0.3)
    wanted = evidence(spectrum_of(*repeated), 0.3)
    np.testing.assert_allclose(found, wanted, 1e-10)


def test_no_strength_has_no_evidence(x64):
    spectrum = spectrum_of(*problem())
    assert (evidence(spectrum, 0.0).log_evidence == -np.inf).all()


@pytest.mark.parametrize("use_bias", [True, False])
def test_single_precision_and_vmap(use_bias):
    strengths = np.geomspace(0.01, 10, 4, dtype=np.float32)
    spectrum = spectrum_of(*problem(dtype=np.float32), use_bias)
    criterion = negative_log_evidence
    found = jax.jit(jax.vmap(criterion, (None, 0)))(spectrum, strengths)
    with jax.enable_x64(True):
        exact = spectrum_of(*problem(), use_bias)
        wanted = [criterion(exact, float(strength)) for strength in strengths]
    np.testing.assert_allclose(found, wanted, 1e-4)
