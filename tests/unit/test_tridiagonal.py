"""The routes without a d x d eigendecomposition, against the one with it.

How near they come to the optimum over all families of problems is tested beside the
first route, in `test_least_squares`.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lagrange_jax as lj
from lagrange_jax.numerics.tridiagonal import extreme_eigenvalues, tridiagonalize
from tests import oracles

OPTIONS = ("relation", "use_bias", "method", "exact")


def problem(seed=0, n=40, d=7, k=3, scale=1.0):
    rng = np.random.default_rng(seed)
    features = scale * (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 1)
    return features, features @ rng.normal(size=(d, k)) + rng.normal(size=(n, k))


@functools.partial(jax.jit, static_argnames=OPTIONS)
def solve(features, targets, norm_sq, tie_break=None, **options):
    moments = lj.compute_moments(features, targets)
    return lj.solve_least_squares(moments, norm_sq, tie_break=tie_break, **options)


@functools.partial(jax.jit, static_argnames=OPTIONS)
def solve_thin(
    features, targets, norm_sq, tie_break=None, weights=None, use_bias=True, **options
):
    spectrum = lj.statistics.decompose_gram(
        features, targets, weights, use_bias=use_bias
    )
    return lj.solvers.solve_spectrum(spectrum, norm_sq, tie_break=tie_break, **options)


def agree(found, wanted, tolerance=1e-9):
    """Two heads are the same; what bounds their rounding may differ."""
    names = ("kernel", "bias", "multiplier", "norm_sq", "objective", "status")
    for name in (*names, "is_hard_case", "is_global"):
        a, b = getattr(found, name), getattr(wanted, name)
        scale = np.abs(b).max() + 1e-3
        np.testing.assert_allclose(
            np.asarray(a, float) / scale,
            np.asarray(b, float) / scale,
            atol=tolerance,
            err_msg=name,
        )
    assert found.stationarity.max() <= 1e-12 and found.gap_bound.max() < np.inf


@pytest.mark.parametrize(
    ("relation", "per_output"), [("equality", True), ("at_most", False)]
)
def test_tridiagonal_is_the_same_head(x64, relation, per_output):
    features, targets = problem()
    free = (oracles.minimum_norm(features, targets) ** 2).sum(0)
    for ratio in (1e-6, 0.3, 4.0, 1e4):
        norm_sq = ratio * (free if per_output else free.sum())
        options = dict(relation=relation, use_bias=per_output)
        found = solve(features, targets, norm_sq, method="tridiagonal", **options)
        wanted = solve(features, targets, norm_sq, method="eigh", **options)
        agree(found, wanted)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_tridiagonal_has_no_unit(scale):
    features, targets = (a.astype(np.float32) for a in problem(scale=scale))
    found = solve(features, targets, np.float32(2), method="tridiagonal")
    wanted = solve(features, targets, np.float32(2))
    np.testing.assert_allclose(found.kernel, wanted.kernel, atol=2e-4)
    assert found.status == lj.Status.SUCCESS and found.is_global


def test_tridiagonal_without_any_load_takes_the_tie_break_to_the_bottom(x64):
    features, _ = problem()
    tie_break = np.random.default_rng(1).normal(size=(7, 2))
    targets = np.full((40, 2), 7.0)
    for first_free, status in ((5, lj.Status.SUCCESS), (0, lj.Status.NO_VARIANCE)):
        features[:, first_free:] = 0
        arguments = features, targets, np.ones(2), tie_break
        found = solve(*arguments, method="tridiagonal")
        assert found.status == status and np.all(found.is_hard_case)
        wanted = tie_break[first_free:]
        wanted = wanted / np.linalg.norm(wanted, axis=0)
        np.testing.assert_allclose(found.kernel[first_free:], wanted, atol=1e-9)


def test_few_features_are_too_few_for_a_tridiagonal_form(x64):
    features, targets = problem(d=2)
    found = solve(features, targets, np.ones(3), method="tridiagonal")
    agree(found, solve(features, targets, np.ones(3)))


def test_extreme_eigenvalues_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for scale in (1e-20, 1.0, 1e20):
        matrix = (scale * np.cov(rng.normal(size=(12, 30)))).astype(np.float32)
        form = tridiagonalize(jnp.asarray(matrix))
        wanted = np.linalg.eigvalsh(matrix.astype(float))
        found = form.unit * extreme_eigenvalues(form)
        np.testing.assert_allclose(found, wanted[[0, -1]], atol=4e-7 * wanted[-1])


@pytest.mark.parametrize(
    ("relation", "per_output"), [("equality", True), ("at_most", False)]
)
def test_thin_is_the_same_head_free_part_included(x64, relation, per_output):
    features, targets = problem(n=6, d=15)
    tie_break = np.random.default_rng(1).normal(size=(15, 3))
    free = (oracles.minimum_norm(features, targets) ** 2).sum(0)
    for ratio in (0.3, 1e2):
        norm_sq = ratio * (free if per_output else free.sum())
        arguments = features, targets, norm_sq, tie_break
        options = dict(relation=relation, use_bias=per_output)
        # The free part meets rounding in the one and none in the other.
        agree(solve_thin(*arguments, **options), solve(*arguments, **options), 0.02)


def test_thin_with_weights_and_with_an_output_variance(x64):
    features, targets = problem(n=6, d=15)
    weights = np.array([1.0, 0, 2, 1, 0, 0.5])
    features[1] = np.nan
    arrays = map(jnp.asarray, (features, targets, weights))
    thin = solve_thin(features, targets, np.ones(3), weights=weights)
    moments = lj.compute_moments(*arrays)
    agree(thin, lj.solve_least_squares(moments, np.ones(3)), 0.02)
    thin = solve_thin(features, targets, np.ones(3), weights=weights, exact=True)
    agree(thin, lj.solve_least_squares(moments, np.ones(3), exact=True))


def test_both_routes_batch(x64):
    batch = [problem(seed, n=8, d=9) for seed in range(3)]
    features, targets = (np.stack(a) for a in zip(*batch, strict=True))
    for route in (functools.partial(solve, method="tridiagonal"), solve_thin):
        together = jax.vmap(lambda x, t, f=route: f(x, t, np.full(3, 2.0)))
        found = together(features, targets)
        for i, pair in enumerate(batch):
            one = jax.tree.map(lambda a, i=i: a[i], found)
            chex.assert_trees_all_close(
                one.kernel, route(*pair, np.full(3, 2.0)).kernel, atol=0.02
            )


def test_what_they_cannot_do_is_refused():
    features, targets = (a.astype(np.float32) for a in problem(n=6, d=15))
    with pytest.raises(ValueError, match="expected method"):
        solve(features, targets, 1.0, method="qr")
    with pytest.raises(ValueError, match="exact=False"):
        solve(features, targets, 1.0, method="tridiagonal", exact=True)
    for route in (functools.partial(solve, method="tridiagonal"), solve_thin):
        value = lambda x, f=route: f(x, targets, 1.0).kernel.sum()  # noqa: E731
        with pytest.raises(ValueError, match="has no derivative"):
            jax.grad(value)(features)
    with pytest.raises(ValueError, match="fewer examples than features"):
        solve_thin(features[:, :6], targets, 1.0)
