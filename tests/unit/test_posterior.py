"""What a head does not know: against scikit-learn, closed forms and simulation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import BayesianRidge, LogisticRegression

import lagrange_jax as lj
from lagrange_jax import losses, ridge, solvers

N, D, K = 50, 6, 2


@functools.cache
def data(seed=0, n=N, d=D):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.linspace(0.5, 2, d) + 3
    t = x @ rng.normal(size=(d, K)) + rng.normal(size=(n, K)) * [0.5, 2]
    new = rng.normal(size=(7, d)) * 2 + 3
    return tuple(jnp.asarray(a) for a in (x, t, new))


def test_it_is_that_of_bayesian_ridge(x64):
    x, t, new = data()
    spectrum = lj.decompose(lj.compute_moments(x, t))
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    rows, columns = np.asarray(x), np.asarray(t)
    for j in range(K):
        oracle = BayesianRidge(max_iter=10_000, tol=1e-14, **flat)
        oracle.fit(rows, columns[:, j])
        noise = float(1 / oracle.alpha_)
        strength = float(2 * oracle.lambda_ * noise / N)
        head = ridge.posterior(spectrum, strength, noise_variance=noise)
        covariance = ridge.kernel_covariance(head)[j]
        np.testing.assert_allclose(head.kernel[:, j], oracle.coef_, rtol=1e-8)
        np.testing.assert_allclose(covariance, oracle.sigma_, rtol=1e-8)
        mean, std = oracle.predict(np.asarray(new), return_std=True)
        found = ridge.predict(head, new)
        np.testing.assert_allclose(found.mean[:, j], mean, rtol=1e-8)
        # scikit-learn holds the bias for known.
        target_variance = found.target_variance[:, j] - 1 / oracle.alpha_ / N
        np.testing.assert_allclose(target_variance, std**2, rtol=1e-8)


@pytest.mark.parametrize("use_bias", [True, False])
def test_without_a_prior_it_is_that_of_least_squares(x64, use_bias):
    x, t, new = data()
    spectrum = lj.decompose(lj.compute_moments(x, t), use_bias=use_bias)
    head = ridge.posterior(spectrum, 0.0)
    rows = np.c_[x, np.ones(N)] if use_bias else np.asarray(x)
    _, squares, *_ = np.linalg.lstsq(rows, np.asarray(t))
    freedom = N - rows.shape[1]
    np.testing.assert_allclose(head.freedom, freedom)
    np.testing.assert_allclose(head.noise_variance, squares / freedom, rtol=1e-9)
    inverse = np.linalg.inv(rows.T @ rows)
    seen = np.c_[new, np.ones(len(new))] if use_bias else np.asarray(new)
    leverage = np.einsum("nd,de,ne->n", seen, inverse, seen)
    found = ridge.predict(head, new)
    wanted = leverage[:, None] * (squares / freedom)[None]
    np.testing.assert_allclose(found.variance, wanted, rtol=1e-8)


def test_thin_and_whole_spectra_know_the_same(x64):
    x, t, new = (a[:4] for a in data())
    whole = ridge.posterior(lj.decompose(lj.compute_moments(x, t)), 0.3)
    thin = ridge.posterior(lj.statistics.decompose_gram(x, t), 0.3)
    for use in (
        ridge.kernel_covariance,
        functools.partial(ridge.predict, features=new),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
            use(whole),
            use(thin),
        )


def test_nothing_is_known_where_there_is_neither_prior_nor_data():
    x = jnp.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    head = ridge.posterior(lj.decompose(lj.compute_moments(x, x[:, :1] ** 2)), 0.0)
    seen = ridge.predict(head, jnp.array([[1.0, 1.0], [1.0, 2.0]]))
    assert np.isfinite(seen.variance[0, 0]) and np.isinf(seen.variance[1, 0])


def test_intervals_of_a_regression_cover_as_promised():
    """95 % intervals by estimated noise and strength, of outputs and of new targets."""
    num_problems, n, d, sigma = 400, 40, 10, 1.5

    def simulate(key):
        keys = jax.random.split(key, 5)
        x, new = (jax.random.normal(k, (n, d)) for k in keys[:2])
        w = 0.7 * jax.random.normal(keys[2], (d, 1))
        noise = sigma * jax.random.normal(keys[3], (n, 1))
        spectrum = lj.decompose(lj.compute_moments(x, x @ w + noise))
        head = ridge.posterior(spectrum, lj.choose_strength(spectrum).strength)
        found = ridge.predict(head, new)
        targets = new @ w + sigma * jax.random.normal(keys[4], (n, 1))
        scores = [
            (new @ w - found.mean) / jnp.sqrt(found.variance),
            (targets - found.mean) / jnp.sqrt(found.target_variance),
        ]
        return scores, head.freedom

    keys = jax.random.split(jax.random.key(0), num_problems)
    scores, freedom = jax.jit(jax.vmap(simulate))(keys)
    limit = scipy.stats.t.ppf(0.975, freedom)[:, :, None]
    for score in scores:
        assert 0.93 < np.mean(np.abs(score) < limit) < 0.97


def test_of_squared_error_it_is_exact(x64):
    x, t, new = data()
    strength = 0.2
    spectrum = lj.decompose(lj.compute_moments(x, t))
    norm_sq = ridge.norm_of_strength(spectrum, strength).sum()
    bound = lj.constraints.fixed_norm(norm_sq, per_output=False)
    head = lj.solve_least_squares(spectrum, bound)
    found = solvers.laplace(
        (x, t), head, loss=losses.squared_error(), dispersion=2 * 1.3**2
    )
    exact = ridge.posterior(spectrum, strength, noise_variance=1.3**2)
    mean, covariance = solvers.predict_logits(found, new)
    wanted = ridge.predict(exact, new)
    np.testing.assert_allclose(mean, wanted.mean, rtol=1e-6)
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(variance, wanted.variance, rtol=1e-6)
    np.testing.assert_allclose(covariance[:, 0, 1], 0, atol=1e-12)


def head_of(kernel, bias, multiplier):
    """A record with what the posterior reads of a solution."""
    blank = dict.fromkeys(lj.HeadSolution._fields, jnp.zeros(()))
    given = dict(kernel=kernel, bias=bias, multiplier=multiplier)
    return lj.HeadSolution(**blank | given)


def softmax_hessian(x, probabilities, weights):
    """Kronecker products, example by example."""
    rows, total = np.c_[x, np.ones(len(x))], 0.0
    for row, p, a in zip(rows, probabilities, weights, strict=True):
        total += a * np.kron(np.outer(row, row), np.diag(p) - np.outer(p, p))
    return total


def test_of_softmax_its_precision_is_the_hessian(x64):
    x, _, new = data()
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(D, 3)), rng.normal(size=3)
    labels, weights = jnp.asarray(rng.integers(0, 3, N)), rng.uniform(0.5, 2, N)
    head = head_of(jnp.asarray(kernel), jnp.asarray(bias), jnp.asarray(0.05))
    batches = [
        (x[:30], labels[:30], jnp.asarray(weights[:30])),
        (x[30:], labels[30:], jnp.asarray(weights[30:])),
    ]
    found = solvers.laplace(batches, head)
    probabilities = jax.nn.softmax(x @ kernel + bias[None])
    precision = softmax_hessian(np.asarray(x), np.asarray(probabilities), weights)
    prior = np.r_[np.ones(D * 3), np.zeros(3)] * 2 * weights.sum() * 0.05
    inverse = np.linalg.pinv(precision + np.diag(prior), rcond=1e-10)
    rows = np.c_[new, np.ones(len(new))]
    wanted = np.einsum("nd,diej,ne->nij", rows, inverse.reshape(7, 3, 7, 3), rows)
    covariance = np.asarray(solvers.predict_logits(found, new)[1])
    # What is known of logits is their differences.
    for c in ([1, -1, 0], [0, 1, -1]):
        np.testing.assert_allclose(c @ covariance @ c, c @ wanted @ c, rtol=1e-7)


def test_intervals_of_a_logistic_regression_cover_as_promised():
    """Heads drawn from the prior; logits of new features within 95 % intervals."""
    num_problems, n, d, std = 150, 150, 4, 0.7
    rng = np.random.default_rng(2)
    solve: Any = jax.jit(solvers.laplace, static_argnames="use_bias")
    covered = []
    for _ in range(num_problems):
        x, new = rng.normal(size=(2, n, d)).astype(np.float32)
        w = std * rng.normal(size=d)
        labels = np.int32(x @ w + rng.logistic(size=n) > 0)
        oracle = LogisticRegression(C=std**2, tol=1e-8).fit(x, labels)
        kernel = jnp.asarray(oracle.coef_.T, jnp.float32)
        bias = jnp.asarray(oracle.intercept_, jnp.float32)
        multiplier = jnp.float32(1 / (2 * n * std**2))
        head = head_of(kernel, bias, multiplier)
        mean, covariance = solvers.predict_logits(solve((x, labels), head), new)
        score = (new @ w - mean[:, 0]) / jnp.sqrt(covariance[:, 0, 0])
        covered.append(np.abs(score) < 1.96)
    assert 0.93 < np.mean(covered) < 0.97


wrong: Any = ridge.RidgeHead(jnp.zeros((D, K)), jnp.zeros(K))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x, t, s: ridge.posterior(s, 1.0, noise_variance=jnp.ones(3)),
            ValueError,
            r"noise_variance of shape \[k=2\]",
        ),
        (
            lambda x, t, s: ridge.predict(ridge.posterior(s, 1.0), x[:, 1:]),
            ValueError,
            r"features of shape \[n=50, d=6\]",
        ),
        (
            lambda x, t, s: solvers.laplace((x, t), wrong),
            TypeError,
            "HeadSolution",
        ),
    ],
)
def test_mistakes_are_named(x64, call, error, message):
    x, t, _ = data()
    with pytest.raises(error, match=message):
        call(x, t, lj.decompose(lj.compute_moments(x, t)))
