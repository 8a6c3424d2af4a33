"""The spectrum against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.numerics.linalg import rank_tolerance
from lagrange_jax.statistics.spectrum import eigenpairs


@functools.partial(jax.jit, static_argnames="use_bias")
def spectrum_of(features, targets, weights=None, use_bias=True):
    moments = lj.compute_moments(features, targets, weights)
    return lj.decompose(moments, use_bias=use_bias)


@pytest.mark.parametrize("use_bias", [True, False])
def test_it_diagonalises_the_problem(x64, use_bias):
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(30, 5)) + 2, rng.normal(size=(30, 2)) - 1
    weights = rng.uniform(size=30)
    spectrum = spectrum_of(features, targets, weights, use_bias)
    a = weights / weights.sum()
    if use_bias:
        features, targets = features - a @ features, targets - a @ targets
    covariance = features.T @ (a[:, None] * features)
    cross = features.T @ (a[:, None] * targets)
    values, basis = spectrum.eigenvalues, np.asarray(spectrum.eigenvectors)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(covariance), rtol=1e-12)
    np.testing.assert_allclose(
        basis @ np.diag(values) @ basis.T, covariance, atol=1e-12
    )
    np.testing.assert_allclose(basis @ spectrum.projections, cross, atol=1e-12)
    np.testing.assert_allclose(spectrum.variance, a @ targets**2)
    np.testing.assert_allclose(spectrum.count, weights.sum())
    assert bool(np.any(spectrum.mean_x)) == use_bias


def test_eigenvectors_are_constants_to_differentiation():
    # Their derivative is NaN where eigenvalues repeat, as they do here.
    features = jnp.eye(4)

    def total(features):
        spectrum = spectrum_of(features, features[:, :1])
        return sum(jnp.sum(part) for part in spectrum[:3]) + spectrum.variance.sum()

    assert np.isfinite(jax.grad(total)(features)).all()


def test_what_is_not_finite_stays_so():
    features = jnp.ones((3, 2)).at[0, 0].set(jnp.nan)
    spectrum = spectrum_of(features, features)
    assert not np.isfinite(spectrum.covariance).all()


def test_empty_directions_are_told_from_thin_ones(x64):
    rng = np.random.default_rng(0)
    for rank in (3, 8):
        root = rng.normal(size=(8, rank)) * np.geomspace(1e-4, 1, rank)
        values = jnp.linalg.eigvalsh(jnp.asarray(root @ root.T))
        assert int((values > rank_tolerance(values)).sum()) == rank


def test_only_few_columns_are_rotated():
    """By Jacobi's rotations a wide layer would take minutes instead of a second."""
    for d, is_rotated in ((64, True), (65, False)):
        program = str(jax.make_jaxpr(eigenpairs)(jnp.zeros((d, d))))
        assert ("while" in program) == is_rotated
