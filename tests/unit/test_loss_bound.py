"""The smallest head within a bound on the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from lagrange_jax.bounds import Problem
from lagrange_jax.constraints.from_data import loss_within
from lagrange_jax.solvers.least_squares import solve_least_squares
from lagrange_jax.statistics.moments import compute_moments
from lagrange_jax.statistics.spectrum import decompose
from tests.heads import solve_norm


def make_spectrum(noise=0.5, n=200, d=6, k=2, scale=1.0):
    random = np.random.default_rng(0)
    features = random.normal(size=(n, d)) * np.geomspace(1, 0.1, d)
    targets = features @ random.normal(size=(d, k)) + noise * random.normal(size=(n, k))
    moments = compute_moments(jnp.asarray(features), jnp.asarray(scale * targets))
    return decompose(moments)


def losses(spectrum, kernel):
    kernel, s = np.asarray(kernel), np.asarray(spectrum.covariance)
    quadratic = (kernel * (s @ kernel - 2 * np.asarray(spectrum.cross))).sum(0)
    return np.asarray(spectrum.variance) + quadratic


@pytest.mark.parametrize("factor", [1.1, 1.5, 3.0])
def test_least_norm_within_the_bound(x64, factor):
    spectrum = make_spectrum()
    norm_sq = loss_within(factor).radius_sq(Problem(spectrum))
    solution = solve_norm(spectrum, norm_sq)
    s, r = np.asarray(spectrum.covariance), np.asarray(spectrum.cross)
    least = losses(spectrum, np.linalg.solve(s, r))
    variance = np.asarray(spectrum.variance)
    bound = np.minimum(factor * least, (least + variance) / 2)
    np.testing.assert_allclose(losses(spectrum, solution.kernel), bound, rtol=1e-5)
    # An independent solver of the problem as it is stated.
    for j in range(2):
        oracle = minimize(
            lambda w: w @ w,
            np.linalg.solve(s, r[:, j]),
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda w, j=j: (
                    bound[j] - (variance[j] + w @ s @ w - 2 * r[:, j] @ w)
                ),
            },
            options={"ftol": 1e-12, "maxiter": 300},
        )
        assert float(norm_sq[j]) == pytest.approx(oracle.fun, rel=1e-4)
    assert np.all(np.asarray(solution.multiplier) > 0)


def test_scale_of_the_targets_does_not_matter(x64):
    one, other = (
        loss_within().radius_sq(Problem(make_spectrum(scale=scale)))
        for scale in (1.0, 1e3)
    )
    np.testing.assert_allclose(other, 1e6 * one, rtol=1e-6)


def test_weak_features_keep_half_of_what_they_explain(x64):
    spectrum = make_spectrum(noise=50.0)
    solution = solve_least_squares(spectrum, loss_within(1.5))
    kernel = np.linalg.solve(spectrum.covariance, spectrum.cross)
    kept = np.asarray(spectrum.variance) - losses(spectrum, solution.kernel)
    most = np.asarray(spectrum.variance) - losses(spectrum, kernel)
    np.testing.assert_allclose(kept / most, 0.5, rtol=1e-4)


def test_one_bound_for_all_outputs_traced_factor_and_float32():
    spectrum = make_spectrum()
    assert loss_within(per_output=False).radius_sq(Problem(spectrum)).shape == ()
    family = jax.vmap(lambda f: loss_within(f).radius_sq(Problem(spectrum)))
    norms = np.asarray(family(jnp.array([1.1, 1.5, 3.0])))
    assert np.all(np.diff(norms, axis=0) < 0)


def test_bad_factor():
    with pytest.raises(ValueError, match="factor > 1"):
        loss_within(1.0)
